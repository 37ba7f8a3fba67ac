# Two commands do everything on a fresh machine: `make demo` and `make test`.
# Nothing outside this folder is touched but the user's cache directory.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
export PYTHONPATH := operator

.PHONY: help setup demo test test-fast e2e image audit lint format verify bench cluster-up cluster-down run lock clean

help: ## This list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): requirements-dev.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is needed (PYTHON=... to name one)" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, $(PYTHON) is older" >&2; exit 2; }
	@echo "setting up $(VENV) (once)"
	@$(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@

setup: $(READY) ## The Python environment alone

demo: $(READY) ## The whole story on a real API server: rollout, bad version, rollback (DEMO_KEEP=1 leaves it running)
	@$(PY) -m tests.demo

test: $(READY) ## All tests but the end-to-end ones; builds the test cluster on first use
	@$(PY) -m tests.cluster build
	@$(PY) -m tests.helm build
	@$(PY) -m tests.otel.build
	@$(PY) -m pytest -n 2 --dist loadgroup $(ARGS)

test-fast: $(READY) ## What needs no server
	@$(PY) -m pytest -n 2 tests/unit tests/property tests/contract $(ARGS)

e2e: $(READY) ## The charts on a real node, from helm install on (CLUSTER=own|kind|external; needs root or Docker)
	@$(PY) -m tests.cluster e2e -- $(ARGS)

image: $(READY) ## The container image as an OCI archive, without Docker (artifacts/configregistry.tar)
	@mkdir -p artifacts
	@$(PY) -m image --output artifacts/configregistry.tar

audit: $(READY) ## Known vulnerabilities of what the image and the charts bring along
	@$(PY) -m image.audit $(ARGS)

lint: $(READY) ## ruff, mypy --strict, import rules
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

format: $(READY) ## Let ruff write what it can
	@$(VENV)/bin/ruff check --fix . ; $(VENV)/bin/ruff format .

verify: $(READY) ## Generated parts of the docs are up to date (WRITE=1 makes them so)
	@$(PY) -m tests.verify $(if $(WRITE),--write)

bench: $(READY) ## All benchmarks; results to docs/benchmarks.md are copied by hand, with their command
	@$(PY) -m tests.bench $(ARGS)

cluster-up: $(READY) ## A real Kubernetes API on loopback, kubeconfig in .cluster/kubeconfig
	@$(PY) -m tests.cluster up

cluster-down: $(READY) ## End exactly what cluster-up started
	@$(PY) -m tests.cluster down

run: $(READY) ## The operator against the cluster of cluster-up
	@$(PY) -m tests.cluster kubectl apply --server-side -f crds/
	@$(PY) -m configregistry run --kubeconfig .cluster/kubeconfig $(ARGS)

lock: $(READY) ## Pin the dependencies anew, with hashes and without any index address
	@$(PY) -m pip install --quiet uv
	@$(VENV)/bin/uv pip compile --quiet pyproject.toml --generate-hashes --no-emit-index-url --no-annotate --no-header --python-version 3.11 --universal -o requirements.txt
	@$(VENV)/bin/uv pip compile --quiet pyproject.toml --extra dev --generate-hashes --no-emit-index-url --no-annotate --no-header --python-version 3.11 --universal -c requirements.txt -o requirements-dev.txt

clean: ## Remove what was made here (not the cache)
	@[ ! -e .cluster/node ] || $(PY) -m tests.cluster node down
	@[ ! -d .cluster ] || $(MAKE) --no-print-directory cluster-down
	@rm -rf $(VENV) .cluster artifacts .pytest_cache .mypy_cache .ruff_cache .hypothesis
