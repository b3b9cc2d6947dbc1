# Everything runs from .venv, which is made on first use. Each step leaves a stamp, so that a
# second run starts at once.
#
#   make venv                 .venv alone, empty; PYTHON=/path/to/python says of which Python
#   make demo                 the monitor, with an agent for this machine
#   make test ARGS="-k foo"   the tests, on every core, with arguments for pytest; -n0: in one process
#   make peers                what `make test` installs: packages of the system and of npm; tests nothing
#   make coverage             the same in one process, with what they do not reach
#   make lint                 ruff and mypy
#   make soak                 a hundred thousand reconnects, and nothing is left of them
#   make kerberos             the tests that need a KDC; compiles what they take, for minutes
#   make reactor-conformance  all of Twisted's own tests on the corked reactor, for four minutes
#   make conformance          Autobahn's testsuite, for an hour; needs Python 2.7. ARGS=--quick: minutes
#   make bench                the benches, beside their peers, for twenty-five minutes.
#                             ARGS=--smoke: seconds, to see that they work
#   make bench-data, make bench-tunnel  one of the two; ARGS="--rows 128" goes to it
#   make fuzz                 the parsers, by atheris, for SECONDS_EACH (60) each
#   make hostile              what attackers cost the server, for twelve minutes
#   make clean                remove what the above made

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
VENV27 := .venv27
BENCH_VENV := .venv-bench
PEERS := tests/peers
CONFORMANCE := tests/conformance
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
PARALLEL := --numprocesses=logical --maxprocesses=4 --dist=worksteal
ARGS ?=

.PHONY: help venv demo peers test coverage lint soak kerberos fuzz hostile clean
.PHONY: bench bench-data bench-tunnel

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

# --- the environment ------------------------------------------------------------------------------

venv: $(VENV)/.made

# Debian and Ubuntu ship venv apart from Python, as pythonX.Y-venv.
$(VENV)/.made:
	@chosen=
	for candidate in $(PYTHON) python3 python3.13 python3.12 python3.11; do
	    if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
	        chosen=$$candidate; break
	    fi
	done
	if [ -z "$$chosen" ]; then
	    echo "wsframe needs Python 3.11 or newer; none of '$(strip $(PYTHON) python3 python3.13 python3.12 python3.11)' is." >&2
	    echo "Install one, or name it: make PYTHON=/path/to/python venv" >&2
	    exit 1
	fi
	if ! "$$chosen" -c 'import ensurepip, venv' 2>/dev/null; then
	    package=$$("$$chosen" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
	    if [ "$$(id -u)" = 0 ]; then sudo=; else sudo="sudo -n"; fi
	    if ! command -v apt-get >/dev/null || ! $$sudo true 2>/dev/null; then
	        echo "$$chosen cannot make virtual environments: its venv module is not installed." >&2
	        echo "Run this, then make again: sudo apt-get install $$package" >&2
	        exit 1
	    fi
	    echo "installing $$package"
	    $$sudo apt-get -qq update || true
	    $$sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y "$$package" </dev/null
	fi
	rm -rf $(VENV)
	"$$chosen" -m venv $(VENV)
	echo "$(VENV): $$($(BIN)/python --version)"
	touch $@

$(VENV)/.runtime: $(VENV)/.made pyproject.toml
	$(PIP) --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.runtime
	$(PIP) --editable '.[test]'
	@touch $@

$(VENV)/.lint: $(VENV)/.runtime
	$(PIP) --editable '.[lint]'
	@touch $@

# Autobahn's testsuite is for Python 2.7 alone. virtualenv 20.21 is the last that makes environments
# for it; that and its cache stay within.
$(VENV27)/.made: $(CONFORMANCE)/requirements.txt | $(VENV)/.made
	@chosen=
	for candidate in $(PYTHON27) python2.7 ~/.pyenv/versions/2.7*/bin/python2.7; do
	    if "$$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (2, 7))' 2>/dev/null; then
	        chosen=$$candidate; break
	    fi
	done
	if [ -z "$$chosen" ]; then
	    echo "Autobahn's testsuite needs Python 2.7, and there is none here." >&2
	    echo "Install it, as with pyenv, or name it: make PYTHON27=/path/to/python2.7 conformance" >&2
	    exit 1
	fi
	rm -rf $(VENV27)
	$(PIP) --target $(VENV27)/virtualenv virtualenv==20.21.1
	PYTHONPATH=$(VENV27)/virtualenv $(BIN)/python -m virtualenv --quiet --no-periodic-update \
	    --app-data $(VENV27)/virtualenv/cache --python "$$chosen" $(VENV27)
	$(VENV27)/bin/python -m pip --disable-pip-version-check --no-python-version-warning \
	    install --quiet --no-deps --requirement $<
	echo "$(VENV27): $$($(VENV27)/bin/python --version 2>&1)"
	touch $@

# The peers of the benches stay out of the tests' environment.
$(BENCH_VENV)/.made: $(VENV)/.made pyproject.toml bench/requirements.txt
	rm -rf $(BENCH_VENV)
	$(BIN)/python -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip --disable-pip-version-check install --quiet \
	    --editable . --requirement bench/requirements.txt
	@touch $@

# Without npm the tests that need a Node peer or a browser skip themselves; CI must have it.
$(PEERS)/node_modules/.made: $(PEERS)/package.json $(PEERS)/package-lock.json
	@if (cd $(PEERS) && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error); then
	    touch $@
	elif [ "$${CI:-}" = true ]; then
	    exit 1
	else
	    echo "npm could not install the peers in $(PEERS); the tests that need them are skipped" >&2
	fi

# --- the verbs ------------------------------------------------------------------------------------

demo: $(VENV)/.runtime
	@exec $(BIN)/python -m wsframe.services.demo

# The packages of npm come after those of the system, which bring npm.
peers: $(VENV)/.test
	@scripts/test-system-packages
	$(MAKE) --no-print-directory --silent $(PEERS)/node_modules/.made

# One process for each core, up to four: each starts the proxies that its tests ask for, once. Who is
# through takes over from the others. `-v` says who ran what.
# The tests start some hundreds of processes; without bytecode each would compile wsframe anew.
test: peers
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest $(PARALLEL) $(ARGS)

coverage: peers
	@$(BIN)/coverage erase
	status=0
	$(BIN)/coverage run -m pytest $(ARGS) || status=$$?
	if $(BIN)/coverage combine --quiet; then $(BIN)/coverage report; fi
	exit $$status

lint: $(VENV)/.lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy wsframe twisted/plugins

# What `test` does a thousand times, for longer.
soak: $(VENV)/.test
	@WSFRAME_SOAK_ROUNDS=$${WSFRAME_SOAK_ROUNDS:-40000} \
	    $(BIN)/python -m pytest tests/client/test_many_reconnects.py $(ARGS)

.PHONY: reactor-conformance

reactor-conformance: $(VENV)/.test
	@$(BIN)/python scripts/reactor-conformance

# Apart from `test`: the Python side of GSSAPI has no wheels.
kerberos: $(VENV)/.test
	@sudo=$$(if [ "$$(id -u)" != 0 ]; then echo "sudo -n"; fi)
	export DEBIAN_FRONTEND=noninteractive
	$$sudo apt-get -qq install -y squid krb5-kdc krb5-admin-server krb5-user libkrb5-dev gcc </dev/null
	$(PIP) 'pyspnego[kerberos]'
	$(BIN)/python -m pytest -m kerberos tests/integration/test_kerberos.py $(ARGS)

# docs/conformance.md says what it runs, and how it judges.
.PHONY: conformance
conformance: $(VENV)/.runtime $(VENV27)/.made
	@PYTHONPATH=tests $(BIN)/python -m conformance $(ARGS)

# The figures go to bench/results; bench/README.md says how to read them. What is run with ARGS is less
# than all, or nothing but smoke: it is printed, and leaves the figures alone that are there.
bench: bench-data
	@$(MAKE) --no-print-directory --silent bench-tunnel

bench-data: peers $(BENCH_VENV)/.made
	@$(BENCH_VENV)/bin/python bench/data.py $(or $(ARGS),--json bench/results/data.json)

bench-tunnel: peers
	@$(BIN)/python bench/tunnel.py $(or $(ARGS),--json bench/results/tunnel.json)

# atheris has wheels for CPython 3.11 to 3.13 on Linux. What it finds it prints, and keeps in .fuzz;
# `.venv/bin/python tests/fuzz TARGET FILE` shows it again.
fuzz: $(VENV)/.test
	@$(PIP) 'atheris>=3'
	for target in $${TARGETS:-lane connection deflate request answer}; do
	    echo "$$target"
	    $(BIN)/python tests/fuzz "$$target" -max_total_time=$${SECONDS_EACH:-60} -print_final_stats=1 $(ARGS)
	done

# Apart from `bench`: it judges, and it is about attackers and not about peers.
hostile: $(VENV)/.test
	@$(BIN)/python bench/hostile.py --json bench/results/hostile.json $(ARGS)

clean:
	rm -rf .venv .venv313 $(BENCH_VENV) $(VENV27) build dist *.egg-info $(PEERS)/node_modules
	rm -rf $(CONFORMANCE)/reports
	rm -rf .coverage .coverage.* htmlcov .hypothesis .fuzz .mypy_cache .pytest_cache .ruff_cache
	find . -name .git -prune -o \( -name __pycache__ -o -name dropin.cache \) -print0 | xargs -0 rm -rf

.ONESHELL:
