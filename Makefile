# Every target does its own set-up: the first run on a fresh machine takes longer and says what it does.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON := .venv/bin/python
PYTEST := $(PYTHON) -m pytest
TESTBED := $(PYTHON) -m stack_backup_lab.bed
# By file: what the tests of a file share is made once.
PARALLEL := --numprocesses auto --dist loadfile
# Many unit tests wait for a process to end: more of them at once than there are processors. What those of a file read is
# read once, for each process begins with its own part of the list.
WAITING := --numprocesses 4 --dist worksteal
# Tests on the cluster wait for most of their time, and files have namespaces of their own.
CLUSTER := --numprocesses 3 --dist loadfile --cluster -m cluster tests/cluster tests/testbed
# Each stack's namespace and values.
STACKS := production-stack=values/production.yaml staging-stack=values/consumer.yaml stack-alice-default=values/consumer.yaml
PROGRAMS := $(wildcard charts/*/files/*.sh scripts/stack_backup_lab/bed/image_scripts/*.sh) scripts/bootstrap .ci/run

# Tests are compiled once, and not by each process of each run, whatever the environment says.
unexport PYTHONDONTWRITEBYTECODE
export PATH := $(CURDIR)/.cache/bin:$(CURDIR)/.venv/bin:$(PATH)

.PHONY: help demo demo-cluster demo-report check unit jobs lint policy test test-scale test-size coverage mutants bench bench-quick tools \
  capacity cluster docs site pictures version dist clean

help: ## This list
	@awk -F ':.*## ' '/^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

##@ See it work

demo: ## The whole story on this machine: back up, replicate, recover, lose, recover again
	@scripts/bootstrap prepare demo
	$(PYTHON) -m stack_backup_lab.story.demo

demo-cluster: ## The same story on two kind clusters, the first backup fired by the CronJob's controller
	@scripts/bootstrap prepare demo-cluster
	$(PYTHON) -m stack_backup_lab.story.demo --cluster

demo-report: ## The runs of a month, within minutes by moved clocks, and the report of them (build/month)
	@scripts/bootstrap prepare demo
	$(PYTHON) -m stack_backup_lab.story.month

##@ While you work

check: lint unit ## The loop: lint, and the quick tests of the code, the chart and the command line
	$(PYTEST) $(PARALLEL) --quick tests/render tests/cli

unit: .venv/.installed ## The quick tests of the code alone
	$(PYTEST) $(WAITING) --quick tests/unit

jobs: .venv/.installed ## Every job for real on this machine, and every way that it can fail
	$(TESTBED) prepare jobs
	$(PYTEST) $(PARALLEL) tests/jobs

docs: .venv/.installed ## Write the generated files again (the chart's README, the table of capacity)
	$(TESTBED) tools --names helm-docs
	helm-docs --chart-search-root charts
	$(PYTHON) -m stack_backup_lab.capacity --write

capacity: .venv/.installed ## How much space a stack needs: VALUES="values/production.yaml dumpSize=5Gi"
	@$(PYTHON) -m stack_backup_lab.capacity $(or $(VALUES),values/production.yaml)

lint: .venv/.installed ## ruff, mypy, shellcheck, shfmt, yamllint, codespell, actionlint, helm lint, ct lint, kubeconform, generated
	$(TESTBED) tools --names helm,helm3,ct,kubeconform,helm-docs,shfmt,shellcheck,actionlint
	ruff check
	ruff format --check
	mypy
	shellcheck --external-sources $(PROGRAMS)
	shfmt --indent 2 --case-indent --diff $(PROGRAMS)
	yamllint --strict .
	codespell
	actionlint
	for stack in $(STACKS); do helm lint --strict --namespace $${stack%=*} --values $${stack#*=} charts/stack-backup; done
	ct lint --config ct.yaml
	$(PYTHON) -m stack_backup_lab.kubeconform $(STACKS)
	helm-docs --chart-search-root charts --dry-run --log-level warning | diff -u charts/stack-backup/README.md - || \
	  { echo "charts/stack-backup/README.md is not what helm-docs makes of values.yaml: run 'make docs'." >&2; exit 1; }

policy: .venv/.installed ## What checkov and kube-score say of the rendered chart, actionlint and zizmor of the workflows
	$(TESTBED) prepare policy
	$(PYTEST) tests/policy

site: .cache/site/.installed ## The documentation as a site in build/site, its links checked
	NO_MKDOCS_2_WARNING=1 .cache/site/bin/mkdocs build --strict

.cache/site/.installed: requirements-docs.lock
.cache/release/.installed: requirements-release.lock
.cache/site/.installed .cache/release/.installed:
	$${PYTHON3:-python3} -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	touch $@

##@ Before you push

test: .venv/.installed ## Everything, suite by suite, whatever fails; the end says what did
	@$(PYTHON) -m tests.suites \
	  "bed=$(TESTBED) prepare test" \
	  "lint=make --no-print-directory lint" \
	  "site=make --no-print-directory site" \
	  "machine=$(PYTEST) $(PARALLEL) --ignore tests/scale" \
	  "scale=$(PYTEST) tests/scale" \
	  "cluster=$(PYTEST) $(CLUSTER)"

test-scale: .venv/.installed ## The whole story at 1/50 of production's size, every limit in the same proportion
	$(TESTBED) prepare scale
	$(PYTEST) --capture no tests/scale

test-size: .venv/.installed ## The same at production's own size: hours, and about 130 GiB of disk
	$(TESTBED) prepare scale
	STACK_BACKUP_SCALE=1 $(PYTEST) --capture no tests/scale

##@ Measure

coverage: .venv/.installed ## Which lines of the product each layer of tests runs (LAYERS="unit cli")
	$(TESTBED) prepare jobs
	$(PYTHON) -m tests.coverage $(LAYERS)

mutants: .venv/.installed ## Small changes that the unit tests must see (MODULES="formats choice"): minutes a module
	$(PYTHON) -m tests.mutants $(MODULES)

bench: .venv/.installed ## Every job beside what is run without it: 2 GB of SQL, 135,000 media files
	$(PYTHON) -m tests.benchmarks

bench-quick: .venv/.installed ## The same with a tenth of the data, once
	$(PYTHON) -m tests.benchmarks --megabytes 200 --replica-megabytes 300 --files 10000 --rounds 1

##@ Release

pictures: ## The pictures in the documents: the terminal's, from runs on a kind cluster, and the dashboard's
	@scripts/bootstrap prepare demo-cluster
	$(PYTHON) -m stack_backup_lab.story.pictures
	$(PYTHON) -m stack_backup_lab.story.dashboard

version: .cache/release/.installed .venv/.installed ## Another version in every place that names it (VERSION=1.2.3)
	@[[ "$(VERSION)" =~ ^[0-9]+(\.[0-9]+){2}$$ ]] || { echo "Say which, in three numbers: make version VERSION=1.2.3" >&2; exit 2; }
	.cache/release/bin/bump-my-version bump --new-version "$(VERSION)"
	$(MAKE) --no-print-directory docs

dist: .cache/release/.installed .venv/.installed ## The files of a release, of the newest commit or of a tag (TAG=v1.2.3)
	$(TESTBED) tools --names helm
	$(PYTHON) -m stack_backup_lab.dist build/dist $(TAG)

##@ What the tests stand on

tools: .venv/.installed ## Every tool in .cache/bin
	$(TESTBED) tools

cluster: .venv/.installed ## A kind cluster, ready to use (NODE=… is the node image where a registry answers)
	$(TESTBED) cluster $(if $(NODE),--node $(NODE))

clean: ## Remove the test cluster and all that make wrote into this folder
	@if [ -x $(PYTHON) ]; then $(TESTBED) clean; fi
	rm -rf .venv .cache

.venv/.installed: requirements-dev.lock pyproject.toml scripts/bootstrap
	@scripts/bootstrap
