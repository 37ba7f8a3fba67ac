module configregistry.test/crds

go 1.26

// Not compiled: their CRDs are what the chart's optional objects are checked against.
require (
	github.com/cert-manager/cert-manager v1.21.2
	github.com/prometheus-operator/prometheus-operator v0.85.0
)
