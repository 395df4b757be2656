# On a fresh machine with Python 3.11 or later and pip:
#   make demo       install into .venv and run the demo
#   make test       install with what the tests need and run them all; SLOW_UNTIL=$(($(date +%s) + 3600)) begins no
#                   slow one after an hour, and says which weren't run
#   make test-fast  in some two minutes once loops are compiled: no searches, other slow tests or Ray
#   make lint       style and types
#   make docs       the pages of docs/ and the reference from the docstrings, into site/

PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
# Of two cores: while tests of Ray wait, which is much of their time, a third process has work.
WORKERS ?= 3

BIN := $(VENV)/bin
COMMA := ,
# One failed download shouldn't leave a folder that looks installed, hence the stamps. Python compiles what it imports,
# a small part of what is installed; where it may not keep that, each process would take twice as long to import torch.
unexport PYTHONDONTWRITEBYTECODE
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt
# xdist waits for ever for a process that died if it may start another in its place; so it names the test and ends.
PYTEST := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile \
	--no-loadscope-reorder --max-worker-restart 0

.PHONY: demo demo-small test test-fast lint docs clean

demo: $(VENV)/.installed
	$(BIN)/evomerge demo $(DEMO)

demo-small: $(VENV)/.installed
	$(BIN)/evomerge demo $(DEMO) --small

test: $(VENV)/.installed-test
	$(PYTEST) $(if $(SLOW_UNTIL),--slow-until $(SLOW_UNTIL))

test-fast: $(VENV)/.installed-test
	$(PYTEST) -m "not slow and not ray"

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed-docs
	$(BIN)/mkdocs build --quiet

clean:
	rm -rf $(VENV) site

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "evomerge needs Python 3.11 or later; set PYTHON")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP_INSTALL) --editable .
	touch $@

$(VENV)/.installed-%: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP_INSTALL) --editable '.[$*]'
	touch $@ $(VENV)/.installed $(addprefix $(VENV)/.installed-,$(subst $(COMMA), ,$*))
