# Each target makes .venv by itself; a second run installs nothing again.

# The Python that .venv is made with: 3.11 to 3.13.
PYTHON ?= python3
# Processes of `make test`; 0 runs the tests in one, for a debugger. They take
# whole stretches of tests (worksteal), so that a file's fixtures, which may be
# trained models, are seldom made twice.
WORKERS ?= 2
# Further arguments of pytest, such as `make test TESTS=tests/moe`.
TESTS ?=

BIN := .venv/bin
INSTALLED := .venv/installed

# Compiled programs of the tests that a contributor repeats; `make test` compiles
# all anew.
PROGRAMS ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/taskmoe-tests

.PHONY: demo test quick changed lint docs clean

# This .venv has no other platform, but a TPU compiler for the tests, which would
# announce that it finds no TPU.
demo: $(INSTALLED)
	JAX_PLATFORMS=$${JAX_PLATFORMS:-cpu} $(BIN)/taskmoe demo

test: $(INSTALLED)
	$(BIN)/python -m pytest -n $(WORKERS) --dist=worksteal --durations=20 -rs \
	  $(TESTS)

# What neither compiles much, nor runs whole commands, nor starts processes; in
# one process, since each collects and imports for itself.
quick: $(INSTALLED)
	TASKMOE_TEST_PROGRAMS=$(PROGRAMS) $(BIN)/python -m pytest -n 0 \
	  -m "not slow" $(TESTS)

# The tests of the rooms that differ from main, and of those that import them.
changed: $(INSTALLED)
	@tests=$$($(BIN)/python -m tests.changed) && \
	if [ -z "$$tests" ]; then echo "no test is of what changed"; else \
	  echo "$$tests" && TASKMOE_TEST_PROGRAMS=$(PROGRAMS) $(BIN)/python -m \
	    pytest -n $(WORKERS) --dist=worksteal $$tests; fi

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Reference pages of all modules, from their docstrings: build/docs/index.html.
# A module that cannot be imported is an error. TensorFlow greets on import.
docs: $(INSTALLED)
	JAX_PLATFORMS=cpu TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python \
	  -W error::UserWarning:pdoc.doc -m pdoc --docformat=google \
	  --no-show-source --output-directory=build/docs \
	  taskmoe_jax taskmoe_jax.tasks

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache

# venv writes pip last, so that one cut short is made again.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info < (3, 14) or \
	  sys.exit("Python 3.11 to 3.13 is needed and $(PYTHON) is " + \
	  sys.version.split()[0] + ". Name another: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv

$(INSTALLED): setup.py pyproject.toml | $(BIN)/pip
	@echo "Installing into .venv (some minutes the first time) ..."
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@
