# Two commands: `make book` and `make test`. Everything that they need goes into .venv.
PROFILE ?= quick
PYTHON  ?= python3.11
CORES   ?= all
PORT    ?= 8000

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c

VENV  := .venv
READY := $(VENV)/.ready
BIN   := $(CURDIR)/$(VENV)/bin
export PATH := $(BIN):$(PATH)
export MPLBACKEND := agg
# Threads that wait for others should sleep: spinning ones cost a busy machine most of its time.
export OMP_WAIT_POLICY := passive

.DEFAULT_GOAL := help
.PHONY: help env book serve test lint notebooks references publish bench lock clean distclean

help:  ## Show this help
	@echo "Pixels to Physics. Targets:"
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1|\2/' | awk -F"|" '{printf "%-18s %s\n", $$1, $$2}'
	@echo "Options: PROFILE=smoke|quick|cpu|full (now $(PROFILE)), CORES=n, PYTHON=python3.x, PORT=n"

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is missing or older than 3.11; name another: make PYTHON=python3.12 ..."; exit 1; }
	@echo "--- environment: .venv, pinned by requirements.lock (one to three minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -r requirements.lock 2>&1 | \
		grep --line-buffered -E '^(Collecting|Installing|Successfully|ERROR|error)' || \
		{ test $${PIPESTATUS[0]} = 0 || exit 1; }
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@$(BIN)/python -m compileall -q astro_utils  # once, also where Python is told to keep no compiled modules
	@touch $(READY)

env: $(READY)  ## Make the environment only

book: $(READY)  ## Run the notebooks at PROFILE and build the HTML book
	@test -f workflow/parameters/$(PROFILE).yaml || \
		{ echo "no profile '$(PROFILE)'; expected one of: $(basename $(notdir $(wildcard workflow/parameters/*.yaml)))"; exit 1; }
	@snakemake --workflow-profile workflow/profiles/workstation --cores $(CORES) --config profile=$(PROFILE)
	@echo "--- the book ($(PROFILE)): file://$(CURDIR)/_build/html/index.html   (or: make serve)"

serve: ## Serve the built book at http://localhost:PORT
	@test -f _build/html/index.html || { echo "no book yet; run: make book"; exit 1; }
	@$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

# Tests that build the whole book, which takes as long as all others together.
BOOK_TESTS := tests/test_book.py tests/test_reference.py tests/test_workflow.py

# Threads of each of two processes that run side by side.
HALF := $(shell expr \( $$(getconf _NPROCESSORS_ONLN) + 1 \) / 2)
# Notebooks first and the book last, when they are through: it takes over what they have kept.
NBVAL := -q -p no:cacheprovider -p workflow.kernels -W ignore --nbval-lax --nbval-kernel-startup-timeout=120
LONGEST := notebooks/starsed notebooks/kcorrection
STUDIES := $(LONGEST) $(filter-out $(LONGEST),$(wildcard notebooks/*))
# A minute of tests for the process that is through with the book before the other is with the rest.
REST := tests/test_starsed_*.py
PARTS := $(STUDIES:%="$(NBVAL) %") "tests $(BOOK_TESTS:%=--ignore=%) --ignore-glob=$(REST)" "$(BOOK_TESTS)" "$(REST)"

test: lint  ## Run ruff, pytest and nbval over every notebook
	@echo "--- pytest: the notebooks of each study (nbval), all tests but those of the built book, and those; two at a time"
	@printf '%s\n' $(PARTS) | OMP_NUM_THREADS=$(HALF) xargs -P 2 -I WHICH sh -c 'python -m pytest WHICH'

lint: $(READY)
	@echo "--- ruff"
	@ruff check . && ruff format --check .

notebooks: $(READY)  ## Run nbval, two studies at a time: every notebook at its defaults against its outputs
	@echo "--- nbval"
	@ls -d notebooks/*/ | xargs -P 2 -I STUDY python -m pytest $(NBVAL) STUDY

references: $(READY)  ## Execute every notebook at its defaults and keep the outputs as the new reference
	@python workflow/references.py

publish: $(READY)  ## Keep the results of PROFILE with the repository, in data/published
	@python workflow/publish.py $(PROFILE)

bench: $(READY)  ## Measure the simulated sky, training and the PSF, and keep the tables with the repository (fifteen minutes)
	@python workflow/bench.py
	@python workflow/bench_training.py
	@OMP_WAIT_POLICY=active python workflow/bench_psf.py

lock: ## Pin the newest versions that pyproject.toml admits into requirements.lock
	@$(PYTHON) workflow/lock.py

clean: ## Remove results, executed notebooks and the built book (not .venv, not downloaded data)
	@rm -rf results _build .snakemake book/_generated book/*/*.ipynb

distclean: clean ## Remove also .venv and downloaded data
	@rm -rf $(VENV) data/cache *.egg-info
