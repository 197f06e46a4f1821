# `make demo` and `make test` set up everything they need in .venv.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 1
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: install demo test test-all faults bench lint clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

demo: install  ## the k sweep of the toy world, a few minutes on two cores
	$(BIN)/fulcrum run demo

test: install  ## what CI runs
	$(BIN)/pytest -m "not slow and not gpu"

test-all: install  ## the demo itself and everything else that takes minutes
	$(BIN)/pytest -m "not gpu"

faults: install  ## kill, interrupt and watch what is left
	$(BIN)/pytest tests/faults

bench: install  ## speed beside a peer in the same run
	$(BIN)/python tests/bench/sandbox.py
	$(BIN)/python tests/bench/prepare.py
	$(BIN)/python tests/bench/train.py
	$(BIN)/python tests/bench/start.py
	$(BIN)/python tests/bench/sharing.py
	$(BIN)/python tests/bench/head.py
	$(BIN)/python tests/bench/generate.py
	$(BIN)/python tests/bench/search.py
	$(BIN)/python tests/bench/tune.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
