# Two commands: `make demo` runs the main job on cells that ship with the package, `make test` runs the tests.
# Both set everything up first (.venv, the right torch, the package); a second time that costs seconds.
.PHONY: help setup demo test test-all lint docs format clean

VENV := .venv/bin

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup:  ## Make .venv and install the package
	@bash scripts/setup.sh

demo: setup  ## Run the whole path on shipped cells; writes demo_out/
	@$(VENV)/geneformer-grn demo --out demo_out

test:  ## Run the default tests (within 6 minutes on 2 cores)
	@bash scripts/setup.sh test
	@$(VENV)/python -m pytest -q -n 2 --dist loadfile

test-all:  ## Also the slow, distributed, shared-data and browser tests
	@bash scripts/setup.sh test
	@$(VENV)/python -m pytest -q -m 'not gpu'

lint:  ## ruff, mypy, import-linter
	@bash scripts/setup.sh dev
	@$(VENV)/ruff check . && $(VENV)/ruff format --check . && $(VENV)/mypy && $(VENV)/lint-imports

docs:  ## Build the site into build/docs, warnings as errors
	@bash scripts/setup.sh docs
	@$(VENV)/python -m sphinx -q -W --keep-going -c docs -d build/docs-trees . build/docs

format:  ## Format the code
	@bash scripts/setup.sh dev
	@$(VENV)/ruff format . && $(VENV)/ruff check --fix .

clean:  ## Remove .venv and what the demo wrote
	@rm -rf .venv demo_out
