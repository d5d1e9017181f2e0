PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: demo setup test lint proto clean

demo: $(VENV)/.runtime            ## classify the sample video with the committed demo model (no torch)
	$(BIN)/sfavivit classify docs/motions.mp4 --repository model_repository

setup: $(VENV)/.dev               ## the development environment

test: $(VENV)/.dev                ## the whole suite; 3 processes for 2 cores, as much of it waits; one that dies ends it
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder --max-worker-restart=0

lint: $(VENV)/.dev                ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

proto: $(VENV)/.dev               ## generate the protocol's code from its .proto
	$(BIN)/python -m sfavivit.protocol.generate

$(VENV)/.python:
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.runtime: $(VENV)/.python pyproject.toml constraints.txt
	$(PIP) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(PIP) --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
