# `make demo` and `make test` need Python 3.11 or 3.12 and make; everything else they fetch into .venv themselves.

PYTHON ?= $(shell for p in python3.12 python3.11 python3 python; do $$p -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# some containers forbid byte code; then every process compiles torch, diffusers and Prefect anew, in ten seconds and more
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo serve test test-ci test-all bench miniature format lint install clean

help:  ## say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY)  ## teach the miniature a character and report on it
	$(BIN)/sdxl-flows run configs/miniature/dreambooth.yaml

serve: $(READY)  ## Prefect's server, worker and deployments, until Ctrl-C (other options: sdxl-flows serve --help)
	@exec $(BIN)/sdxl-flows serve

# tests of the report's page need Chromium or Chrome on PATH (Debian: apt install chromium) and are skipped without
test: lint  ## lint, types, import contracts and tests (some ten minutes on two cores)
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-ci: lint  ## what CI runs: the same with whole runs, kills and every case of what is much alike (half an hour)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow and not gpu'

test-all: lint  ## all, with slow tests (hours), and GPU tests where there is a GPU
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'slow or not slow'

bench: $(READY)  ## what steps, pictures, caches, scores and reruns cost beside their floors, on a CPU: writes docs/benchmarks.md (ten minutes)
	$(BIN)/python -m benchmarks.train --size miniature --rounds 12 --reference --write
	$(BIN)/python -m benchmarks.train --size mid --rounds 4 --reference --write
	$(BIN)/python -m benchmarks.train --size mid --method dpo-lora --rounds 3 --write
	$(BIN)/python -m benchmarks.generate --size miniature --batch 1 4 --write
	$(BIN)/python -m benchmarks.caching --rounds 3 --write
	$(BIN)/python -m benchmarks.evaluate --write
	$(BIN)/python -m benchmarks.orchestration --rounds 1 --write

miniature: $(READY)  ## train the miniature from nothing (hours on two cores; resumes)
	$(BIN)/python -m sdxl_core.miniature.recipe

format: $(READY)  ## put the code into its one form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(READY)  ## form, mistakes, types, direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

install: $(READY)  ## only set up .venv

# with `faces`, as the demo measures faces by the miniature's own pack; and tests of insightface are run, not skipped
# uv comes from the package index like everything else, and installs in a tenth of pip's time
$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or 3.12 found; set PYTHON=/path/to/python3.11"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet --constraint constraints.txt --editable '.[dev,faces]'
	@touch $@

clean:  ## remove .venv and the tools' caches; artifacts and runs stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build *.egg-info
