# Two commands are enough on a fresh machine with Python 3.11+: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
ARGS   ?=
SEEDS  ?= 2000
SWITCHES ?= 200
JOBS   ?= 2

.DEFAULT_GOAL := help
.PHONY: help install demo test check lint types layers unit simulate chaos bench docs clean

help: ## What can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "eventwagon needs Python 3.11 or later, this is " + sys.version.split()[0] + "; name another with make PYTHON=...")'
	@echo "setting up $(VENV) (once) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements-dev.txt --editable '.[dev]'
	@touch $@

install: $(STAMP) ## Set up .venv with everything that is needed

demo: $(STAMP) ## The Black Friday burst on SQLite, live in the terminal (ARGS="--help" for what can be tried)
	@$(BIN)/eventwagon demo $(ARGS)

test: check unit simulate ## Everything that must pass

check: lint types layers ## Format, lint, types, layers

lint: $(STAMP)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: $(STAMP)
	@$(BIN)/mypy

layers: $(STAMP)
	@$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports

unit: $(STAMP) ## The tests
	@$(BIN)/pytest --numprocesses=2 --dist=worksteal $(ARGS)

simulate: $(STAMP) ## The real code in virtual time, faults injected, the history checked (SEEDS=2000, ARGS="--seed 7" for one)
	@$(BIN)/python -m eventwagon.testing.simulation --seeds $(SEEDS) --jobs $(JOBS) $(ARGS)

chaos: $(STAMP) ## Real processes on SQLite, killed and paused at random (SWITCHES=200, ARGS="--plan 7" for that one again)
	@$(BIN)/python -m eventwagon.testing.chaos --switches $(SWITCHES) $(ARGS)

docs: $(STAMP) ## Write the generated parts of the docs anew
	@$(BIN)/python scripts/docs.py

bench: $(STAMP) ## Ratios to the bare tools, in one run (not a test)
	@$(BIN)/python -m benchmarks $(ARGS)

clean: ## Remove what was set up
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist
