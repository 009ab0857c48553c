# make demo: train the first reproduction and draw it.  make test: the tests.  Both make the virtual environment first.
PYTHON ?= python3
PIP = .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-all lint bench clean

demo: .venv/installed
	.venv/bin/fathom reproduce vanishing_gradients
	.venv/bin/fathom show 'activation=sigmoid,model.depth=64,seed=0,skip=none'

test: .venv/installed
	.venv/bin/python -m pytest

test-all: .venv/installed
	.venv/bin/python -m pytest -m ''

lint: .venv/installed-lint
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright

bench: .venv/installed
	$(PIP) --editable '.[bench]'
	.venv/bin/fathom bench

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) --editable '.[test]'
	touch $@

.venv/installed-lint: .venv/installed
	$(PIP) --editable '.[test,lint]'
	touch $@

clean:
	rm -rf .venv dist
