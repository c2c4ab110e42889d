# Needs Python 3.11 or newer with pip, and make. Uses uv instead of pip if uv is on PATH.
PYTHON ?= python3
VENV   ?= .venv
EXTRAS ?= test
BIN    := $(VENV)/bin
V1     := .venv-v1
# the wheel as it is published, with the modules that pyproject.toml lists compiled to C
COMPILED := .venv-compiled
# the servers that benchmarks compare with; not in the project's own environments
PEERS  := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/agentscope-supervisor/peers
# the oldest and the newest release of the Redis client, for tests/harness/redis_clients.py
REDIS_PY := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/agentscope-supervisor/redis-py
export TEST_PYTHON_V1 := $(CURDIR)/$(V1)/bin/python

# A minimal Debian has no ensurepip, so the environment is made without pip, and packages are installed from outside.
ifeq ($(shell command -v uv),)
# pip would compile all modules of all libraries. READIED compiles what a supervisor and a worker import.
INTO = $(PYTHON) -m pip --python $(1)/bin/python install -q --disable-pip-version-check --no-compile
TARGET = $(PYTHON) -m pip install -q --disable-pip-version-check --no-compile --target
else
INTO = uv pip install -q --python $(1)/bin/python
TARGET = uv pip install -q --python $(PYTHON) --target
endif
INSTALL = $(call INTO,$(VENV))
READIED = $(1)/bin/python -c 'import agentscope_supervisor.cli.main, agentscope_supervisor.daemon; \
  from agentscope_worker import zygote; from agentscope_protocol.config.settings import ModelSettings as Model; \
  providers = Model.model_fields["provider"].annotation.__args__; \
  zygote.preload(["mcp", "redis", "tracing", *(f"provider:{each}" for each in providers)])'

# Each test starts processes. Without bytecode, a supervisor and its workers compile their modules in every start.
unexport PYTHONDONTWRITEBYTECODE

# Number of parallel tests: they wait more than they compute. ARGS="-n 0" runs them one by one.
JOBS   ?= $(shell echo $$(( $$(nproc 2>/dev/null || echo 1) + 1 )))
SIDE_BY_SIDE = -n $(JOBS) --dist worksteal
# Those that only compute.
CORES  ?= $(shell nproc 2>/dev/null || echo 1)

# A test marked `timed` checks a time limit, which a busy machine may miss: if only such tests fail in parallel
# (status 85, tests/harness/retry.py), they run again alone. Any other failure fails the run.
define TESTED
$(1)/python -m pytest -q -p tests.harness.retry $(SIDE_BY_SIDE) --maxfail 6 $(2) $(ARGS) || { test $$? -eq 85 \
  && echo "the timed tests above failed beside others; now alone:" \
  && $(1)/python -m pytest -q $(2) $(ARGS) -n 0 --last-failed --last-failed-no-failures none --maxfail 1; }
endef

# The pure tests: no worker, no port, no AgentScope. Their coverage is checked too.
PURE_TESTS := tests/protocol tests/supervisor tests/repository tests/fuzz
HTTP_TESTS := $(addprefix tests/integration/test_,$(addsuffix .py,bad_input conformance direct health invoke))

.PHONY: help vendor demo demo-llm platform setup programs test test-v1 compiled test-compiled test-costs compiler faults soak siege fuzz bench-restarts provider-table check format mutants redis systemd chromium bench bench-quick bench-memory profiles balancers screenshots bench-store bench-tokens docs docs-reference prose requirements dist clean

help:             ## print this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "make %-14s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/.ready      ## host the echo project on two workers, send it a message, stay up
	$(BIN)/python examples/demo.py examples/echo

demo-llm: $(VENV)/.ready  ## the same with a project that uses a model (a small server on this machine)
	$(BIN)/python examples/demo.py --with-model-server examples/chat

platform: $(VENV)/.ready  ## run the reference platform, which shows instances on a page
	$(BIN)/python -m reference_platform $(ARGS)

test:             ## run all checks and tests: on AgentScope 2.x and 1.x, and on the compiled wheel
	$(MAKE) --no-print-directory -j 4 setup
	$(MAKE) --no-print-directory check
	$(call TESTED,$(BIN),$(REAL_2))
	$(MAKE) --no-print-directory test-v1
	$(MAKE) --no-print-directory test-compiled

# The options and tests of each suite: on AgentScope 2.x, on 1.x, and on the compiled wheel.
REAL_2        := -m 'not slow' tests/contracts tests/worker tests/integration tests/faults tests/security
REAL_1        := -m 'agentscope and not slow' tests/worker tests/integration
REAL_COMPILED := -m 'not as_python and not slow' $(PURE_TESTS) $(HTTP_TESTS)

setup: $(VENV)/.lint $(V1)/.ready $(COMPILED)/.ready programs  ## install the environments and programs of `make test`; with -j, in parallel

programs:
	@$(MAKE) --no-print-directory redis systemd chromium balancers

test-v1: $(V1)/.ready redis     ## run the tests that depend on AgentScope, on 1.x
	$(call TESTED,$(V1)/bin,$(REAL_1))

test-compiled: $(COMPILED)/.ready  ## run the pure tests and the tests of HTTP and health on the compiled wheel
	$(COMPILED)/bin/agentscope-supervisor --version | grep compiled
	$(call TESTED,$(COMPILED)/bin,$(REAL_COMPILED))

test-costs: setup  ## run every suite, measure each test, and write docs/contributing/test-costs.md
	rm -rf $(COSTS) && mkdir $(COSTS)
	TEST_COSTS=$(COSTS)/pure.jsonl $(BIN)/python -m pytest -q $(COSTED) -n $(CORES) $(PURE_TESTS)
	TEST_COSTS=$(COSTS)/agentscope2.jsonl $(BIN)/python -m pytest -q $(COSTED) $(SIDE_BY_SIDE) $(REAL_2)
	TEST_COSTS=$(COSTS)/agentscope1.jsonl $(V1)/bin/python -m pytest -q $(COSTED) $(SIDE_BY_SIDE) $(REAL_1)
	TEST_COSTS=$(COSTS)/compiled.jsonl $(COMPILED)/bin/python -m pytest -q $(COSTED) $(SIDE_BY_SIDE) $(REAL_COMPILED)
	$(BIN)/python -m tools.test_costs $(COSTS)

COSTS  := $(CURDIR)/.test-costs
COSTED := -p tests.harness.costs

faults: $(VENV)/.ready redis  ## inject every fault of the catalogue, including slow ones, and print their table
	$(BIN)/python -m tests.fault_table $(SIDE_BY_SIDE) $(ARGS)

MINUTES ?= 5
soak: $(VENV)/.ready redis  ## run load on 200 sessions with random faults for MINUTES=5; SEED=n repeats a run
	$(BIN)/python -m tests.soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(ARGS)

siege: MINUTES = 10
siege: $(VENV)/.ready     ## attack an instance in every way for MINUTES=10, while clients with the token use it
	$(BIN)/python -m tests.security.siege --minutes $(MINUTES) $(ARGS)

fuzz: $(VENV)/.ready      ## fuzz the parsers of untrusted bytes for MINUTES=5; a run continues the corpus in .fuzz/
	$(INSTALL) -e '.[$(EXTRAS),fuzz]'
	$(BIN)/python -m tests.fuzz --minutes $(MINUTES) $(ARGS)

bench: $(COMPILED)/.ready $(VENV)/.ready balancers  ## compare with other servers, in one to two hours; resumes an interrupted run; writes docs/performance/benchmarks.md
	$(COMPILED)/bin/python -m pytest -q tests/benchmarks
	PYTHON=$(PYTHON) $(COMPILED)/bin/python -m tests.benchmarks --peers $(PEERS) $(ARGS)

bench-quick: $(COMPILED)/.ready balancers  ## compare with HAProxy and uvicorn in three minutes, to find large regressions
	$(COMPILED)/bin/python -m pytest -q tests/benchmarks
	PYTHON=$(PYTHON) $(COMPILED)/bin/python -m tests.benchmarks --peers $(PEERS) --quick $(ARGS)

profiles: $(COMPILED)/.ready  ## sample the supervisor and a worker in each scenario, in three minutes, as root; writes docs/performance/profiles.md and its graphs
	$(COMPILED)/bin/python -m pytest -q tests/benchmarks/test_profiles.py
	PYTHON=$(PYTHON) $(COMPILED)/bin/python -m tests.benchmarks.profiles --peers $(PEERS) $(ARGS)

bench-memory: MINUTES = 10
bench-memory: $(COMPILED)/.ready  ## measure memory under MINUTES=10 of load and with 100 000 sessions; writes docs/performance/memory.md and its plot
	$(COMPILED)/bin/python -m pytest -q tests/benchmarks/test_memory.py
	$(COMPILED)/bin/python -m tests.benchmarks.memory_line --minutes $(MINUTES) $(ARGS)

bench-restarts: $(VENV)/.ready  ## compare rolling restarts under load with uvicorn and gunicorn
	PYTHON=$(PYTHON) $(BIN)/python -m tests.benchmarks.rolling_restart --peers $(PEERS) $(ARGS)

bench-store: $(VENV)/.ready  ## measure the cost of the embedded store per turn: with a key, with stored events, without
	$(BIN)/python -m tests.benchmarks.store_cost $(ARGS)

bench-tokens: $(VENV)/.ready  ## measure the CPU time of a model's token in a worker, for each provider
	$(BIN)/python -m tests.benchmarks.token_cost $(ARGS)

provider-table: $(VENV)/.ready $(V1)/.ready  ## call each provider's model on both majors; writes README's table of providers
	$(BIN)/python tests/provider_table.py $(V1)/bin/python $(BIN)/python

check: $(VENV)/.ready $(VENV)/.lint  ## format, lint, types, import contracts and pure tests; must pass before each commit
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(SITE)
	$(BIN)/python -m tools.prose
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -q -n $(CORES) --dist worksteal $(PURE_TESTS) $(ARGS)
	$(BIN)/coverage combine -q
	$(BIN)/python -m tools.purity

# the variable: no banner about the next major release of mkdocs
# (not --quiet: with it, --strict sees no warnings)
SITE = NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs: $(VENV)/.lint       ## the documentation as a site, in site/; it reads without a network
	$(SITE)
	@echo "open site/index.html"

docs-reference: $(VENV)/.lint  ## write the pages and pictures in docs/ that are made from the code
	$(BIN)/python -m tools.docs

vendor: $(VENV)/.ready    ## copy the console's two libraries from npm's registry, at fixed versions
	$(BIN)/python -m tools.vendor

prose: $(VENV)/.lint      ## check the prose of all sources; prints the number of violations for each folder
	$(BIN)/python -m tools.prose --all $(ARGS)

format: $(VENV)/.lint     ## rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Programs that pip cannot install. If apt cannot install them here either, the tests that need them fail and say so.
# RUNLEVEL=1 keeps Debian from starting the servers that it installs. The lock is for `make -j`: apt-get refuses to run
# twice at once.
define FROM_APT
@( for each in $(1); do PATH="$$PATH:/usr/sbin" command -v $$each || exit 1; done ) >/dev/null \
  || { test "$$(id -u)" = 0 && command -v apt-get \
  && export RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive && exec 9<pyproject.toml && flock 9 \
  && { find /var/lib/apt/lists -name '*Release' -mmin -60 2>/dev/null | grep -q . || apt-get update -qq; } \
  && apt-get install -y -qq --no-install-recommends $(2); } >/dev/null 2>&1 \
  || echo "not on PATH and cannot be installed here: one of $(1); install it for the tests" >&2
endef

redis: $(addprefix $(REDIS_PY)/,5.0.1 8.1.0)  ## install redis-server, if it is missing and apt can install it, and two releases of its client library for the tests
	$(call FROM_APT,redis-server,redis-server)

$(REDIS_PY)/%:
	@$(TARGET) $@ redis==$* || echo "redis $* cannot be installed here; the tests with this release will fail" >&2

systemd:          ## install systemd-analyze for the tests of the systemd units
	$(call FROM_APT,systemd-analyze,systemd)

chromium:         ## install Chromium for the tests of the console
	$(call FROM_APT,chromium,chromium fonts-dejavu-core)

compiler:         ## install a C compiler and Python's headers, for the compiled wheel
	$(call FROM_APT,cc python3-config,gcc libc6-dev python3-dev)

balancers:        ## install HAProxy and nginx, for the tests of their configurations and for benchmarks
	$(call FROM_APT,haproxy nginx,haproxy nginx-light)

screenshots: $(VENV)/.ready chromium  ## retake README's screenshots, or those named in ARGS
	$(BIN)/python -m tests.screenshots $(ARGS)

mutants: $(VENV)/.ready   ## plant a fixed list of bugs, one at a time, and check that the tests find each
	$(BIN)/python tests/mutants.py $(ARGS)

$(VENV)/.ready: pyproject.toml worker/shim/agentscope/runtime.py worker/shim/agentscope_supervisor.pth
	$(PYTHON) -m venv --without-pip $(VENV)
	$(INSTALL) -e '.[$(EXTRAS)]'
	@$(call READIED,$(VENV))
	@touch $@

$(V1)/.ready: pyproject.toml worker/shim/agentscope/runtime.py worker/shim/agentscope_supervisor.pth
	$(PYTHON) -m venv --without-pip $(V1)
	$(call INTO,$(V1)) -e '.[test,v1]'
	@$(call READIED,$(V1))
	@touch $@

compiled: $(COMPILED)/.ready  ## install the wheel as it is published in an environment of its own, for benchmarks and trials

# The libraries are those of $(VENV), behind the wheel on the path. Its own folder has the wheel alone.
$(COMPILED)/.ready: $(VENV)/.ready pyproject.toml hatch_build.py $(shell find protocol supervisor worker -name '*.py')
	$(MAKE) --no-print-directory compiler
	$(PYTHON) -m venv --without-pip --clear $(COMPILED)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > "$$($(COMPILED)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/libraries.pth"
	wheel="$$($(PYTHON) tools/compiled_wheel.py)" && $(call INTO,$(COMPILED)) --no-deps "$$wheel"
	@touch $@

$(VENV)/.lint: $(VENV)/.ready
	$(INSTALL) -e '.[$(EXTRAS),lint,docs]'
	@touch $@

dist: $(VENV)/.ready compiler  ## build into dist/: the sdist, the plain wheel, the compiled wheel for this Python, an SBOM and SHA256SUMS
	rm -f dist/*.cdx.json dist/SHA256SUMS
	$(INSTALL) build 'cyclonedx-bom>=7'
	$(BIN)/python -m build --installer pip
	AGENTSCOPE_SUPERVISOR_COMPILE=1 $(BIN)/python -m build --installer pip --wheel
	$(BIN)/cyclonedx-py requirements configs/requirements.txt --pyproject pyproject.toml --mc-type application \
	  --output-reproducible -o dist/agentscope-supervisor.cdx.json
	$(BIN)/python -m tools.checksums dist

# Python of the image. The files have the hashes of all platforms.
PINNED = $(BIN)/uv pip compile -q --upgrade --generate-hashes --python-version 3.12 \
  --custom-compile-command 'make requirements'

requirements: $(VENV)/.ready  ## pin the packages of the image, with hashes, in configs/requirements*.txt
	$(INSTALL) 'uv>=0.5'
	$(PINNED) pyproject.toml --extra redis -o configs/requirements.txt
	$(PINNED) configs/requirements-build.in -o configs/requirements-build.txt

clean:            ## remove everything that make has made
	rm -rf .venv .venv-* .fuzz dist site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .coverage .coverage.* .test-costs
