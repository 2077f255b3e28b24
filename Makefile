# Bulkhead. `make help` lists the targets; each reads BULKHEAD_RUN, _DATA, _REGISTRY, _BRIDGE and
# _SUBNET from the environment, so that several installations live side by side.
VENV ?= .venv
# Empty: the distribution's, or the first on the PATH where that is too old.
PYTHON ?=
PY := $(VENV)/bin/python
CTL := $(PY) -m bulkhead.ctl
SERVICES := api manager supervisor registry
GEN := services/bulkhead/wire/gen
PROTOS := $(shell find protos -name '*.proto')
# A change in any of these means that the engine must be installed again.
INPUTS := pyproject.toml constraints.txt $(wildcard setup.py) $(shell find services/bulkhead/nsexec -name '*.[chS]' 2>/dev/null)
RUN_STAMP := $(VENV)/.bulkhead-run
DEV_STAMP := $(VENV)/.bulkhead-dev
# pytest's own arguments: make test PYTEST='-n 2 -k registry'
PYTEST ?= -n 2 --dist loadgroup

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+(<[a-z]+>)?:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-20s %s\n", $$1, $$2}'
	@echo '  make restart-<service>    Stop one service in good order and start it (api manager supervisor registry)'
	@echo '  make kill-<service>       SIGKILL one service'

## --- running ------------------------------------------------------------------------------------

.PHONY: up
up: $(RUN_STAMP) ## Install what is missing, start the engine, wait until it is ready
	@$(CTL) up

.PHONY: down
down: $(RUN_STAMP) ## Stop the services; containers keep running
	@$(CTL) down

.PHONY: purge
purge: $(RUN_STAMP) ## Kill all containers, stop the services, remove every trace of the installation
	@$(CTL) purge

.PHONY: status
status: $(RUN_STAMP) ## Show each service: pid, age, readiness
	@$(CTL) status

.PHONY: logs
logs: $(RUN_STAMP) ## Follow the services' logs
	@$(CTL) logs --follow

.PHONY: fsck
fsck: $(RUN_STAMP) ## Check every blob, layer and record of images; make fsck REPAIR=1 mends them
	@$(CTL) fsck $(if $(REPAIR),--repair)

.PHONY: doctor
doctor: $(RUN_STAMP) ## Check this machine and the installation, and what to do; make doctor REPAIR=1 mends what is safe
	@$(CTL) doctor $(if $(REPAIR),--repair)

.PHONY: demo
demo: $(RUN_STAMP) ## Kill every daemon under a running container and show that it did not notice
	@$(CTL) demo

.PHONY: $(SERVICES:%=restart-%) $(SERVICES:%=kill-%)
$(SERVICES:%=restart-%): restart-%: $(RUN_STAMP)
	@$(CTL) restart $*
$(SERVICES:%=kill-%): kill-%: $(RUN_STAMP)
	@$(CTL) kill $*

## --- building -----------------------------------------------------------------------------------

.PHONY: build
build: $(RUN_STAMP) ## Create .venv and compile the C core

.PHONY: dev
dev: $(DEV_STAMP) ## The same with the tools for check and test

$(RUN_STAMP): $(INPUTS)
	@PYTHON='$(PYTHON)' services/bulkhead/ctl/bootstrap.sh '$(VENV)' run
	@touch $@

$(DEV_STAMP): $(INPUTS)
	@PYTHON='$(PYTHON)' services/bulkhead/ctl/bootstrap.sh '$(VENV)' dev
	@touch $@ $(RUN_STAMP)

.PHONY: proto
proto: $(DEV_STAMP) ## Generate wire/gen from protos/
	@$(call generate,$(GEN))

# The plugin is found by PATH and tells of every file on stderr: heard only when it fails.
define generate
	said=$$(PATH="$(abspath $(VENV))/bin:$$PATH" $(PY) -m grpc_tools.protoc -I protos --python_betterproto2_out=$(1) \
	    --python_betterproto2_opt=server_generation=async,client_generation=async $(PROTOS) 2>&1) || \
	{ echo "$$said"; exit 1; }
endef

## --- checking -----------------------------------------------------------------------------------

.PHONY: check
check: check-ruff check-types check-imports check-proto check-c ## Everything that needs no running: style, types, layers, proto drift, C

.PHONY: check-ruff
check-ruff: $(DEV_STAMP)
	$(PY) -m ruff check services tests
	$(PY) -m ruff format --check services tests

.PHONY: check-types
check-types: $(DEV_STAMP)
	$(PY) -m mypy

.PHONY: check-imports
check-imports: $(DEV_STAMP)
	$(VENV)/bin/lint-imports --no-logo

.PHONY: check-proto
check-proto: $(DEV_STAMP)
	@tmp=$$(mktemp -d); trap 'rm -rf "$$tmp"' EXIT; \
	$(call generate,"$$tmp"); \
	diff -r -x __pycache__ "$$tmp" $(GEN) || { echo 'wire/gen is not what protos/ says: make proto'; exit 1; }

.PHONY: check-c
check-c: $(DEV_STAMP)
	@cc -std=gnu11 -Wall -Wextra -Wconversion -Werror -fsyntax-only services/bulkhead/ctl/seed/hello.c
	@tmp=$$(mktemp -d) && trap 'rm -rf "$$tmp"' EXIT && \
	BULKHEAD_WERROR=1 $(PY) setup.py -q build_ext --build-temp "$$tmp/temp" --build-lib "$$tmp/lib"
	$(PY) -m pytest -q -p no:cacheprovider tests/unit/nsexec/test_c.py

CSRC := services/bulkhead/nsexec/csrc
.PHONY: check-analyzer
check-analyzer: $(DEV_STAMP) ## gcc's static analyzer over the C core
	@for file in $(CSRC)/plan.c $(CSRC)/spawn.c $(CSRC)/memory.c $(CSRC)/lines.c $(CSRC)/trees.c $(CSRC)/module.c $(CSRC)/nsinit/*.c $(CSRC)/init/*.c; do \
	    echo "$$file"; \
	    cc -fanalyzer -Werror -std=gnu11 -O2 -ffreestanding -I"$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("include"))')" \
	        -c -o /dev/null "$$file" || exit 1; \
	done

.PHONY: test
test: $(DEV_STAMP) ## All tests (root: they make containers)
	$(PY) -m pytest $(PYTEST)

.PHONY: test-survival
test-survival: $(DEV_STAMP) ## Crash matrix: each operation by each fault, each failpoint on its way (SURVIVAL=--whole: everywhere; --rows start,rm)
	$(PY) -m tests.survival.matrix --json survival.json $(SURVIVAL)
	$(PY) -m tests.survival.many

.PHONY: test-sanitizers
test-sanitizers: $(DEV_STAMP) ## The C core's tests on a build with ASan and UBSan
	$(PY) -m tests.support.sanitized

TIME ?= 60
# make soak: how many start/stop cycles and execs follow the storm, by how many clients, for how many seconds at most.
SOAK = $(if $(CYCLES),--cycles $(CYCLES)) $(if $(EXECS),--execs $(EXECS)) $(if $(CLIENTS),--clients $(CLIENTS)) $(if $(LIMIT),--limit $(LIMIT))
.PHONY: fuzz
fuzz: $(DEV_STAMP) ## Fuzz the plan decoder for TIME seconds; new inputs are kept in tests/fuzz/corpus
	$(PY) -m tests.fuzz.plan $(TIME)

.PHONY: fuzz-api
fuzz-api: $(DEV_STAMP) ## Fuzz every endpoint of the Engine API for TIME seconds, against an engine of its own
	$(PY) -m tests.fuzz.api $(TIME)

.PHONY: soak
soak: $(DEV_STAMP) ## Random operations and deaths for TIME seconds (SEED=n again), then CYCLES of start and stop and EXECS: nothing may be lost or grow
	@$(PY) -m tests.soak $(TIME) $(SEED) $(SOAK)

.PHONY: test-leaks
test-leaks: $(DEV_STAMP) ## What 10,000 launches leave in their parent, and 500 changes of networks on the machine
	$(PY) -m tests.bench.spawn_leaks
	BULKHEAD_TEST_CYCLES=500 $(PY) -m pytest -q -n 0 tests/survival/test_network_leaks.py

.PHONY: test-compose
test-compose: $(DEV_STAMP) ## A shop of nginx, PostgreSQL and redis by Compose, in use while every daemon dies
	BULKHEAD_TEST_COMPOSE=1 $(PY) -m pytest -q -n 0 tests/e2e/test_shop.py

.PHONY: test-v2
test-v2: $(DEV_STAMP) ## Tests of cgroup v2 on a kernel with all its controllers, booted in qemu (V2=--systemd: of the systemd driver)
	@$(PY) -m tests.v2.machine $(V2)

.PHONY: bench
bench: $(DEV_STAMP) ## Measure the engine beside dockerd, docker-registry, runc, crun (BENCH='--quick --rows life,exec', --help)
	@$(PY) -m tests.bench $(BENCH)

.PHONY: clean
clean: ## Remove build products and caches, not the installation
	rm -rf build dist services/*.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
