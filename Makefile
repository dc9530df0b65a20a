# make tutorial   set up, then run all five notebooks on the demo profile (CPU, no network needed while they run)
# make test       set up, then run the tests
# make test-kit   fetch a classroom kit for this machine and install it with every index switched off
# make check      what is installed, what is wrong, which command mends it
# make lab        open JupyterLab on copies of the notebooks in work/
# make site       run all notebooks, then build the site: open site/index.html
# make test-colab the notebooks with the IPython, ipykernel, ipywidgets, numpy, pandas and matplotlib that Colab has
# make figures    remake the pictures of the README
# Set PYTHON=python3.12 to choose an interpreter; otherwise the first of these that fits is taken.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 15))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
EXTRAS ?= test# what else to install: `make test EXTRAS=test,browser` has the browser tests too
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: tutorial test check lab site test-colab figures test-kit clean

tutorial: $(READY)
	$(BIN)/m2f run

test: $(READY)
	$(BIN)/python -m pytest

check: $(READY)
	$(BIN)/m2f check

lab: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[lab]'
	$(BIN)/m2f lab

site: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[site]'
	$(BIN)/m2f run $(notdir $(wildcard notebooks/[0-9]*.ipynb))
	$(BIN)/python docs/build.py runs site

test-colab: $(READY)
	$(BIN)/python -m pytest -n 0 -m online tests/test_runtimes.py

figures: tutorial
	$(BIN)/m2f figures runs notebooks/figures

test-kit: $(READY)
	M2F_TEST_KIT=1 $(BIN)/python -m pytest -n 0 tests/classroom/test_kit.py

clean:
	rm -rf $(VENV) runs site

$(READY): pyproject.toml constraints.txt
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 15))' 2>/dev/null || \
		{ echo "This tutorial needs Python 3.10 to 3.14; found: $$($(or $(PYTHON),python3) --version 2>&1). Install one and call: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@
