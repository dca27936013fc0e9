# Two commands do everything on a fresh machine with Python 3.11+: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint bench docs architectures clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(READY)

demo: $(READY)  ## run the whole way on the miniature family that ships with the package
	$(BIN)/provenance demo

test: $(READY)  ## the whole suite
	$(BIN)/pytest -n 2 --dist loadfile

lint: $(READY)  ## style, types and the floor plan
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)  ## print benchmark tables; asserts nothing
	for benchmark in benchmarks/[a-z]*.py; do $(BIN)/python -m benchmarks.$$(basename $$benchmark .py) || exit 1; done

docs: $(READY)  ## regenerate the generated parts of the docs
	$(BIN)/python -m tools.make_cli_reference

architectures: $(READY)  ## resolve every class of transformers and rewrite the coverage table; minutes
	$(BIN)/python -m tools.make_architecture_table

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis demo-store
