# `make demo` and `make test` are all that a bare machine with Python 3.11 to 3.13 needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test types tests format bench clean

# The stamp is as new as the requirements that were installed.
$(VENV)/.run: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "Martlet needs Python 3.11 to 3.13; this is $$($(PYTHON) --version). Say: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: $(VENV)/.run  ## Answer the embedded puzzles with the embedded model, by vote
	$(BIN)/martlet demo

test: $(VENV)/.dev  ## Check style and types, and run the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(MAKE) --no-print-directory --jobs 2 types tests

# The tests wait at times, so that three processes fit two cores; mypy needs one for a minute.
types: $(VENV)/.dev
	$(BIN)/mypy

tests: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev  ## Measure beside transformers; writes benchmarks/results/bench/
	$(BIN)/martlet bench --against transformers --out benchmarks/results/bench --overwrite

clean:
	rm -rf $(VENV) build dist
