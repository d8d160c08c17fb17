# make setup | demo | test | lint | bench NAME=x | train | cluster-up | cluster-down
SHELL := /bin/bash
VENV := .venv
PY := $(VENV)/bin/python

# The first interpreter on PATH that is new enough makes the virtual environment.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench train cluster-up cluster-down

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 22

setup:  ## install the Python packages and build the control plane's programs, each only when needed
	@[ -n "$(PYTHON)" ] || { echo 'Python 3.11 or newer is needed on PATH (or name one: make PYTHON=/path/to/python3)'; exit 1; }
	@$(PYTHON) -m e2e.setup $(VENV)

demo: setup  ## two jobs share the GPUs of an embedded cluster, from nothing to a result
	@$(PY) -m e2e.demo

test: lint  ## pass all tests
	@$(PY) -m pytest

lint: setup  ## formatting, lint, types, layers
	@$(VENV)/bin/ruff format --check --quiet . && $(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/mypy --no-error-summary
	@$(VENV)/bin/lint-imports --no-cache --cache-dir "" >/dev/null || $(VENV)/bin/lint-imports

bench: setup  ## run one benchmark: make bench NAME=session_overhead
	@[ -f "benchmarks/$(NAME).py" ] || { echo "NAME must be one of: $$(cd benchmarks && ls *.py | sed 's/\.py//' | xargs)"; exit 1; }
	@$(PY) -m benchmarks.$(NAME)

train: setup  ## train the policies that learn; WEIGHTS=folder puts the weights elsewhere than build/weights
	@OMP_NUM_THREADS=1 $(PY) -m cra_simulator.learning.everything --out build/training --weights $(or $(WEIGHTS),build/weights)

cluster-up: setup  ## start an embedded cluster with the operator installed, and keep it
	@$(PY) -m e2e.demo --keep --no-job

cluster-down:  ## stop it; nothing is left behind
	@$(PY) -m e2e.local down
