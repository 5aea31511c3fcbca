# The two commands of the README, on a fresh machine with Python 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test check install

demo: install  ## Compress a small CNN on real data, in minutes
	$(BIN)/rl-compress search tune_configs/digits.yaml $(ARGS)

# Two files at a time, for the tests of a file often share a run; the slow ones come first.
test: install  ## Run the tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

check: install  ## Lint and type-check
	$(BIN)/ruff check rl_compress tests
	$(BIN)/mypy

install: $(VENV)/.installed

# Wheels are taken at the tested versions; torch is named first so that its pin is honoured.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
