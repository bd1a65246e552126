# make quickstart            from nothing to ten ranked ads (DATA=train.txt for a Criteo log)
# make test                  the tests; the last line says what was left out
# make test-fast             unit tests only: no training, servers or other slow tests
# make test-engines          tests that start clusters, or servers of other projects
# make check                 lint, types, import contracts, the wheel and the documentation
# make docs                  the documentation as a site in site/, which needs no network
# make benchmark             the ranker compared with nine other models
# make tensorboard           TensorBoard of the latest run (LOGDIR=workdir: all runs)
# make clean                 removes what the commands above created

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
WORKERS := $(shell getconf _NPROCESSORS_ONLN)
# Bytecode is kept: each worker would otherwise compile all tests and modules again. Code that is
# compiled has no columns for tracebacks, which pytest does not show.
PYTEST := PYTHONDONTWRITEBYTECODE= PYTHONNODEBUGRANGES=1 $(BIN)/python -m pytest --maxprocesses 4 --dist loadfile --no-loadscope-reorder
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
DATA ?=
ARGS ?=
LOGDIR ?=

export PIP_ROOT_USER_ACTION := ignore

.PHONY: quickstart test test-fast test-engines check lint types imports wheel docs benchmark \
	tensorboard clean

quickstart: $(VENV)/.installed
	@$(BIN)/tfrec quickstart $(if $(DATA),--data_path="$(DATA)") $(ARGS)

test: $(VENV)/.installed-test
	$(PYTEST) -n $(WORKERS) $(ARGS)

test-fast: $(VENV)/.installed-test
	$(PYTEST) -n auto -m "not (slow or trains or process or browser or benchmark or engines)" $(ARGS)

# pytest's status 5: no test has the mark.
test-engines: $(VENV)/.installed-test $(VENV)/.installed-engines
	$(PYTEST) -n auto -m engines --engines $(ARGS) || [ $$? -eq 5 ]

check: lint types imports wheel docs

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-test
	$(BIN)/mypy

imports: $(VENV)/.installed-test
	$(BIN)/lint-imports --no-cache --no-logo

wheel: $(VENV)/.installed-test
	rm -rf build dist
	$(BIN)/python -m build --wheel --no-isolation --outdir dist . > /dev/null
	$(BIN)/python .ci/wheel.py dist/*.whl

# The variable silences advertising for other tools.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

benchmark: $(VENV)/.installed-benchmark
	$(BIN)/python scripts/benchmarks/quality.py $(ARGS)

tensorboard: $(VENV)/.installed
	@run="$(LOGDIR)"; \
	if [ -z "$$run" ]; then \
		last=$$(ls -td workdir/*/retrieval/tensorboard workdir/*/ranker/tensorboard 2>/dev/null | head -n 1); \
		run=$${last%/*/tensorboard}; \
	fi; \
	if [ -z "$$run" ]; then \
		echo "error: no training below workdir/; run make quickstart first, or give LOGDIR=DIRECTORY"; exit 1; \
	fi; \
	echo "TensorBoard of $$run (LOGDIR=workdir compares all runs)"; \
	exec $(BIN)/tensorboard --logdir="$$run" $(ARGS)

clean:
	rm -rf $(VENV) workdir build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache

$(VENV)/bin/python:
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "error: Python 3.11, 3.12 or 3.13 is needed, found '$(PYTHON)'; set PYTHON=/path/to/python3.11"; exit 1; }
	"$(PYTHON)" -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing tfrec and TensorFlow into $(VENV) (about a minute)"
	@$(INSTALL) setuptools wheel
	@$(INSTALL) --no-build-isolation -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	@echo "Installing the test tools into $(VENV)"
	@$(INSTALL) --no-build-isolation -e '.[test]'
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	@echo "Installing the documentation tools into $(VENV)"
	@$(INSTALL) --no-build-isolation -e '.[docs]'
	@touch $@

$(VENV)/.installed-engines: $(VENV)/.installed
	@echo "Installing the clients of Beam, Milvus and Redis into $(VENV)"
	@$(INSTALL) --no-build-isolation -e '.[beam,milvus,redis]'
	@touch $@

$(VENV)/.installed-benchmark: $(VENV)/.installed
	@echo "Installing the benchmark's peers into $(VENV)"
	@$(INSTALL) --no-build-isolation -e '.[benchmark]'
	@touch $@
