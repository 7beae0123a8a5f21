# `make help` lists the targets. Settings are environment variables: .env.example.
SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
# The first Python that is new enough; PYTHON=... chooses another.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

export DBT_PROFILES_DIR ?= profiles
export DO_NOT_TRACK := 1
export PYTHONUNBUFFERED := 1
# Where it is set, each of the many processes of a demo or a test run would compile the project anew.
unexport PYTHONDONTWRITEBYTECODE

##@ Use
.PHONY: demo
demo: setup ## From a lender's database to marts; run again for the world's next day (WORLD=berka: a real bank)
	@$(BIN)/python -m sandbox.demo

.PHONY: athena
athena: setup-dev ## The same path on Athena: a local one, with a real Trino behind it (docs/athena.md)
	@$(BIN)/python -m sandbox.athena

.PHONY: docs
docs: setup ## Serve the documentation and lineage graph of the last build (DOCS_PORT=8080)
	@$(BIN)/python -m sandbox.docs

.PHONY: report
report: setup-dev ## Charts of the marts on one static page, target/report.html
	@$(BIN)/python -m reporting

.PHONY: lineage
lineage: setup-dev ## Lineage of every column of the last build, at /lineage/ of `make docs`
	@$(BIN)/python -m reporting.lineage

.PHONY: setup
setup: $(VENV)/.installed dbt_packages/.installed ## Install what the demo needs into .venv

.PHONY: clean
clean: ## Remove the worlds, lakes and warehouses that the demo made
	@for world in synthetic berka; do \
		if [ -d .sandbox/$$world ]; then \
			SANDBOX_DIR=.sandbox $(BIN)/python -m sandbox down --world $$world --wipe || exit 1; fi; \
		if [ -d .sandbox/athena/$$world ]; then \
			SANDBOX_DIR=.sandbox/athena $(BIN)/python -m sandbox down --world $$world --wipe || exit 1; fi; done
	@if [ -d .sandbox/aws ]; then LOCAL_AWS_DIR=.sandbox/aws $(BIN)/python -m sandbox aws down; fi
	rm -rf .sandbox lake lake-berka warehouse.duckdb* warehouse-berka.duckdb* target logs

.PHONY: realtime
realtime: setup-dev ## Credit orders over HTTP, decided as they come, with traffic, on the demo's world; Ctrl-C ends it
	@$(BIN)/python -m realtime.demo

##@ Develop
.PHONY: test
# Three workers for two cores: much of a test is waiting.
test: setup-dev lint ## Lint, then the whole test suite
	@$(BIN)/python -m pytest --numprocesses 3

.PHONY: test-athena
test-athena: setup-dev ## The project on Athena: both worlds row by row as on DuckDB, readers, builds at once and killed
	@$(BIN)/python -m pytest -m athena --capture no --durations 0 tests/python

.PHONY: bench
bench: setup .cache/bench/peers/.installed ## Ingestion and warehouse beside their peers (docs/benchmarks.md)
	@$(BIN)/python -m benchmarks $(BENCH_OPTIONS)
	@$(BIN)/python -m benchmarks.apis
	@$(BIN)/python -m benchmarks.files
	@$(BIN)/python -m benchmarks.warehouse
	@$(BIN)/python -m benchmarks.queries

.cache/bench/peers/.installed: benchmarks/requirements.txt
	@$(PYTHON) -m venv --clear .cache/bench/peers
	@.cache/bench/peers/bin/pip install --quiet --disable-pip-version-check --requirement benchmarks/requirements.txt
	@touch $@

.PHONY: lint
lint: setup-dev ## ruff and sqlfluff
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@PYTHONWARNINGS=ignore:resource_tracker:UserWarning $(BIN)/sqlfluff lint --processes 2 models snapshots tests/singular tests/generic

.PHONY: format
format: setup-dev ## Let ruff and sqlfluff mend what they can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@$(BIN)/sqlfluff fix models snapshots tests/singular tests/generic

.PHONY: setup-dev
setup-dev: $(VENV)/.installed-dev dbt_packages/.installed .cache/web/.installed

# What the dashboard's page and its tests take from npm, by exact version and hash. All else does without npm.
.cache/web/.installed: realtime/dashboard/assets.py | $(VENV)/.installed-dev
	@if command -v npm > /dev/null; then \
		$(BIN)/python -m realtime.dashboard.assets && touch $@; \
	else echo "npm is missing: make realtime and the tests of the dashboard need it (Debian, Ubuntu: apt-get install npm)" >&2; fi

.PHONY: lock
lock: ## Pin what pyproject.toml asks for, with hashes, in requirements*.txt
	$(PYTHON) -m venv .cache/lock && .cache/lock/bin/pip install --quiet uv
	.cache/lock/bin/uv pip compile $(LOCK_OPTIONS) pyproject.toml --group dev --output-file requirements-dev.txt
	# Both are installed into one environment, so they agree on every version.
	.cache/lock/bin/uv pip compile $(LOCK_OPTIONS) pyproject.toml --constraint requirements-dev.txt --output-file requirements.txt

LOCK_OPTIONS := --quiet --universal --python-version 3.11 --generate-hashes --no-strip-extras \
	--no-header --no-emit-index-url --no-emit-find-links

# pip is the last thing that venv makes: without it, the environment is begun anew.
$(BIN)/pip:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer with venv found; install one, or set PYTHON=" >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV)

$(VENV)/.installed: requirements.txt | $(BIN)/pip
	@echo "installing the pinned dependencies into $(VENV) (about a minute, once) …"
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.txt
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt | $(BIN)/pip
	@echo "installing the pinned dependencies for development into $(VENV) …"
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-dev.txt
	@touch $@ $(VENV)/.installed

dbt_packages/.installed: packages.yml $(shell find offline_packages -type f -not -name '*.pyc') | $(VENV)/.installed
	@$(BIN)/python offline_packages/install.py
	@touch $@

.PHONY: soak
soak: setup-dev ## 200 runs killed with -9, on a folder and on S3, each verified (SOAK="--kills 20 --seed 7")
	@$(BIN)/python -m tests.soak $(SOAK)

.PHONY: soak-files
soak-files: setup-dev ## 100 runs over broken files killed with -9 (SOAK="--kills 20 --seed 7")
	@$(BIN)/python -m tests.soak.files $(SOAK)

.PHONY: soak-apis
soak-apis: setup-dev ## 100 API runs killed with -9, then every fault of the APIs with five seeds
	@API_KILLS=100 API_FAULTS_FULL=1 $(BIN)/python -m pytest -q -s tests/python/test_api_faults.py

.PHONY: soak-warehouse
soak-warehouse: setup-dev ## 30 dirty days of three worlds: built day by day, killed, compared (SOAK="--seeds 1")
	@$(BIN)/python tests/python/campaign.py --seeds 3 --days 30 $(SOAK)

.PHONY: guards
guards: setup-dev ## Take each guard out of a copy and see its test fail (GUARDS="lease verify")
	@$(BIN)/python -m tests.guards $(GUARDS)

.PHONY: soak-warehouse-athena
soak-warehouse-athena: setup-dev ## test-athena at length: larger worlds, all tests of dbt in each build
	@ATHENA_EQUALITY=full $(BIN)/python -m pytest -s -m athena tests/python

.PHONY: soak-athena-kills
soak-athena-kills: setup-dev ## 20 builds on Athena killed: dbt, Trino or AWS; the next ones compared (SOAK="--kills 5")
	@$(BIN)/python tests/python/athena_kills.py $(SOAK)

.PHONY: soak-athena
soak-athena: setup-dev ## The local Athena: times, memory, 1,000 queries, 500 concurrent commits (SOAK="--commits 80")
	@$(BIN)/python -m tests.soak.athena $(SOAK)

.PHONY: conformance-athena
conformance-athena: setup-dev ## All classes of dbt-tests-adapter that dbt-athena supports, on the local Athena
	@$(BIN)/python -m pytest -q --numprocesses 3 --dist loadscope tests/dbt_adapter

.PHONY: soak-realtime
soak-realtime: setup-dev ## 10 minutes of credit orders while everything is killed (SOAK="--seconds 60 --seed 7")
	@$(BIN)/python -m tests.soak.realtime $(SOAK)

.PHONY: parity-realtime
parity-realtime: setup-dev ## 10,000 orders decided online and recomputed in the warehouse (SOAK="--orders 500")
	@$(BIN)/python -m tests.soak.parity $(SOAK)

.PHONY: bench-realtime
bench-realtime: setup-dev ## Orders accepted and decided a second, and 1,000 viewers (DASHBOARD="--seconds 30")
	@$(BIN)/python -m benchmarks.realtime
	@$(BIN)/python -m benchmarks.dashboard $(DASHBOARD)

##@ Help
.PHONY: help
help: ## This list
	@awk 'BEGIN { FS = ":.*## " } /^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
