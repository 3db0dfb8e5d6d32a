# Two commands do everything on a fresh machine: `make demo` and `make test`.
VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-slow pinned test-browser browser benchmark docs lint types clean

demo: $(INSTALLED)  ## simulate a cohort, train, detect, evaluate (about a quarter of an hour)
	$(BIN)/mendscan demo -o demo

pinned:  ## what the checks run with: every package but PyTorch by its hash; Python 3.11 on 64-bit Linux
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r constraints-ci.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	touch $(INSTALLED)

test: $(INSTALLED)  ## the tests, on every core, but for the few that take minutes
	JAXTYPING=1 $(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

test-slow: $(INSTALLED)  ## those: the notebooks, the presets' shapes, trainings stopped at chosen steps (about 8 minutes)
	JAXTYPING=1 $(BIN)/python -m pytest -n auto -m slow

test-browser: browser $(INSTALLED)  ## the viewer's page in Chromium, which is installed first where that is possible
	JAXTYPING=1 $(BIN)/python -m pytest -m browser -rs tests/browser

browser:  ## Chromium for the tests of the viewer: Debian's, if there is no browser yet and this may install one
	@sh .ci/browser

benchmark: $(INSTALLED)  ## restoration at the paper's sizes, beside the reference loop (about 8 minutes)
	$(BIN)/python benchmarks/restoration.py --output runs/restoration --json runs/restoration/restoration.json

docs: $(INSTALLED)  ## the documentation, into site/index.html: to be opened from disk
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) demo runs site .pytest_cache .mypy_cache .ruff_cache
