# make demo: train the first reproduction and draw it.  make test: the tests.  make docs: the
# documentation, in site/.  Each installs what it needs into the virtual environment first.
PYTHON ?= python3
PIP = .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: setup demo test test-all lint docs bench clean

setup:  # everything for all targets at once
	$(PYTHON) -m venv .venv
	$(PIP) --editable '.[test,lint,docs]'
	touch .venv/installed .venv/installed-tools

demo: .venv/installed
	.venv/bin/fathom reproduce vanishing_gradients
	.venv/bin/fathom show vanishing_gradients/ skip=none activation=sigmoid model.depth=64 seed=0

test: .venv/installed
	.venv/bin/python -m pytest

test-all: .venv/installed
	.venv/bin/python -m pytest -m ''

lint: .venv/installed-tools
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright

docs: .venv/installed-tools
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict

bench: .venv/installed
	$(PIP) --editable '.[bench]'
	.venv/bin/fathom bench

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) --editable '.[test]'
	touch $@

.venv/installed-tools: .venv/installed
	$(PIP) --editable '.[test,lint,docs]'
	touch $@

clean:
	rm -rf .venv dist site
