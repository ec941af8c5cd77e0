# Every target sets up what it needs: a machine with Python >= 3.11, pip and make is enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PROTO_VENV := .venv-protos
SOURCES := client sidecar control_plane
DATA_SEED ?= 0
SEEDS ?= 20
BENCH ?= all

.PHONY: help twin setup demo test test-peers check lint types contracts fmt protos bench soak ledger lock clean

help:  ## show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## create .venv with everything that development needs

$(STAMP): pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --requirement requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $(STAMP)

demo: setup  ## the whole life of a model, live, in under four minutes (DATA_SEED=n)
	$(BIN)/pilotfish demo --seed $(DATA_SEED)

test: setup  ## all hermetic tests (unit, integration, fault, contract)
	$(BIN)/python -m pytest tests/unit tests/contract tests/integration tests/fault

test-again: setup  ## only the tests that failed last time
	$(BIN)/python -m pytest --last-failed --last-failed-no-failures none tests/unit tests/contract tests/integration tests/fault

test-peers: setup  ## tests against foreign programs; installs them and fails when one is missing
	$(BIN)/python -m pytest tests/peers

check: lint types contracts  ## lint, types, import contracts, protos, generated code up to date
	$(BIN)/buf lint
	$(MAKE) --no-print-directory protos
	git diff --exit-code -- client/pilotfish/v1 client/pilotfish/oip client/pilotfish/tfserving

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: setup
	$(BIN)/mypy $(SOURCES)

contracts: setup
	$(BIN)/python -m pytest tests/contract -q

fmt: setup  ## format the code
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format --quiet .

protos: $(PROTO_VENV)/.installed  ## generate the stubs from protos/
	PATH="$(CURDIR)/$(PROTO_VENV)/bin:$$PATH" $(PROTO_VENV)/bin/python protos/generate.py

# An environment of its own: grpcio-tools 1.76.0 wants protobuf < 7, and its stubs serve 6.31 to 7.x.
$(PROTO_VENV)/.installed: protos/requirements.txt
	$(PYTHON) -m venv $(PROTO_VENV)
	$(PROTO_VENV)/bin/python -m pip install --quiet --requirement protos/requirements.txt
	touch $@

twin: setup  ## write the blocking client from the asynchronous one
	$(BIN)/python scripts/make_twin.py

bench: setup  ## figures as JSON lines (BENCH=drift|ingest|reaction|sidecar|tap|all)
	$(BIN)/python -m tests.benchmarks $(BENCH)

soak: setup  ## kills and simulators over many seeds (SEEDS=n)
	PILOTFISH_SEEDS=$(SEEDS) $(BIN)/python -m pytest tests/unit tests/fault -m soak -q

ledger: setup  ## fail when a row of docs/ledger.md that is not open has no passing test
	$(BIN)/python -m tests.ledger

lock: setup  ## pin every dependency again
	$(BIN)/uv pip compile --quiet --universal --all-extras --group dev --no-emit-index-url --generate-hashes pyproject.toml --output-file requirements.lock

clean:  ## remove environments and caches
	rm -rf $(VENV) $(PROTO_VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
