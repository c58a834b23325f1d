PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check clean

# The whole study on the embedded pocket model and newswire: minutes on two CPU cores.
demo: $(VENV)/.runs
	$(BIN)/nutgraf run configs/pocket.yaml

test: $(VENV)/.tests
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

clean:
	rm -rf $(VENV) runs
