# Everything here sets up what it needs by itself, works in any order, and works twice.
# `make` alone lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help run test browser docs readme lab lint setup clean

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOG := $(VENV)/install.log

# The first Python that fits. Another one: make run PYTHON=/path/to/python3.12
FITS := import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 13))
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.10; do $$p -c '$(FITS)' >/dev/null 2>&1 && echo $$p && break; done)

# Options for the command, e.g. make run ARGS="--seed 1"
ARGS ?=

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(STAMP)  ## the main job: train on the embedded sample, print the results, write runs/
	@$(BIN)/mpsea train --params world --fresh $(ARGS)

test: $(STAMP)  ## all tests: the notebooks' own, and those in tests/
	@echo "== notebooks"
	@OMP_NUM_THREADS=1 $(BIN)/nbdev_test --n_workers 2 --timing
	@echo "== tests/"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q $(ARGS)

browser: $(STAMP)  ## tests in Debian's chromium, of JupyterLab and of the built site; screenshots/ shows what they saw
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m browser tests/test_browser.py $(ARGS)

docs: $(STAMP)  ## build the site into _docs/ (a broken link is an error); look at it with: make docs ARGS=serve
	@$(BIN)/python -c "from mpsea.docsite import main; main(serve='$(ARGS)' == 'serve')"

readme: $(STAMP)  ## write README.md from nbs/index.ipynb
	@$(BIN)/python -c "from mpsea.docsite import make_readme; print('README.md', 'written' if make_readme() else 'is up to date')"

lab: $(STAMP)  ## open JupyterLab at Start here
	@$(BIN)/mpsea lab $(ARGS)

lint: $(STAMP)  ## check notebooks, modules and tests with ruff
	@$(BIN)/ruff check .

setup: $(STAMP)  ## install everything into .venv, and nothing else

# pip's whole output goes to a log; what takes long is shown.
SHOW := while read -r line; do case "$$line" in \
  Downloading*[0-9][0-9].[0-9]" MB)"*|Downloading*" GB)"*) echo "   $$line";; \
  "Installing collected"*) echo "   unpacking";; \
  esac; done

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.10 to 3.12 with venv found. Install python3.11 and python3.11-venv, or: make PYTHON=/path/to/python"; exit 1; }
	@test -x $(BIN)/python || { echo "== $(VENV): a new environment with $$($(PYTHON) --version)"; $(PYTHON) -m venv $(VENV); }
	@pins=$$($(BIN)/python -c 'import sys; print("-c constraints.txt" if sys.version_info[:2] >= (3, 11) else "")'); \
	echo "== installing into $(VENV): a few minutes, about 6 GB, the log is $(LOG)"; \
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off $$pins -e ".[dev]" 2>&1 | tee $(LOG) | $(SHOW) \
	|| { echo "The installation failed. The end of $(LOG):"; tail -n 15 $(LOG); exit 1; }
	@touch $@

clean:  ## remove what was built (not .venv, not runs/)
	@rm -rf _docs _proc screenshots dist build .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
