# make setup | demo | test | lint | docs: each sets up what it needs; a second time costs nothing.
PYTHON ?= python3
BIN := .venv/bin
# One run folder per call, so that `make demo` can be called again.
DEMO_RUN ?= runs/demo-$(shell date +%Y%m%d-%H%M%S)

.PHONY: setup demo test lint docs clean

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

# The site, in site/index.html: works from disk and fetches nothing.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis build dist site
