# What a newcomer and CI call; each target is complete by itself: it installs first if need be, but
# bench-gpu, which takes any python3 (or PYTHON=...) that has torch and transformers.
# make PYTHON=/path/to/python3.11 ...   builds .venv on that interpreter (3.10 to 3.12)
# make TORCH=cuda ...                   takes the CUDA build where no GPU is visible (login nodes)
# make APPS=1 ...                       installs requirements-apps.txt too: demo, export, openSMILE...

SHELL := /bin/bash
PYTHON_BIN := .venv/bin/python
# As many processes as cores, up to four: each training process holds a model of its own.
NJ ?= $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n < 4 ? n : 4)))
SHELL_FILES := run.sh path.sh cmd.sh .ci/run $(wildcard local/*.sh bench/*.sh egs/*/run.sh tests/*/*.sh)
UV_VERSION := 0.9.30
export PYTHON TORCH APPS

.PHONY: help install demo test test-slurm lint format results docs mini-encoder bench bench-peers bench-gpu bench-means bench-data \
	release lock clean
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

install: ## create .venv, unless it is there and up to date
	@local/install.sh

demo: install ## the whole recipe on a small synthetic corpus, ending with its results table
	./run.sh --corpus mini --nj $(NJ)

# One process more than that, since those that wait for Slurm leave a core idle.
test: install ## all tests; no network, no corpus; those of Slurm only where it is installed
	OMP_NUM_THREADS=1 $(PYTHON_BIN) -m pytest -q -n $$(($(NJ) + 1)) --dist loadfile --no-loadscope-reorder

test-slurm: install ## the tests on a real Slurm cluster, which they start; fails without Slurm
	OMP_NUM_THREADS=1 SER_REQUIRE_SLURM=1 $(PYTHON_BIN) -m pytest -q -m slurm

lint: install ## ruff, ShellCheck and shfmt over everything
	$(PYTHON_BIN) -m ruff check .
	$(PYTHON_BIN) -m ruff format --check .
	.venv/bin/shellcheck -x $(SHELL_FILES)
	.venv/bin/shfmt -i 2 -ci -d $(SHELL_FILES)

format: install ## rewrite sources as make lint wants them
	$(PYTHON_BIN) -m ruff check --fix .
	$(PYTHON_BIN) -m ruff format .
	.venv/bin/shfmt -i 2 -ci -w $(SHELL_FILES)

results: install ## keep the scores under exp/ in results/ and write RESULTS.md from there
	. ./path.sh && $(PYTHON_BIN) -m ser report --exp-root exp --results RESULTS.md --records results

release: install ## train and pack the best system of a corpus: CORPUS=emodb CORPUS_DIR=... SSL=...
	. ./path.sh && $(PYTHON_BIN) -m ser release "$(CORPUS)" --corpus-dir "$(CORPUS_DIR)" --ssl "$(SSL)"

docs: install ## write docs/reference.md, the list of every option, from the code
	. ./path.sh && $(PYTHON_BIN) local/reference.py docs/reference.md

mini-encoder: install ## pretrain the encoder of the mini corpus anew, in egs/mini/encoder; minutes
	. ./path.sh && $(PYTHON_BIN) local/mini_encoder.py egs/mini/encoder

bench: install ## speed and memory beside other recipes', under ten minutes; bench/RESULTS.md
	$(PYTHON_BIN) -m bench.run --longest

bench-gpu: ## ways to train on a CUDA device, with torch and transformers alone; bench/RESULTS-gpu.md
	$(or $(PYTHON),$(wildcard $(PYTHON_BIN)),python3) -m bench.gpu

bench-means: install ## what each switch is worth, in some twenty minutes; bench/MEANS.md
	$(PYTHON_BIN) -m bench.run --means --rounds 2

bench-data: install ## time and memory of stages 1 to 3 for 10,039 and 100,000 utterances
	$(PYTHON_BIN) -m bench.data

bench-peers: install ## install what make bench compares with into bench/.venvs
	bench/install_peers.sh

lock: install ## resolve requirements.txt anew into requirements.lock
	$(PYTHON_BIN) -m pip install --quiet uv==$(UV_VERSION)
	local/lock.sh

clean: ## remove what the recipe made (data, dump, exp), but not .venv
	rm -rf data dump exp .pytest_cache .ruff_cache
