# make setup | demo | test | test-fast | lint | types | docs | package: each sets up what it needs; a
# second time costs nothing. TORCH=2.14.1 takes that PyTorch, in an environment of its own.
PYTHON ?= python3
TORCH ?=
# Processes that the tests are shared out to.
WORKERS ?= 2
# One run folder per call, so that `make demo` can be called again.
DEMO_RUN ?= runs/demo-$(shell date +%Y%m%d-%H%M%S)

VENV := .venv$(TORCH:%=-%)
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet
PINS := $(VENV)/constraints.txt
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS)

.PHONY: setup demo test test-fast lint types docs package clean

setup: $(VENV)/installed

# torch goes first and pinned: an open range would fetch the newest build with all of CUDA.
$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	sed '$(TORCH:%=s/^torch==.*/torch==%/)' constraints.txt > $(PINS)
	$(PIP) install --constraint $(PINS) --upgrade pip
	$(PIP) install --constraint $(PINS) torch
	$(PIP) install --constraint $(PINS) --build-constraint $(PINS) --group dev --editable .
	touch $@

demo: setup
	$(BIN)/layerparallel train level-sets --run $(DEMO_RUN)

test: setup
	$(PYTEST)

test-fast: setup
	$(PYTEST) -m 'not slow'

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/pyright

# The site, in site/index.html: works from disk and fetches nothing.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Wheel and sdist, in dist/; and the wheel at work in an empty environment.
package: setup
	rm -rf dist
	$(BIN)/python -m build --quiet --dependency-constraints-txt $(PINS)
	$(BIN)/python dev/package.py dist $(PINS)

clean:
	rm -rf .venv .venv-* .pytest_cache .ruff_cache .hypothesis build dist site
