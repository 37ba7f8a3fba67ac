module configregistry.test/pods

go 1.26
