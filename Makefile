# Two commands for a newcomer: `make demo` and `make test`. Both set up what is missing first.
# Needs Python 3.11 or 3.12 and make. Nothing is installed outside this folder and ~/.cache.

VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.8
STAMP := $(VENV)/.set-up
# a process that may not keep what it compiled compiles torch anew at every start: ten seconds each
unexport PYTHONDONTWRITEBYTECODE
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow lint format lock clean

help: ## say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## virtual environment with locked dependencies; the command is then .venv/bin/kerbwatch
	@echo "set up: $(BIN)/kerbwatch --help"

$(STAMP): requirements.lock pyproject.toml
	@for python in "$(PYTHON)" python3.11 python3.12 python3; do \
	  [ -n "$$python" ] && "$$python" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null \
	    && { echo "1/3 virtual environment with $$("$$python" --version)"; "$$python" -m venv $(VENV) && exit 0 || exit 1; }; \
	done; echo "Python 3.11 or 3.12 is needed; install one, or name it: make setup PYTHON=/path/to/python3.12" >&2; exit 1
	@echo "2/3 locked dependencies (torch is large: about a minute the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --compile-bytecode --requirement requirements.lock
	@echo "3/3 kerbwatch itself"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

demo: setup ## two cameras, one attack, one incident, start to end (ARGS='--json facts.json' and others pass through)
	@$(BIN)/kerbwatch demo $(ARGS)

test: setup ## all tests but the slow ones, those against the real broker included
	@$(BIN)/python -m pytest -m "not slow" $(ARGS)

test-slow: setup ## the long ones: kill -9 of every part in turn, the whole demo
	@$(BIN)/python -m pytest -m slow $(ARGS)

lint: setup ## ruff, mypy and the import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: setup ## let ruff mend what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lock: setup ## resolve the dependencies anew (no index address goes into the lock)
	@$(BIN)/uv pip compile --universal --python-version 3.11 --extra train --group dev --no-header --no-annotate \
	  --no-emit-index-url --quiet --upgrade pyproject.toml --output-file requirements.lock

clean: ## remove the virtual environment and all local state (var/)
	@if [ -x $(BIN)/kerbwatch ]; then $(BIN)/kerbwatch down --quiet || true; fi
	@rm -rf $(VENV) var .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
