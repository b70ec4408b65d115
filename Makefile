# Two promises: `make quickstart` trains a model on this machine, `make test` proves that mai works on it.
# All paths are relative, so the folder's own path may hold spaces.

PYTHON ?= python3
INSTALLER ?= auto
DEVICE ?= auto
ARGS ?=
STAMP := .venv/set_up
WEIGHTS := .venv/weights/set_up

# A shell that forbids bytecode files makes every process compile torch and Megatron-Core anew: 10 seconds a start.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-full parity certified weights lint clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## make .venv; PYTHON=python3.12 and INSTALLER=pip (or uv) choose
	@echo "Ready: . .venv/bin/activate && mai --help"

quickstart: $(STAMP) ## train the quick start; DEVICE=cpu (or cuda) chooses, ARGS="train.steps=50" changes it
	@sh launch/quickstart.sh "$(DEVICE)" $(ARGS)

test: $(STAMP) $(WEIGHTS) ## run the tests; ARGS="tests/unit -x" goes to pytest
	.venv/bin/python -m pytest $(ARGS)

test-full: $(STAMP) $(WEIGHTS) ## run the tests with the whole of the large matrices
	.venv/bin/python -m pytest --full $(ARGS)

parity: $(STAMP) ## train every layout of the parity matrix, write docs/parity.md
	.venv/bin/python -m tests.parity.matrix

certified: $(STAMP) ## certify the published models, write docs/certified.md
	.venv/bin/python -m tests.parity.certified

weights: $(WEIGHTS) ## fetch the small model that tests compare with (93 MB)

lint: $(STAMP) ## check style and types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

clean: ## remove .venv and everything built; data/ and runs/ stay
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(WEIGHTS): $(STAMP) launch/weights.sh
	@sh launch/weights.sh

$(STAMP): setup.py pyproject.toml constraints.txt launch/set_up.sh
	@PYTHON="$(PYTHON)" INSTALLER="$(INSTALLER)" sh launch/set_up.sh

# The stamp holds the path that .venv was made for: a copied or moved folder is set up anew.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif
