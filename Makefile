# `make demo` and `make test` work on a fresh machine with Python 3.11 or newer and make: each first
# makes .venv, with this package and what it needs in it, in the exact versions of requirements.txt;
# all but the demo install what checks and builds it too.
#
# Variables: PYTHON, the interpreter that .venv is made from; WORKERS, the processes of the tests;
# DEMO_FLAGS, passed on to `loss-attention demo`; BENCH_FLAGS, to benchmarks/bench.py.

PYTHON ?= python3
WORKERS ?= 2
DEMO_FLAGS ?=
BENCH_FLAGS ?=

VENV := .venv
BIN := $(VENV)/bin
# Silent but for errors.
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input -qq
# Where PyPI has CUDA builds, which it has for Linux.
DEVICES := .venv-devices
DEVICES_TORCH := 2.14.1
PACKAGE_DONE := $(VENV)/.package-installed
TOOLS_DONE := $(VENV)/.tools-installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test test-devices bench results docs notebooks clean

help:
	@echo 'make demo     train on the digits that come along, then open runs/demo/report.html'
	@echo 'make test     format, lint, types, tests, doctests and the commands of the README'
	@echo 'make test-devices  what runs on a GPU, tried without one (5 GB of a CUDA build of torch)'
	@echo 'make bench    measure speed and memory here, to results/bench/ (15 minutes at most on two cores)'
	@echo 'make results  train and measure the scores of results/README.md (takes long)'
	@echo 'make docs     build the documentation site, to build/docs/index.html; it needs no network'
	@echo 'make notebooks  run the notebooks of docs/notebooks anew, and store what they show'
	@echo 'make install  only make .venv, which the others do by themselves'
	@echo 'make clean    remove .venv, caches and builds; runs/ stays'

install: $(TOOLS_DONE)
	@echo '$(VENV) is ready; enter it with: source $(BIN)/activate'

demo: $(PACKAGE_DONE)
	@$(BIN)/loss-attention demo --out runs/demo$(if $(DEMO_FLAGS), $(DEMO_FLAGS))

# One thread a test process: the processes would fight over the cores, and sums of floats in several
# threads need not add up in the same order twice.
test: export OMP_NUM_THREADS = 1
test: $(TOOLS_DONE)
	@echo '== format: ruff format --check'
	@$(BIN)/ruff format --check .
	@echo '== lint: ruff check'
	@$(BIN)/ruff check .
	@echo '== types: mypy --strict on src'
	@$(BIN)/mypy
	@echo '== tests, doctests and the commands of the README: pytest, $(WORKERS) processes'
	@$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# A CUDA build of torch checks the devices of tensors that have no values, also without a GPU.
test-devices: export OMP_NUM_THREADS = 1
test-devices: $(DEVICES)/.package-installed
	@$(DEVICES)/bin/python -c 'import sys, torch; sys.exit(torch.version.cuda is None)' || { \
	  echo 'make: the torch in $(DEVICES) is not a CUDA build' >&2; exit 1; }
	@$(DEVICES)/bin/pytest tests/devices

bench: $(TOOLS_DONE)
	@$(BIN)/python benchmarks/bench.py$(if $(BENCH_FLAGS), $(BENCH_FLAGS))

results: $(TOOLS_DONE)
	@$(BIN)/python benchmarks/run.py

# Not `--quiet`, with which `--strict` overlooks warnings. The notice that the variable turns off is
# about the future of the theme.
docs: $(TOOLS_DONE)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo 'site: build/docs/index.html'

notebooks: $(TOOLS_DONE)
	@$(BIN)/python docs/site/notebooks.py

clean:
	@rm -rf $(VENV) $(DEVICES) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis src/*.egg-info
	@find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo 'removed .venv, caches and builds; runs/ is as it was'

# What the package needs, which is all that the demo does: a fraction of all that checks it.
$(PACKAGE_DONE): pyproject.toml requirements.txt | $(BIN)/python
	@echo '== installing this package into $(VENV) (torch is large: the first time takes minutes)'
	@$(PIP) install --constraint requirements.txt setuptools
	@$(PIP) install --constraint requirements.txt --no-build-isolation --editable .
	@touch $@

$(TOOLS_DONE): $(PACKAGE_DONE)
	@echo '== installing requirements.txt into $(VENV)'
	@$(PIP) install --requirement requirements.txt
	@touch $@

$(DEVICES)/.package-installed: requirements.txt pyproject.toml | $(BIN)/python
	@echo '== making $(DEVICES) with torch $(DEVICES_TORCH) (the first time takes minutes)'
	@$(BIN)/python -m venv $(DEVICES)
	@grep -v '^torch==' requirements.txt > $(DEVICES)/requirements.txt
	@$(DEVICES)/bin/python -m pip --disable-pip-version-check --no-input -qq install \
	  torch==$(DEVICES_TORCH) --requirement $(DEVICES)/requirements.txt
	@$(DEVICES)/bin/python -m pip --disable-pip-version-check --no-input -qq install \
	  --no-deps --no-build-isolation --editable .
	@touch $@

$(BIN)/python:
	@command -v $(PYTHON) > /dev/null || { \
	  echo 'make: there is no $(PYTHON) here; install Python 3.11 or newer, or name one:' \
	    'make PYTHON=/path/to/python3.12 ...' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: $$($(PYTHON) --version) is too old, 3.11 or newer is needed; name another:" \
	    'make PYTHON=python3.12 ...' >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2> /dev/null || { \
	  echo "make: $(PYTHON) lacks the venv module; on Debian and Ubuntu:" \
	    'apt install python3-venv' >&2; exit 1; }
	@echo "== making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
