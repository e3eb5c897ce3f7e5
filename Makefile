# Two commands are enough on a fresh machine with Python 3.11+: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
ARGS   ?=
SEEDS  ?= 1200
FIRST  ?= commit
SWITCHES ?= 200
FUZZ   ?= 10
JOBS   ?= 2
PROCESSES ?= 2
WORKERS ?= --numprocesses=$(PROCESSES) --dist=worksteal
# the folders of tests that need servers: each has a target of its own; the longest first
ON_SERVERS := kubernetes aws kafka pulsar redis bridge examples dashboard prometheus site servers
EXAMPLE ?= signups logins mailing iot orders
CHAOS_ON := redis kafka pulsar
# how many of them, and what needs none, run at a time in `make test`: they wait more than they work
AT_ONCE ?= $(if $(filter output-sync,$(.FEATURES)),2,1)
# Containers often set it. Without bytecode a process of ours takes twice the CPU time to start, and tests start thousands.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help install demo examples site site-serve links test check lint types layers templates unit test-wheel servers $(ON_SERVERS:%=test-%) test-alone $(CHAOS_ON:%=chaos-%) simulate fuzz long chaos soak audit manifests bench bench-peers scale docs clean

# what a test needs and can't be had is a skip that says so, and a failure in CI
get = @$(BIN)/python scripts/servers.py install $(1) || test "$$CI" != true
run = @test ! -d tests/$(1) || $(BIN)/pytest $(call cache,$(1)) $(WORKERS) tests/$(1) $(ARGS) \
	|| $(call again,$(call cache,$(1)) tests/$(1))
at_once = --no-print-directory $(if $(filter-out 1,$(AT_ONCE)),-j$(AT_ONCE) --output-sync=target)
# what failed is noted for each folder by itself, since others may run beside it
cache = -o cache_dir=.pytest_cache/$(1)
# A machine of CI may stand still for seconds: what failed there has one more try, one test after another, which the log
# says. A defect fails twice.
again = { test $$? = 1 -a "$$CI" = true && echo "FAILED ONCE (above). Again, by themselves:" \
	&& $(BIN)/pytest --last-failed --last-failed-no-failures=none $(1) $(ARGS); }

help: ## What can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "eventwagon needs Python 3.11 or later, this is " + sys.version.split()[0] + "; name another with make PYTHON=...")'
	@echo "setting up $(VENV) (once) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements-dev.txt --editable '.[dev]'
	@touch $@

install: $(STAMP) ## Set up .venv with everything that is needed

demo: $(STAMP) ## The Black Friday burst through one queue and through wagons, live in the terminal (BROKER=redis|kafka|pulsar; ARGS="--help" for what can be tried)
ifdef BROKER
	@$(BIN)/python scripts/servers.py install $(BROKER)
	@$(BIN)/python scripts/with_server.py $(BROKER) -- $(BIN)/eventwagon demo --url URL $(ARGS)
else
	@$(BIN)/eventwagon demo $(ARGS)
endif

examples: $(STAMP) ## The examples with all their processes, one after another, each on a Redis of its own (EXAMPLE=mailing: that one)
	@$(BIN)/python scripts/servers.py install redis $(if $(filter iot,$(EXAMPLE)),mosquitto)
	@set -e; for name in $(EXAMPLE); do echo; $(BIN)/python scripts/with_server.py redis -- \
		$(BIN)/python examples/$$name/run.py --url URL $(ARGS); done

site: $(STAMP) ## Build the documents into site/, strictly: a broken link or anchor fails
	@$(BIN)/python scripts/make_site.py

site-serve: $(STAMP) ## Build them, and serve them to this machine on port 8000 (PORT=9000)
	@$(BIN)/python scripts/make_site.py --serve=$(or $(PORT),8000)

links: $(STAMP) ## Ask the other hosts that the documents link to (not part of `make test`)
	@$(BIN)/python scripts/make_site.py --links

test: $(STAMP) ## Everything that must pass (AT_ONCE=1: one target after the other)
	@$(MAKE) $(at_once) check
	@$(MAKE) $(at_once) unit servers $(ON_SERVERS:%=test-%) test-wheel simulate
	@$(MAKE) --no-print-directory test-alone

check: lint types layers manifests templates ## Format, lint, types, layers, what is deployed with

lint: $(STAMP)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: $(STAMP)
	@$(BIN)/mypy

layers: $(STAMP)
	@$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports

manifests: $(STAMP) ## Lint the Dockerfile, the Kubernetes base and the Helm chart (Helm is built once into your cache, with Go)
	$(call get,helm)
	@$(BIN)/python scripts/manifests.py

audit: $(STAMP) ## Ask the advisories of PyPI about all pinned packages (needs their server; not part of `make test`)
	@$(PYTHON) -m venv .audit
	@.audit/bin/pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	@.audit/bin/pip-audit --strict --no-deps --disable-pip --requirement requirements-dev.txt

templates: $(STAMP) ## The CloudFormation template, against what AWS says of its resources
	@if test -x $(BIN)/cfn-lint; then $(BIN)/cfn-lint deploy/aws/*.yaml; \
	else echo "SKIPPED: deploy/aws/*.yaml are not linted, cfn-lint is not installed: rm -r $(VENV) && make install" >&2; test "$$CI" != true; fi

unit: $(STAMP) ## The tests that need no server; a few need Redis or Kafka
	$(call get,redis kafka)
	@$(BIN)/pytest $(WORKERS) $(ON_SERVERS:%=--ignore=tests/%) $(ARGS) \
	|| $(call again,$(ON_SERVERS:%=--ignore=tests/%))

test-wheel: $(STAMP) ## Build the sdist and the wheel, install it alone, run README's program and the demo there
	@$(BIN)/python scripts/wheel.py

servers: $(STAMP) ## Get the servers that tests start into your cache: Redis, Valkey, Kafka, Pulsar
	$(call get)

test-servers: servers ## The tests of what starts and troubles servers in tests
	$(call run,servers)

test-redis: $(STAMP) ## The tests on Redis and Valkey
	$(call get,redis valkey)
	$(call run,redis)

test-kafka: $(STAMP) ## The tests on Kafka
	$(call get,kafka)
	$(call run,kafka)

test-bridge: $(STAMP) ## The tests of the bridge, on Redis, Kafka, PostgreSQL and moto
	$(call get,redis kafka postgresql)
	$(call run,bridge)

test-examples: $(STAMP) ## The tests of the examples, on Redis and mosquitto
	$(call get,redis mosquitto)
	$(call run,examples)

test-pulsar: $(STAMP) ## The tests on Pulsar
	$(call get,pulsar redis)
	$(call run,pulsar)

# beside others these run into their time limits, and the others into theirs
test-alone: $(STAMP) ## The tests that need the machine for themselves: chaos on Kafka and on Pulsar
	$(call get,kafka pulsar redis)
	@$(BIN)/pytest $(call cache,alone) -m alone $(ARGS) || $(call again,$(call cache,alone) -m alone)

test-aws: $(STAMP) ## The tests on moto, which emulates AWS
	$(call run,aws)

test-kubernetes: WORKERS =
test-kubernetes: $(STAMP) ## The tests on Kubernetes: its own, built once into your cache (as root, with Go), or the one of KUBECONFIG
	$(call get,helm)
	@test -n "$$KUBECONFIG" || $(BIN)/python scripts/servers.py install kubernetes redis || test "$$CI" != true
	$(call run,kubernetes)

# these wait most
test-aws test-examples test-prometheus: PROCESSES = 3
test-prometheus: $(STAMP) ## The alert rules and the Grafana board, on a real Prometheus (Debian's package, unpacked into your cache)
	$(call get,prometheus)
	$(call run,prometheus)

test-dashboard: $(STAMP) ## The tests of the dashboard's page in Chromium (as root on Debian it is installed)
	$(call get,chromium)
	$(call run,dashboard)

# all of its tests look at one build
test-site: WORKERS =
test-site: $(STAMP) ## Build the site, and look at it in Chromium at a desk and on a phone
	$(call get,chromium)
	$(call run,site)

# in virtual time, so it takes what others leave of the processors
simulate: $(STAMP) ## The real code in virtual time, faults injected, the history checked (SEEDS=1200, FIRST=0 for other seeds than the commit's own, ARGS="--seed 7" for one)
	@nice $(BIN)/python -m tests.simulation --seeds $(SEEDS) --first-seed $(FIRST) --jobs $(JOBS) $(ARGS)

chaos: $(STAMP) ## Real processes, killed and paused at random (SWITCHES=200, ARGS="--plan 7" for that one again, EVENTWAGON_CHAOS_URL=… for a broker)
	@$(BIN)/python -m tests.chaos --switches $(SWITCHES) $(ARGS)

fuzz: $(STAMP) ## The property tests and the fuzzers of all decoders, with FUZZ=10 times the examples
	@EVENTWAGON_FUZZ=$(FUZZ) $(BIN)/pytest $(WORKERS) --timeout=0 -m hypothesis $(ARGS)

long: $(STAMP) ## The tests that `make test` leaves out: they take minutes and prove a little more than those beside them
	$(call get,redis kafka postgresql elasticmq)
	@$(BIN)/pytest $(WORKERS) --timeout=0 -m soak $(ARGS)

soak: SEEDS = 50000
soak: FUZZ = 50
soak: SWITCHES = 500
soak: $(STAMP) ## What takes hours: SEEDS=50000 simulated, FUZZ=50 times the examples, the long tests, chaos with SWITCHES=500 on SQLite, Redis, Kafka, Pulsar
	@$(BIN)/python scripts/servers.py install redis kafka pulsar
	@$(MAKE) --no-print-directory --keep-going -j1 simulate fuzz long chaos $(CHAOS_ON:%=chaos-%) \
		SEEDS=$(SEEDS) FUZZ=$(FUZZ) SWITCHES=$(SWITCHES)

$(CHAOS_ON:%=chaos-%): chaos-%: $(STAMP)
	@$(BIN)/python scripts/with_server.py $* -- $(BIN)/python -m tests.chaos --switches $(SWITCHES) --url URL $(ARGS)

docs: $(STAMP) ## Write the generated parts of the docs anew
	@$(BIN)/python scripts/docs.py

bench: $(STAMP) ## Ratios to the bare tools, in one run (not a test)
	@$(BIN)/python -m benchmarks $(ARGS)

scale: $(STAMP) ## What many processes and live wagons ask of Redis and Kafka, counted and modelled; writes docs/scale.md (25 minutes, not a test)
	@$(BIN)/python scripts/servers.py install redis kafka
	@$(BIN)/python -m benchmarks.scale $(ARGS)

bench-peers: $(STAMP) ## The same burst on the same Redis with Celery, Dramatiq, Taskiq, arq and FastStream (not a test)
	@$(BIN)/python scripts/servers.py install redis
	@$(BIN)/python -m benchmarks.peers $(ARGS)

clean: ## Remove what was set up
	rm -rf $(VENV) .audit .cache/site site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist
