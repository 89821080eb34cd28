PYTHON ?= python3
VENV ?= .venv
STAMP := $(VENV)/.installed

.PHONY: demo test lint clean

demo: $(STAMP)  ## train a digit classifier with no rate to choose, and write its report
	$(VENV)/bin/superconv fit digits --out runs/demo --overwrite

test: $(STAMP) lint  ## everything that must pass before a commit
	$(VENV)/bin/pytest --numprocesses auto --maxprocesses 8 --dist worksteal

lint: $(STAMP)
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:  ## what make and the tests leave; runs/ stays, trained models are in it
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
