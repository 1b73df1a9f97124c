# Every target does its own set-up: the first run on a fresh machine takes longer and says what it does.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON := .venv/bin/python
TESTBED := $(PYTHON) -m stack_backup_lab.bed
# By file: what the tests of a file share is made once.
PARALLEL := --numprocesses auto --dist loadfile
# Each stack's namespace and values.
STACKS := production-stack=values/production.yaml staging-stack=values/staging.yaml stack-alice-default=values/developer.yaml
PROGRAMS := $(wildcard charts/*/files/*.sh scripts/stack_backup_lab/bed/image_scripts/*.sh) scripts/bootstrap .ci/run

export PATH := $(CURDIR)/.cache/bin:$(CURDIR)/.venv/bin:$(PATH)

.PHONY: help demo demo-cluster test check unit mutants lint test-scale test-size bench bench-quick tools cluster docs site clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

demo: .venv/.installed ## Tell the whole story on this machine: back up, replicate, recover, lose, recover again (no cluster)
	$(PYTHON) -m stack_backup_lab.story.demo

demo-cluster: .venv/.installed ## The same story on two kind clusters, the first backup fired by the CronJob's controller
	$(PYTHON) -m stack_backup_lab.story.demo --cluster

test: lint ## Everything: lint, then every test, those at scale by themselves, those on kind clusters last
	$(PYTHON) -m pytest $(PARALLEL) --ignore tests/scale
	$(PYTHON) -m pytest tests/scale
	$(PYTHON) -m pytest --cluster -m cluster

check: lint ## The loop while you work: lint, then the unit, render, command line and jobs tests
	$(PYTHON) -m pytest $(PARALLEL) tests/unit tests/render tests/cli tests/jobs

unit: .venv/.installed ## The package's pure parts alone, in seconds
	$(PYTHON) -m pytest $(PARALLEL) tests/unit

mutants: .venv/.installed ## Small changes in the package's pure parts, which the unit tests must see (MODULES="formats choice"): long
	$(PYTHON) -m tests.mutants $(MODULES)

test-scale: .venv/.installed ## The whole story at 1/50 of production's size, every limit in the same proportion
	$(PYTHON) -m pytest --capture no tests/scale

test-size: .venv/.installed ## The same at production's own size, where the disk has room (about 130 GiB); takes hours
	STACK_BACKUP_SCALE=1 $(PYTHON) -m pytest --capture no tests/scale

lint: .venv/.installed ## ruff, mypy, shellcheck, shfmt, yamllint, codespell, helm lint, ct lint, kubeconform, generated files
	$(TESTBED) tools --names helm,helm3,ct,kubeconform,helm-docs,shfmt,shellcheck
	ruff check
	ruff format --check
	mypy
	shellcheck --external-sources $(PROGRAMS)
	shfmt --indent 2 --case-indent --diff $(PROGRAMS)
	yamllint --strict .
	codespell
	for stack in $(STACKS); do helm lint --strict --namespace $${stack%=*} --values $${stack#*=} charts/stack-backup; done
	ct lint --config ct.yaml
	$(PYTHON) -m stack_backup_lab.kubeconform $(STACKS)
	helm-docs --chart-search-root charts --dry-run --log-level warning | diff -u charts/stack-backup/README.md - || \
	  { echo "charts/stack-backup/README.md is not what helm-docs makes of values.yaml: run 'make docs'." >&2; exit 1; }

tools: .venv/.installed ## Build or fetch every tool into .cache/bin
	$(TESTBED) tools

cluster: .venv/.installed ## A kind cluster, ready to use
	$(TESTBED) cluster

bench: .venv/.installed ## Measure every job beside what is run without it: 2 GB of SQL, 135,000 media files
	$(PYTHON) -m tests.benchmarks

bench-quick: .venv/.installed ## The same with a tenth of the data, once
	$(PYTHON) -m tests.benchmarks --megabytes 200 --replica-megabytes 300 --files 10000 --rounds 1

docs: .venv/.installed ## Write the generated files again (the chart's README)
	$(TESTBED) tools --names helm-docs
	helm-docs --chart-search-root charts

site: .cache/site/.installed ## The documentation as a site in build/site, its links checked
	NO_MKDOCS_2_WARNING=1 .cache/site/bin/mkdocs build --strict

.cache/site/.installed: requirements-docs.lock
	$${PYTHON3:-python3} -m venv --clear .cache/site
	.cache/site/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-docs.lock
	touch $@

clean: ## Remove the test cluster and all that make wrote into this folder
	@if [ -x $(PYTHON) ]; then $(TESTBED) clean; fi
	rm -rf .venv .cache

.venv/.installed: requirements-dev.lock pyproject.toml scripts/bootstrap
	@scripts/bootstrap
