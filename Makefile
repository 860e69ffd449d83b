# Every target here is what CI runs: if `make check test` passes and CI does not, that is a bug in this file.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Linux needs a backend for MLX: cpu, cuda12 or cuda13. A Mac gets Metal without one.
BACKEND ?= $(if $(filter Darwin,$(shell uname -s)),,cpu)
comma := ,
EXTRAS := $(if $(BACKEND),$(BACKEND)$(comma))gpt,sweep,search,dev

.PHONY: setup clients engines demo test check lint types docs plugins bench clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; this is " + sys.version.split()[0] + ". Type: make $(MAKECMDGOALS) PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

clients:  ## the real agent clients that the end-to-end tests drive offline; without them those tests skip
	$(PYTHON) scripts/install_clients.py

engines: setup  ## dask, mlx-lm and the trackers, which tests use where they are installed (about 700 MB)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS),dask,lora,track]'

demo: setup  ## set everything up and run a small real night: 8 experiments, no network, no LLM
	$(BIN)/python scripts/demo.py

test: setup  ## all tests
	$(BIN)/python -m pytest -n auto --dist worksteal

check: lint types docs plugins

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

docs: setup  ## links, commands, layers, versions
	$(BIN)/python -m pytest tests/test_docs.py tests/test_layers.py

plugins:  ## what the client's own validation of plugins misses; a bare python3 is enough
	$(PYTHON) scripts/check_plugin.py --self-test
	$(PYTHON) scripts/check_plugin.py

bench: setup  ## every measured claim, side by side on this machine
	$(BIN)/python benchmarks/blas.py
	$(BIN)/python benchmarks/collate.py
	$(BIN)/python benchmarks/harness.py
	$(BIN)/python benchmarks/hooks.py
	$(BIN)/python benchmarks/ledger.py
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/ring.py
	$(BIN)/python benchmarks/sweep.py

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
