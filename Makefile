# Every target is one line in `make help`. Settings: EXP, CKPT, RUNS, ARGS, DATASET, PYTHON.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash

PYTHON ?= python3
UV_VERSION := 0.13.8
UV := .tools/bin/uv
BIN := .venv/bin
READY := .venv/.ready
DATASET ?= shapes
EXPERIMENTS := $(patsubst experiments/%.yaml,%,$(wildcard experiments/*.yaml))

.PHONY: help setup data train eval smoke compare test test-all check format bench lock clean need-exp

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv from requirements.lock

$(UV):
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 13) else \
	"tvr_lightning needs Python 3.11 or 3.12, $(PYTHON) is %d.%d; set PYTHON=python3.11" % v)'
	@$(PYTHON) -m venv .tools
	@.tools/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(READY): requirements.lock pyproject.toml | $(UV)
	@echo "setting up .venv (about 5 GB, a minute or two)"
	@[ -x $(BIN)/python ] || $(UV) venv --quiet --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" .venv
	@$(UV) pip sync --quiet --python $(BIN)/python --require-hashes --compile-bytecode requirements.lock
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

data: $(READY) ## make a dataset that can be made: DATASET=shapes
	@$(BIN)/tvr data $(DATASET)

need-exp: $(READY)
	@[ -n "$(EXP)" ] || { echo "which experiment? EXP=NAME, one of: $(EXPERIMENTS)" >&2; exit 2; }

# the embedded dataset is made when it is not there; the others are the user's to fetch
DATA_OF = $(if $(findstring shapes,$(EXP)),data)

train: need-exp $(DATA_OF) ## train an experiment and test it: EXP=clip4clip_shapes ARGS='--trainer.max_epochs=1'
	@$(BIN)/tvr fit --config experiments/$(EXP).yaml $(ARGS)

eval: need-exp $(DATA_OF) ## test weights: EXP=clip4clip_shapes CKPT=best (or last, a run folder, a file)
	@$(BIN)/tvr test --config experiments/$(EXP).yaml --ckpt_path=$(or $(CKPT),best) $(ARGS)

smoke: $(READY) ## run every experiment for two batches on tiny generated data, or one: EXP=clip4clip_msrvtt
	@$(BIN)/tvr smoke $(EXP)

compare: $(READY) ## one table over runs: RUNS='runs/clip4clip_shapes runs/other'
	@$(BIN)/tvr compare $(RUNS)

test: $(READY) ## the fast tests, under 15 minutes on two cores
	@$(BIN)/python -m pytest -q $(ARGS)

test-all: $(READY) ## all tests
	@$(BIN)/python -m pytest -q -m '' $(ARGS)

check: $(READY) ## lint, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(READY) ## format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(READY) ## print and keep the benchmarks' figures
	@for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

lock: $(UV) ## renew requirements.lock from pyproject.toml
	@$(UV) pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	  --no-emit-index-url --no-header --extra dev $(if $(UPGRADE),--upgrade) \
	  --constraint constraints.txt -o requirements.lock pyproject.toml

clean: ## remove the environment and caches; data and runs stay
	@rm -rf .venv .tools .mypy_cache .pytest_cache .ruff_cache *.egg-info
