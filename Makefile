# make setup | demo | test | lint: each sets up what it needs; a second time costs nothing.
PYTHON ?= python3
BIN := .venv/bin
# One run folder per call, so that `make demo` can be called again.
DEMO_RUN ?= runs/demo-$(shell date +%Y%m%d-%H%M%S)

.PHONY: setup demo test lint clean

setup: .venv/installed

# torch goes first and pinned: an open range would fetch the newest build with all of CUDA.
.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/layerparallel train level-sets --run $(DEMO_RUN)

test: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis build dist
