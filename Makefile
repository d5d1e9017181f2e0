PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
COVERAGE ?=                       # options of pytest-cov, such as --cov=sfavivit

.PHONY: demo setup test lint style types imports docs wheel proto clean

demo: $(VENV)/.runtime            ## classify the sample video with the committed demo model (no torch)
	$(BIN)/sfavivit classify docs/motions.mp4 --repository model_repository

setup: $(VENV)/.dev               ## the development environment

test: $(VENV)/.dev                ## the whole suite; 3 processes for 2 cores, as much of it waits; one that dies ends it
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder --max-worker-restart=0 $(COVERAGE)

lint: style types imports         ## all static checks

style: $(VENV)/.dev               ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev               ## mypy --strict
	$(BIN)/mypy

imports: $(VENV)/.dev             ## direction of imports between packages
	$(BIN)/lint-imports --no-logo

docs: $(VENV)/.dev                ## the documentation as a site, in build/site
	$(BIN)/mkdocs build --strict --site-dir build/site

wheel: $(VENV)/.dev               ## build the wheel and use it in empty environments, away from the checkout
	$(BIN)/python -m build --outdir build/dist
	bash .ci/try-wheel $(BIN)/python build/dist/*.whl gpu

proto: $(VENV)/.dev               ## generate the protocol's code from its .proto
	$(BIN)/python -m sfavivit.protocol.generate

$(VENV)/.python:
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.runtime: $(VENV)/.python pyproject.toml constraints.txt
	$(PIP) --editable '.[cpu]'
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime serving/triton_requirements.txt
	$(PIP) --editable '.[cpu,dev]'
	$(BIN)/python -m serving.triton_install
	@touch $@

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage
