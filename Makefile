# `make quickstart` and `make test` need Python 3.10 or newer and access to PyPI, nothing else:
# they make a virtual environment and install into it what constraints.txt pins.

VENV ?= .venv
PYTHON ?= python3
QUICKSTART ?= runs/quickstart
RANKING ?= runs/quickstart-ranking
STUDY ?= runs/study-smoke
DATA_DIR ?=
SUPERGLUE_DIR ?=
COLLECTION ?=
RUN_FILE ?=
PYTEST_ARGS ?=
BENCH_ARGS ?=

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help install quickstart quickstart-ranking study-smoke test slow lint format types bench clean

help:
	@echo "make quickstart  fine-tune Gemma 3 270M on SST-2, judge it, classify two sentences (minutes, on a CPU)"
	@echo "make quickstart-ranking   train a re-ranker for the Cranfield collection, re-rank BM25, judge both (minutes)"
	@echo "make study-smoke   a study of a tiny decoder, to see that everything works (a minute or two)"
	@echo "make test        the tests"
	@echo "make slow        the tests that take minutes"
	@echo "make lint        ruff: rules and format      make format  put the format right"
	@echo "make types       mypy"
	@echo "make bench       speed against the padded layout, CrossEncoder and others; DATA_DIR=folder with MRPC,"
	@echo "                 SUPERGLUE_DIR=folder with MultiRC, COLLECTION=folder with corpus and queries"
	@echo "                 (RUN_FILE=run) for whole queries too; BENCH_ARGS=\"--rounds 1\" to look sooner"
	@echo "make install     only the virtual environment; VENV=$(VENV) PYTHON=$(PYTHON)"

install: $(INSTALLED)

# The stamp is newer than what it was installed from, so a second `make` installs nothing.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed: make PYTHON=python3.x" if sys.version_info < (3, 10) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -e ".[gemma,st,figures,ranking,irds,mteb,study,dev]" -c constraints.txt
	@touch $@

quickstart: $(INSTALLED)
	$(BIN)/gemma-encoder train --config recipes/quickstart.yaml --output $(QUICKSTART) --overwrite
	$(BIN)/gemma-encoder predict --model $(QUICKSTART) \
		--text "a gripping, funny and wonderfully acted film" \
		--text "two hours of my life that nobody will give back"

# BM25, fine-tuning, re-ranking, nDCG@10 before and after; RANKING has the runs and the figure.
quickstart-ranking: $(INSTALLED)
	$(BIN)/gemma-encoder train --config recipes/quickstart_similarity.yaml \
		--output $(RANKING)/similarity --overwrite
	$(BIN)/gemma-encoder train --config recipes/quickstart_ranking.yaml \
		--model $(RANKING)/similarity --output $(RANKING)/reranker --overwrite
	$(BIN)/gemma-encoder rank --model $(RANKING)/reranker --collection cranfield --qrels test \
		--first_stage bm25 --depth 20 --first_stage_output $(RANKING)/bm25.trec \
		--output $(RANKING)/reranked.trec --dtype bfloat16 --overwrite
	$(BIN)/gemma-encoder fuse --run $(RANKING)/reranked.trec,$(RANKING)/bm25.trec \
		--output $(RANKING)/fused.trec --overwrite
	for run in reranked fused; do \
		$(BIN)/gemma-encoder evaluate --run $(RANKING)/$$run.trec --against $(RANKING)/bm25.trec \
			--qrels datasets/ir/cranfield/qrels/test.tsv --measures nDCG@10,RR@10 \
			--plot $(RANKING)/$$run.svg --overwrite || exit 1; \
	done

# Arms, seeds, statistics and report of a decoder with random weights: what it finds means nothing.
study-smoke: $(INSTALLED)
	$(BIN)/python -m gemma_encoder.testing $(STUDY)/decoder
	$(BIN)/gemma-encoder study --config recipes/study_smoke.yaml --model $(STUDY)/decoder --output $(STUDY)/study
	$(BIN)/gemma-encoder study export $(STUDY)/study

test: $(INSTALLED)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(INSTALLED)
	$(BIN)/mypy

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks $(if $(DATA_DIR),--data-dir $(DATA_DIR)) \
		$(if $(SUPERGLUE_DIR),--superglue-dir $(SUPERGLUE_DIR)) \
		$(if $(COLLECTION),--collection $(COLLECTION)) $(if $(RUN_FILE),--run $(RUN_FILE)) $(BENCH_ARGS)

clean:
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
