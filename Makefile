# make demo, make test: everything in a virtual environment of this folder; a second run installs nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO ?= demo

.PHONY: demo test test-fast test-numpy1 test-ros lint bench fuzz soak clean

demo: $(VENV)/.installed
	$(BIN)/python -m feature_gs_ros.demo $(DEMO)

# Files of tests beside each other on all cores; PYTEST="-k name" chooses.
test: $(VENV)/.dev-installed
	$(BIN)/python -m pytest -n auto --dist loadfile $(PYTEST)

# A quicker answer, for the person who edits: all but the tests that are marked slow.
test-fast: $(VENV)/.dev-installed
	$(BIN)/python -m pytest -m "not slow" -n auto --dist loadfile

lint: $(VENV)/.dev-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Damaged files of every format through every reader: two minutes, longer by FUZZ="--seconds 3600 --seed 7".
fuzz: $(VENV)/.dev-installed
	$(BIN)/python -m tests.fuzz $(FUZZ)

# Ten thousand frames, kills and a full disk; SOAK="--frames 1000 --kills 10" is shorter.
soak: $(VENV)/.dev-installed
	$(BIN)/python -m tests.soak $(SOAK)
	$(BIN)/python -m tests.soak_shards

bench: $(VENV)/.dev-installed
	$(BIN)/python -m benchmarks

# Binary ROS distributions (Humble, Jazzy) need numpy < 2: the same tests in an environment of that kind.
test-numpy1:
	$(MAKE) VENV=.venv-numpy1 CONSTRAINTS="numpy<2" test

test-ros: $(VENV)/.dev-installed
	$(BIN)/python tests/ros/run.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -e ".[viewer]" $(if $(CONSTRAINTS),"$(CONSTRAINTS)")
	touch $@

$(VENV)/.dev-installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -e ".[dev,viewer,gpu,gpu-checks]" $(if $(CONSTRAINTS),"$(CONSTRAINTS)")
	touch $@ $(VENV)/.installed

clean:
	rm -rf .venv .venv-numpy1 demo out build install log *.egg-info
