# The commands of the house. `make demo` does the main job, `make test` is all that CI runs.
# PYTHON is the interpreter that makes .venv, WORKERS how many processes run the tests, and UV the
# tool that `make lock` alone needs.

PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
UV ?= uv
COMPILE = $(UV) pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --no-header --quiet

MAKEFLAGS += --no-print-directory
.NOTPARALLEL:
.PHONY: help setup setup-dev demo dev test check gates lock format clean

help:
	@echo "make demo   set up, start a cloud, boot a real server and walk it through its life"
	@echo "make test   set up, then everything that CI runs"
	@echo "make check  the quick tier: lint, types, layers and the quick tests"
	@echo "make dev    a whole cloud in the foreground, with client settings to paste"
	@echo "make setup  .venv from the lock, and Debian packages where that is allowed"
	@echo "make lock   pin the dependencies of pyproject.toml again"
	@echo "make clean  remove what these commands made"

setup:
	@$(PYTHON) scripts/setup.py

setup-dev:
	@$(PYTHON) scripts/setup.py --dev

demo: setup
	$(BIN)/xenith demo

dev: setup
	$(BIN)/xenith up

gates:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

test: setup-dev gates
	XENITH_TEST_DATABASE=postgresql $(BIN)/pytest -n $(WORKERS) --dist loadgroup -q -m "not e2e" tests/api
	$(BIN)/pytest -n $(WORKERS) --dist loadgroup

check: setup-dev gates
	$(BIN)/pytest -n $(WORKERS) --dist loadgroup -q -m "not slow and not e2e"

format: setup-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: setup-dev
	$(COMPILE) --extra s3 --group build --output-file requirements.lock
	$(COMPILE) --extra s3 --group dev --output-file requirements-dev.lock

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find src tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
