# Targets for newcomers and CI; each target installs first if necessary, except
# bench-gpu, which uses any python3 (or PYTHON=...) that has torch and transformers.
# make PYTHON=/path/to/python3.11 ...   builds .venv with that interpreter (3.10 to 3.12)
# make TORCH=cuda ...                   installs the CUDA build even if no GPU is visible (login nodes)
# make APPS=1 ...                       also installs requirements-apps.txt: demo, export, openSMILE...

SHELL := /bin/bash
PYTHON_BIN := .venv/bin/python
# As many processes as cores, up to four: each training process holds its own model.
NJ ?= $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n < 4 ? n : 4)))
SHELL_FILES := run.sh path.sh cmd.sh .ci/run $(wildcard local/*.sh bench/*.sh egs/*/run.sh tests/*/*.sh)
UV_VERSION := 0.9.30
export PYTHON TORCH APPS

.PHONY: help install demo test test-slurm lint format results docs mini-encoder bench bench-peers bench-gpu bench-means bench-data \
	release lock clean
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

install: ## create .venv, unless it exists and is up to date
	@local/install.sh

demo: install ## the whole recipe on a small synthetic corpus, ending with its results table
	./run.sh --corpus mini --nj $(NJ)

# One process more than NJ, since those waiting for Slurm leave a core idle.
test: install ## all tests, without network or corpus; those on Slurm only if it is installed
	OMP_NUM_THREADS=1 $(PYTHON_BIN) -m pytest -q -n $$(($(NJ) + 1)) --dist loadfile --no-loadscope-reorder

test-slurm: install ## tests on a real Slurm cluster, which they start; fails without Slurm
	OMP_NUM_THREADS=1 SER_REQUIRE_SLURM=1 $(PYTHON_BIN) -m pytest -q -m slurm

lint: install ## ruff, ShellCheck and shfmt over everything
	$(PYTHON_BIN) -m ruff check .
	$(PYTHON_BIN) -m ruff format --check .
	.venv/bin/shellcheck -x $(SHELL_FILES)
	.venv/bin/shfmt -i 2 -ci -d $(SHELL_FILES)

format: install ## reformat the sources as make lint requires
	$(PYTHON_BIN) -m ruff check --fix .
	$(PYTHON_BIN) -m ruff format .
	.venv/bin/shfmt -i 2 -ci -w $(SHELL_FILES)

results: install ## store the scores under exp/ in results/ and write RESULTS.md from there
	. ./path.sh && $(PYTHON_BIN) -m ser report --exp-root exp --results RESULTS.md --records results

release: install ## train and pack the best system of a corpus: CORPUS=emodb CORPUS_DIR=... SSL=...
	. ./path.sh && $(PYTHON_BIN) -m ser release "$(CORPUS)" --corpus-dir "$(CORPUS_DIR)" --ssl "$(SSL)"

docs: install ## write docs/reference.md, the list of all options, from the code
	. ./path.sh && $(PYTHON_BIN) local/reference.py docs/reference.md

mini-encoder: install ## pretrain the encoder of the mini corpus again, in egs/mini/encoder; takes minutes
	. ./path.sh && $(PYTHON_BIN) local/mini_encoder.py egs/mini/encoder

bench: install ## speed and memory compared with other recipes, under ten minutes; bench/RESULTS.md
	$(PYTHON_BIN) -m bench.run --longest

bench-gpu: ## ways to train on a CUDA device, with torch and transformers alone; bench/RESULTS-gpu.md
	$(or $(PYTHON),$(wildcard $(PYTHON_BIN)),python3) -m bench.gpu

bench-means: install ## what each speed-up is worth, some twenty minutes; bench/MEANS.md
	$(PYTHON_BIN) -m bench.run --means --rounds 2

bench-data: install ## time and memory of stages 1 to 3 for 10,039 and 100,000 utterances
	$(PYTHON_BIN) -m bench.data

bench-peers: install ## install what make bench compares with into bench/.venvs
	bench/install_peers.sh

lock: install ## resolve requirements.txt again into requirements.lock
	$(PYTHON_BIN) -m pip install --quiet uv==$(UV_VERSION)
	local/lock.sh

clean: ## remove what the recipe created (data, dump, exp), but not .venv
	rm -rf data dump exp .pytest_cache .ruff_cache
