# gradsweep: `make demo` runs a study on this machine, `make test` runs every check.
PYTHON ?= python3
VENV ?= .venv
LOWEST ?= .venv-lowest
STUDY ?= studies/census-quick.yaml
# Three files at once, since half of the time of the slow ones, which come first, is waiting; a file in its order.
PYTEST_ARGS ?= --numprocesses 3 --dist loadfile --no-loadscope-reorder
FUZZ_SEED ?= 1
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

BIN := $(VENV)/bin
# What pip may install: constraints.txt, less the pin of a torch that is kept.
PINS := $(VENV)/constraints.txt
# Python compiles what it imports; pip would take a minute to compile all the rest too.
INSTALL := $(BIN)/pip install -q --no-compile -c $(PINS)

# Compiled code is kept, whatever the environment says: without it each start compiles torch, MLflow and Ray again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test test-quick test-lowest check docs fuzz chaos audit constraints browser images clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/.demo ## install gradsweep into .venv and run the small census study
	@echo "==> gradsweep run $(STUDY)"
	@$(BIN)/gradsweep run $(STUDY)

test: $(VENV)/.dev browser images check ## linters, type checks and all tests, slow ones too
	@echo "==> pytest, slow tests too (takes some minutes)"
	@$(BIN)/pytest $(PYTEST_ARGS)

test-quick: $(VENV)/.dev ## the tests that take seconds
	@echo "==> pytest, without the slow tests"
	@$(BIN)/pytest -m "not slow" $(PYTEST_ARGS)

# What no lowest version is named for is left out: browsers, database servers, torchjd, other frameworks, clusters.
LOWEST_TESTS := tests/balancers tests/search_spaces tests/hpo balancers search_spaces hpo/core hpo/study hpo/problems
LOWEST_LESS := balancers/frameworks tests/balancers/frameworks tests/hpo/training/frameworks tests/hpo/report/test_html_page.py \
  tests/hpo/report/test_images.py tests/hpo/tracking/test_experiment.py tests/hpo/execution tests/hpo/launch

test-lowest: $(LOWEST)/.installed ## quick tests with the lowest versions that pyproject.toml allows, in an environment of its own
	@echo "==> pytest with the lowest versions, without browser, cluster and slow tests"
	@$(LOWEST)/bin/pytest -m "not slow" $(LOWEST_TESTS) $(addprefix --ignore=,$(LOWEST_LESS))

docs: $(VENV)/.dev ## build the documentation into site/; a broken link or an undocumented public name is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "==> site/index.html"

check: $(VENV)/.dev ## ruff, mypy and the import contracts
	@echo "==> ruff check"
	@$(BIN)/ruff check
	@echo "==> ruff format --check"
	@$(BIN)/ruff format --check
	@echo "==> mypy"
	@$(BIN)/mypy
	@echo "==> lint-imports"
	@$(BIN)/lint-imports

fuzz: $(VENV)/.dev ## 10,980 fuzzed study files and 14,400 weights files; FUZZ_SEED=N takes others
	@GRADSWEEP_FUZZ_TIMES=9 GRADSWEEP_FUZZ_SEED=$(FUZZ_SEED) $(BIN)/pytest tests/hpo/cli/test_fuzz.py --timeout 3000 \
	  --numprocesses 2 -k "any_bytes or any_value or other_values or damaged or at_its_worst or as_ratios"

chaos: $(VENV)/.dev ## 20 kills of trials, nodes and drivers in each of three studies, 20 of a first launch; `make test` takes 5, 3 and 7
	@GRADSWEEP_CHAOS_KILLS=20 $(BIN)/pytest tests/hpo/execution/test_chaos.py tests/hpo/execution/test_deaths.py \
	  tests/hpo/execution/test_nodes.py tests/hpo/execution/test_rank_chaos.py tests/hpo/launch/test_kill_moments.py tests/test_sweep_benchmark.py

audit: $(VENV)/.dev ## known vulnerabilities of the pinned packages; needs the network, so CI does not run it
	@$(BIN)/pip install -q pip-audit
	@$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip

constraints: $(VENV)/.dev ## write constraints.txt anew from what .venv holds
	@{ sed -n '/^#/p' constraints.txt; \
	   $(BIN)/pip freeze --exclude-editable | \
	     sed -n -E 's/^([A-Za-z0-9._-]+==[^+ ]+)(\+.*)?$$/\1/p' | \
	     grep -v -i -E '^(nvidia|cuda|triton|pip|wheel)([-_=].*)$$'; } > constraints.new
	@mv constraints.new constraints.txt
	@echo "==> constraints.txt: $$(grep -c == constraints.txt) packages pinned"

# The browser tests open the report in Chromium; without one they are skipped.
browser:
	@for name in chromium chromium-browser google-chrome google-chrome-stable; do \
	  if command -v $$name >/dev/null; then exit 0; fi; \
	done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "==> apt-get install chromium, for the browser tests (takes a minute or two)"; \
	  if apt-get update -qq && \
	     DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium >/dev/null; \
	  then exit 0; fi; \
	fi; \
	echo "==> no chromium or google-chrome here: the browser tests will be skipped"

# The pictures of the problem multi_fashion are a Debian package; without it its tests are skipped.
images:
	@if [ -d /usr/share/datasets/fashion-mnist ] || [ -n "$$GRADSWEEP_FASHION" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "==> apt-get install dataset-fashion-mnist, for the tests of multi_fashion"; \
	  if apt-get update -qq -o Acquire::http::Timeout=30 && \
	     DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends dataset-fashion-mnist \
	       >/dev/null; then exit 0; fi; \
	fi; \
	echo "==> no dataset-fashion-mnist here: the tests of multi_fashion will be skipped"

clean: ## remove .venv, build output and caches (results in gradsweep-output/ stay)
	rm -rf $(VENV) $(LOWEST) build dist site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A virtual environment that is there already is used as it is.
$(VENV)/.python:
	@python="$(PYTHON)"; if [ -x $(BIN)/python ]; then python=$(BIN)/python; fi; \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "gradsweep needs Python 3.11 or newer. Found \`$$($$python --version 2>&1 | head -n 1)\`:" \
	    "name another with \`make PYTHON=python3.12 ...\`."; exit 1; }; \
	if [ ! -x $(BIN)/python ]; then \
	  echo "==> $(VENV): a virtual environment with $$($$python --version)"; \
	  $$python -m venv $(VENV); \
	fi
	@touch $@

# A torch that is there before us (say, a CUDA build put there by hand) is kept, whatever its
# version: then its pin is left out.
$(PINS): constraints.txt | $(VENV)/.python
	@if [ ! -e $(VENV)/.our-torch ] && $(BIN)/python -c 'import torch' 2>/dev/null; then \
	  echo "==> keeping torch $$($(BIN)/python -c 'import torch; print(torch.__version__)')"; \
	  grep -v '^torch==' constraints.txt > $@; \
	else cp constraints.txt $@; fi

# The CPU build is a tenth of the size of the CUDA build, and comes from PyTorch's own index. With an
# NVIDIA driver, or where that index does not answer, the build is the one that pip finds by itself.
$(VENV)/.torch: $(PINS)
	@if grep -q '^torch==' $(PINS); then \
	  touch $(VENV)/.our-torch; \
	  index=; build="pip's own choice of build"; \
	  if ! command -v nvidia-smi >/dev/null && command -v curl >/dev/null && \
	     curl -fsS -m 5 -o /dev/null $(TORCH_CPU_INDEX)/ 2>/dev/null; \
	  then index="--extra-index-url $(TORCH_CPU_INDEX)"; build="CPU build"; fi; \
	  echo "==> pip install torch, $$build (takes some minutes)"; \
	  $(INSTALL) $$index torch; \
	fi
	@touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	@echo "==> pip install -e '.[data]' (takes some minutes)"
	@$(INSTALL) -e '.[data]'
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	@echo "==> pip install -e '.[dev]', with the data of all problems (takes some minutes)"
	@$(INSTALL) -e '.[dev]'
	@touch $@

$(LOWEST)/.installed: pyproject.toml | $(VENV)/.python
	@echo "==> $(LOWEST): the lowest versions of pyproject.toml (takes some minutes)"
	@rm -rf $(LOWEST)
	@$(BIN)/python -m venv $(LOWEST)
	@$(LOWEST)/bin/pip install -q uv
	@$(LOWEST)/bin/uv pip compile -q --resolution lowest-direct --python $(LOWEST)/bin/python \
	  --extra data --extra earth pyproject.toml -o $(LOWEST)/lowest.txt
	@$(LOWEST)/bin/uv pip install -q --python $(LOWEST)/bin/python -c $(LOWEST)/lowest.txt -e '.[data,earth,torchjd,test]'
	@touch $@
