# The map. `make` lists the targets; `make run` and `make test` need nothing done before them.
SHELL := /bin/bash
PYTHON ?= $(firstword $(foreach name,python3 python3.11 python3.12 python3.13,$(shell command -v $(name) >/dev/null 2>&1 && $(name) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $(name))))
BIN := .venv/bin
ARGS ?=
export PYTHONUTF8 := 1

.DEFAULT_GOAL := help
# what examples/ are for; none can be installed beside the workbook
ENGINES := apache-airflow==3.3.2 prefect==3.9.1 dvc==3.67.1 kfp==2.17.3 kubernetes-validate==1.37.0
BENCHMARKS := cleaning duplicates label_errors significance slices rare_classes perturbations attacks monitoring search figures exports batch serving
.PHONY: help setup run lab test engines lint bench bench-training doctor constraints clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' | awk -F'|' '{printf "  make %-15s %s\n", $$1, $$2}'

setup:  ## create .venv and install, where it is missing or stale
	@if [ -z "$(PYTHON)" ]; then echo "setup: no Python 3.11, 3.12 or 3.13 found; install one, or name it: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; fi
	@$(PYTHON) tools/bootstrap.py

run: setup  ## the main job: all notebooks on 20,000 texts, a report in reports/quick (ARGS="--profile base ..." for more)
	@$(BIN)/workbook run $(ARGS)

lab: setup  ## open the notebooks in JupyterLab
	@$(BIN)/workbook lab

test: setup lint  ## lints, unit tests, notebooks, the whole chain in the smoke profile
	@HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 MPLBACKEND=Agg $(BIN)/python -m pytest -n 3 --dist loadgroup --no-loadscope-reorder $(ARGS)

engines:  ## environments of Airflow, Prefect, DVC, Kubeflow and Kubernetes' schemas in .engines, for the tests of examples/ (1.2 GB)
	@for engine in $(ENGINES); do folder=.engines/$${engine%%==*}; \
		[ -e $$folder/done ] || { $(PYTHON) -m venv $$folder && $$folder/bin/pip install -q $$engine && touch $$folder/done; } || exit 1; done

lint: setup  ## ruff, mypy, the direction of imports, stripped notebooks
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/nbstripout --keep-count --verify notebooks/*.ipynb

bench: setup  ## the figures the workbook promises, as counts and ratios of one run each (hours)
	@set -e; for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python benchmarks/$$name.py; done
	@$(BIN)/python benchmarks/batch.py --encoder

bench-training: setup  ## fine-tuning against the plain recipe on this CPU (ARGS="equal" or "quality" for the longer ones)
	@$(BIN)/python benchmarks/training.py $(or $(ARGS),speed)

doctor: setup  ## what this machine has
	@$(BIN)/workbook doctor

constraints: setup  ## write the installed versions to constraints.txt
	@{ head -1 constraints.txt; { grep '; python' constraints.txt; $(BIN)/pip freeze --exclude-editable | sed 's/+[a-z0-9.]*$$//' | grep -vEf <(sed -nE 's/^([a-z_]+==).*; .*/^\1/p' constraints.txt); } | LC_ALL=C sort -f; } > constraints.new && mv constraints.new constraints.txt

clean:  ## remove what runs have written, but people's decisions, the reports and MLflow's records and models
	@rm -rf data/raw data/processed data/augmented && if [ -d models ]; then find models -mindepth 1 -maxdepth 1 ! -name mlflow -exec rm -rf {} +; fi
