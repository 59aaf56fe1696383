# Every target is one line in `make help`. Settings: EXP, PAPER, SCALE, BASE, SEEDS, RESUME, CKPT, RUNS, ARGS, PYTHON, TORCH.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash

PYTHON ?= python3
UV_VERSION := 0.13.8
UV := .tools/bin/uv
BIN := .venv/bin
# Debian's package unpacked, which needs no root
WORDNET = $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tvr_lightning/wordnet

# which build of torch: the lock's, or another CUDA's (TORCH=cu126); once chosen it stays until TORCH=lock
BUILD := $(filter-out lock,$(or $(TORCH),$(shell cat .venv/.torch 2> /dev/null)))
# the oldest that pyproject.toml takes: later ones leave older CUDAs out one by one
BUILD_OF := torch==2.11.0 torchvision==0.26.0 setuptools
READY := .venv/.ready$(addprefix -,$(BUILD))
EXPERIMENTS := $(filter-out reported,$(patsubst experiments/%.yaml,%,$(wildcard experiments/*.yaml)))
GRIDS := $(patsubst experiments/%.yaml,%,$(wildcard experiments/ablations/*/*.yaml))

.PHONY: need-exp need-paper $(shell sed -n 's/^\([a-z-]*\):.*\#\# .*/\1/p' $(firstword $(MAKEFILE_LIST)))

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv from requirements.lock; for older cards and drivers: TORCH=cu126, back again: TORCH=lock

$(UV):
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else \
	"tvr_lightning needs Python 3.11 to 3.13, $(PYTHON) is %d.%d; set PYTHON=python3.11" % v)'
	@$(PYTHON) -m venv .tools
	@.tools/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(READY): requirements.lock pyproject.toml | $(UV)
	@echo "setting up .venv (about 5 GB, a minute or two)$(if $(BUILD), with $(firstword $(BUILD_OF)) for $(BUILD))"
ifneq ($(BUILD),)
	@$(UV) pip compile --quiet --offline --torch-backend $(BUILD) /dev/null > /dev/null  # refuses what it does not know
endif
	@[ -x $(BIN)/python ] || $(UV) venv --quiet --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" .venv
	@rm -f .venv/.ready*
	@echo "$(or $(BUILD),lock)" > .venv/.torch
ifeq ($(BUILD),)
	@$(UV) pip sync --quiet --python $(BIN)/python --require-hashes --compile-bytecode requirements.lock
else
	@# the lock without torch and what only torch brings; uv knows where PyTorch keeps its builds
	@awk '/^[a-z]/ {kept = !/^(torch|torchvision|triton|setuptools)==|^(cuda|nvidia)-/} kept' requirements.lock > .venv/.lock
	@printf '%s\n' $(BUILD_OF) > .venv/.build
	@$(UV) pip install --quiet --python $(BIN)/python --exact --compile-bytecode --torch-backend $(BUILD) \
	  -r .venv/.lock -r .venv/.build
endif
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@
	@[ -e "$(WORDNET)/index.noun" ] || [ -e /usr/share/wordnet/index.noun ] || echo "no WordNet here: make wordnet fetches \
	the synonyms that SPTCH's captions are augmented by; without it results say that there were none"

wordnet: ## fetch WordNet, whose synonyms augment captions (SPTCH), from Debian's wordnet-base
	@command -v apt-get > /dev/null && command -v dpkg-deb > /dev/null || { echo "apt-get and dpkg-deb are not here: unpack \
	WordNet's files (index.noun, data.noun, ...) from elsewhere into $(WORDNET)" >&2; exit 2; }
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && chmod a+rx "$$folder" && cd "$$folder" && \
	apt-get -o APT::Sandbox::User="$$(id -un)" download -qq wordnet-base && dpkg-deb -x wordnet-base_*.deb . && \
	mkdir -p "$(dir $(WORDNET))" && rm -rf "$(WORDNET)" && mv usr/share/wordnet "$(WORDNET)" && echo "WordNet lies in $(WORDNET)"

data: $(READY) ## make the embedded dataset, which training makes too where it is not there
	@$(BIN)/tvr data shapes

data-check: need-exp $(READY) ## say what a dataset on disk lacks: EXP=clip4clip_msrvtt ARGS='--split test --full'
	@$(BIN)/tvr data check --config experiments/$(EXP).yaml $(ARGS)

experiments: $(READY) ## list the experiments with what each reproduces
	@$(BIN)/tvr experiments

need-exp: # before the set-up, which takes minutes
	@[ -n "$(EXP)" ] || { echo "which experiment? EXP=NAME, such as EXP=clip4clip_shapes; make experiments lists all $(words $(EXPERIMENTS))" >&2; exit 2; }

# runs of several seeds get names of their own, so that the table at the end holds these and no others
COMMA := ,

train: need-exp $(READY) ## train an experiment and test it: EXP=clip4clip_shapes SEEDS=0,1,2 RESUME=last ARGS='--trainer.max_epochs=1'
ifneq ($(and $(SEEDS),$(RESUME)),)
	@echo "RESUME goes on with one run: leave SEEDS out, give its seed as ARGS=--seed_everything=N" >&2; exit 2
else ifeq ($(SEEDS),)
	@$(BIN)/tvr fit --config experiments/$(EXP).yaml $(if $(RESUME),--resume=$(RESUME)) $(ARGS)
else
	@for seed in $(subst $(COMMA), ,$(SEEDS)); do case $$seed in *[!0-9]*) \
	  echo "SEEDS has '$$seed', which is not a seed: SEEDS=0,1,2, numbers from 0 on" >&2; exit 2;; esac; done
	@began=$$(date +%Y%m%d-%H%M%S); words=($(ARGS)); home=runs; folders=(); \
	for i in "$${!words[@]}"; do case "$${words[i]}" in \
	  --runs_dir=*) home="$${words[i]#*=}";; --runs_dir) home="$${words[i + 1]}";; esac; done; \
	for seed in $(subst $(COMMA), ,$(SEEDS)); do \
	  $(BIN)/tvr fit --config experiments/$(EXP).yaml "$${words[@]}" --seed_everything=$$seed --run_id=$$began-s$$seed || exit $$?; \
	  found=("$$home"/*/"$$began-s$$seed"); [ -d "$${found[0]}" ] || found=("$$home/$(notdir $(EXP))/$$began-s$$seed"); \
	  folders+=("$${found[@]}"); done; \
	$(BIN)/tvr compare "$${folders[@]}"
endif

eval: need-exp $(READY) ## test weights: EXP=clip4clip_shapes CKPT=best (or last, a run folder, a file); EXP=clip_zero_shot_shapes needs none
	@$(BIN)/tvr test --config experiments/$(EXP).yaml $(if $(CKPT),--ckpt_path=$(CKPT)) $(ARGS)

smoke: $(READY) ## run every experiment for two batches on tiny generated data, or one: EXP=clip4clip_msrvtt
	@$(BIN)/tvr smoke $(EXP)

rehearse: need-exp $(READY) ## hours, memory and disk that a full run will need: EXP=tc_mgc_msrvtt ARGS='--data.batch_size=16'
	@$(BIN)/tvr rehearse --config experiments/$(EXP).yaml $(ARGS)

need-paper:
	@[ -n "$(PAPER)" ] || { echo "which paper? PAPER=NAME, such as PAPER=tc_mgc, lean, ghan or sptch" >&2; exit 2; }

reproduce: need-paper $(READY) ## a paper's rows beside its figures: PAPER=tc_mgc SEEDS=0,1,2 ARGS='--check', or SCALE=smoke without its data
	@$(BIN)/tvr reproduce $(PAPER) $(if $(SCALE),--scale=$(SCALE)) $(if $(SEEDS),--seeds="$(SEEDS)") $(ARGS)

ablate: $(READY) ## run a grid, then compare: EXP=ablations/tc_mgc/heads BASE=tc_mgc_msrvtt
	@[ -n "$(EXP)" ] || { echo "which grid? EXP=NAME, one of: $(GRIDS)" >&2; exit 2; }
	@$(BIN)/tvr ablate --config experiments/$(EXP).yaml $(if $(BASE),--base experiments/$(BASE).yaml) $(ARGS)

leakcheck: need-exp $(READY) ## train on noise, fail when new noise is found: EXP=ghan_shapes ARGS='--model.pairing=matched'
	@$(BIN)/tvr leakcheck --config experiments/$(EXP).yaml $(ARGS)

compare: $(READY) ## one table over runs: RUNS='runs/clip4clip_shapes runs/other' ARGS='--baseline clip4clip_shapes'
	@$(BIN)/tvr compare $(RUNS) $(ARGS)

dashboard: $(READY) ## one page over runs, runs/report.html: RUNS='runs/clip4clip_shapes runs/other' ARGS='--full'
	@$(BIN)/tvr dashboard $(RUNS) $(ARGS)

# without the theme's notice of what follows it
MKDOCS = NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs

# one worker per core, of one thread each; one holds about 1.5 GB, hence the bound; a file's tests share what they made
SPREAD := -q -n logical --maxprocesses 4 --dist loadfile
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SPREAD)

test: $(READY) ## the fast tests, about eight minutes on two idle cores
	@$(PYTEST) $(ARGS)

test-all: $(READY) ## all tests
	@$(PYTEST) -m '' $(ARGS)

test-gpu: $(READY) ## the tests that need a GPU, two minutes on one
	@$(BIN)/python -m pytest -q -m gpu tests/gpu $(ARGS)

torture: $(READY) ## odd and damaged media, kills: docs/reliability.md, under 10 minutes on two cores: ARGS='--seed 1'
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.torture $(ARGS)

coverage: $(READY) ## lines that the fast tests run; every line of metrics/, evaluation/ and losses/ must be among them
	@$(PYTEST) --cov --cov-report= $(ARGS)
	@$(BIN)/coverage report
	@$(BIN)/coverage report --fail-under=100 --include='tvr_lightning/metrics/*,tvr_lightning/evaluation/*,tvr_lightning/losses/*'

check: ci-lint ci-types ## lint, format, types, docker/, the workflow and the citation

format: $(READY) ## format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(READY) ## build the documentation into site/, no network; a warning ends it
	@$(MKDOCS) build --strict --quiet $(ARGS)
	@echo "open site/index.html, or make docs-serve for a page that can be searched"

docs-serve: $(READY) ## the documentation as a page that follows what is edited
	@$(MKDOCS) serve $(ARGS)

bench: $(READY) ## print and keep the benchmarks' figures
	@for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

results: $(READY) ## train the methods on shapes as docs/results.md has them (hours), write it: ARGS='hashing --jobs 4'
	@$(BIN)/python benchmarks/figures/protocol.py --then_page docs/results.md $(ARGS)

# one thread, so that the time is that of a small machine
notebooks: $(READY) ## execute the notebooks of docs/notebooks/, two minutes each at most
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --nbmake --nbmake-timeout=240 -m '' docs/notebooks $(ARGS)

lock: $(UV) ## renew requirements.lock from pyproject.toml
	@$(UV) pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	  --no-emit-index-url --no-header --extra dev $(if $(UPGRADE),--upgrade) \
	  --constraint constraints.txt -o requirements.lock pyproject.toml

# The jobs of .github/workflows/ci.yml and of .ci/run, which call these and nothing else.

ci-packages: ## what ci-lint takes from the system: docker compose, installed where root and apt-get are
	@# without Debian's recommendations no engine comes with it
	@if command -v docker-compose > /dev/null || docker compose version > /dev/null 2>&1; then exit 0; fi; \
	if ! command -v apt-get > /dev/null || { [ "$$(id -u)" != 0 ] && ! sudo -n true 2> /dev/null; }; then \
	  echo "docker compose is not installed, and only root on Debian can install it here; install it first" >&2; exit 1; fi; \
	root=$$([ "$$(id -u)" = 0 ] || echo sudo); $$root apt-get update -qq && \
	$$root env DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends docker-compose > /dev/null

WORKFLOWS := vendor.github-workflows:.github/workflows/ci.yml vendor.citation-file-format:CITATION.cff \
  vendor.github-issue-config:.github/ISSUE_TEMPLATE/config.yml \
  $(addprefix vendor.github-issue-forms:,$(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml)))

ci-lint: $(READY) ## lint, format, docker/, and what GitHub reads against its schemas
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@docker/check.sh
	@for pair in $(WORKFLOWS); do $(BIN)/check-jsonschema --quiet --builtin-schema $${pair%%:*} $${pair#*:} || exit 1; done

ci-types: $(READY) ## mypy, strict
	@$(BIN)/mypy

ci-tests: test ## the fast tests, on PYTHON: PYTHON=python3.13

# TORCH chooses the build of torch as for set-up: that for CPUs, TORCH=cpu, is a tenth of the size
MINIMUM := .minimum/bin/python
ci-minimum: $(UV) ## the oldest versions that pyproject.toml takes, in .minimum, and the fast tests on them: ARGS=tests/metrics
	@$(UV) venv --quiet --clear --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" .minimum
	@$(UV) pip compile --quiet --resolution lowest-direct --no-header --extra completion --extra reports --extra search \
	  --extra milvus --python $(MINIMUM) $(if $(BUILD),--torch-backend $(BUILD)) -o .minimum/requirements.txt pyproject.toml
	@$(UV) pip install --quiet --python $(MINIMUM) $(if $(BUILD),--torch-backend $(BUILD)) \
	  -r .minimum/requirements.txt setuptools pytest pytest-timeout pytest-xdist hypothesis
	@$(UV) pip install --quiet --python $(MINIMUM) --no-deps --editable .
	@# what old releases warn of, later ones have mended
	@OMP_NUM_THREADS=1 $(MINIMUM) -m pytest $(SPREAD) -o filterwarnings=default $(ARGS)

ci-docs: docs ## the docs site, warnings are errors

ci-wheel: $(UV) ## build the wheel, install it into an empty environment away from the checkout, and use it there
	@.ci/wheel "$(abspath $(UV))" "$$($(PYTHON) -c 'import sys; print(sys.executable)')"

ci-smoke: smoke ## every experiment for two batches

ci-notebooks: notebooks ## both notebooks, executed

ci-container: ## build the image for CPUs and run it; skipped, with the reason, where no engine answers
	@if ! command -v docker > /dev/null; then echo "ci-container: skipped, docker is not installed"; \
	elif ! docker info > /dev/null 2>&1; then echo "ci-container: skipped, docker's engine does not answer (docker info)"; \
	else mkdir -p data runs && export TVR_UID=$$(id -u) TVR_GID=$$(id -g) && \
	if [ "$$TVR_UID" = 0 ]; then TVR_UID=1000 TVR_GID=1000; fi && \
	docker compose -f docker/compose.yaml build cpu && \
	docker compose -f docker/compose.yaml run --rm cpu tvr smoke clip4clip_shapes; fi

clean: ## remove the environment and caches; data and runs stay
	@rm -rf .venv .tools .minimum .mypy_cache .pytest_cache .ruff_cache .coverage *.egg-info
