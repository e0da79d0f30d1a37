# Everything runs in .venv, which any target makes first. PYTHON chooses the interpreter: 3.10 to 3.13.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
EXPORT_TESTS := tests/export
PAGE_TESTS := tests/docs
DOCUMENT_TESTS := tests/benchmarks tests/deploy tests/examples tests/export/report tests/export/tensorrt \
	tests/serving/client/test_long_document.py
TESTS_ROOM := $(CURDIR)/build/tests

.DEFAULT_GOAL := help
.PHONY: help install demo test test-export test-pages test-documents test-serving check docs build checkpoints clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */  \1\t/'

# What is imported is compiled then. To compile all of it beforehand takes longer than the rest of the installation.
unexport PYTHONDONTWRITEBYTECODE

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(None if (3, 10) <= sys.version_info[:2] <= (3, 13) else "longserve needs Python 3.10 to 3.13, this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --upgrade pip  # Python 3.11's own takes twice the time
	$(BIN)/python -m pip install -qq --no-compile --constraint constraints.txt --editable '.[export,serve,client,cpu,openvino,tensorrt-rtx,bench,batch,report,docs,dev]'
	touch $@

install: $(INSTALLED) ## Make the environment

demo: $(INSTALLED) ## Export the demo checkpoints, serve them from Triton, ask them
	$(BIN)/longserve demo

test: $(INSTALLED) ## Run all tests, in four processes
	rm -rf $(TESTS_ROOM) && mkdir -p $(TESTS_ROOM)
	LONGSERVE_TESTS_ROOM=$(TESTS_ROOM) $(MAKE) --no-print-directory --jobs=4 --keep-going test-serving test-export test-pages test-documents
	rm -rf $(TESTS_ROOM)

# Behind test-serving, some of whose tests look at the time that a server takes, and each on one core. Those of
# the pages wait for much, so that they share theirs.
test-export: $(INSTALLED) ## Run the tests of the exporter
	LONGSERVE_TESTS_CORE=1 nice -n 10 $(BIN)/python -m pytest $(EXPORT_TESTS) $(addprefix --ignore=,$(DOCUMENT_TESTS))

test-pages: $(INSTALLED) ## Run those of the documentation
	LONGSERVE_TESTS_CORE=0 nice -n 10 $(BIN)/python -m pytest $(PAGE_TESTS)

test-documents: $(INSTALLED) ## Run those of examples, benchmarks, deployment, reports, TensorRT and long documents
	LONGSERVE_TESTS_CORE=0 nice -n 10 $(BIN)/python -m pytest $(DOCUMENT_TESTS)

test-serving: $(INSTALLED) ## Run all other tests
	$(BIN)/python -m pytest $(addprefix --ignore=,$(EXPORT_TESTS) $(PAGE_TESTS) $(DOCUMENT_TESTS))

check: $(INSTALLED) ## Lint and type-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(INSTALLED) ## Build the documentation's site into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

build: $(INSTALLED) ## Build wheel and sdist into dist/
	rm -rf build dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*

checkpoints: $(INSTALLED) ## Train the demo checkpoints anew (about an hour on two cores)
	$(BIN)/python examples/train_demo_checkpoints.py --task question-answering
	$(BIN)/python examples/train_demo_checkpoints.py --task text-classification

clean: ## Remove everything that was made
	rm -rf $(VENV) build dist bundles .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
