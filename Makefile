# make run: the environment and one experiment. make test: the environment and the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS ?=
ARGS ?=
# uv looks for local wheels only where this says; pip's own setting is reused.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)

.PHONY: run test lint clean
