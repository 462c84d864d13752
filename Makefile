# thems-jobs: `make` lists what can be done here.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTEST := .venv/bin/pytest
SEEDS ?= 20000
LAB_CACHE ?= $(CURDIR)/.cache/lab
export THEMS_LAB_CACHE := $(LAB_CACHE)

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 14

demo: needs-demo packages venv ## watch a shop platform being scaled for an event, on real machines (root, 8 min, 3 min again)
	@resources/demo.sh

needs-demo:
	@resources/demo.sh --needs

test: needs-test venv-dev check test-fast test-clients test-groovy test-simulation test-lab test-jenkins ## everything, as CI runs it (root for the lab part)
	@echo "make test: all parts passed."

needs-test:
	@echo "This installs Debian packages (root; no service is started) and a virtual environment in .venv, then runs"
	@echo "lint and types, unit tests, clients against in-process servers, the Jenkins steps, the simulation, and tests"
	@echo "on real machines in a lab of their own (root, 2 cores, 8 GiB of memory, 6 GiB of disk): less than 40 minutes."
	@if [ "$$(id -u)" != 0 ]; then echo "You are not root: all but the real machines is run, with the packages that are there."; fi

check: venv-dev ## lint and types: ruff, mypy strict, ansible-lint, shellcheck
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	shellcheck resources/*.sh resources/bootstrap/*.sh .ci/run
	cd resources/ansible && LC_ALL=C.UTF-8 PATH="$(CURDIR)/.venv/bin:$$PATH" ANSIBLE_HOME="$(CURDIR)/.cache/ansible" ansible-lint --offline -q

test-fast: venv-dev ## decisions only: no network, no root, seconds
	$(PYTEST) -q -n 2 tests/unit

test-clients: venv-dev ## clients against in-process servers that speak the real protocols, reports in a real browser
	$(PYTEST) -q -n 3 --dist loadfile tests/clients

test-groovy: packages-dev ## the Jenkins steps, as Jenkins runs them, and their lint
	@mvn -q -B -ntp -Dstyle.color=never -Dmaven.repo.local=$(CURDIR)/.cache/maven -f tests/groovy/pom.xml test
	@echo "make test-groovy: passed."

golden: venv-dev ## write the golden XML of Jenkins' jobs anew, after you have looked at what differs
	GOLDEN=write $(PYTEST) -q tests/unit/test_job_definitions.py

test-simulation: venv-dev ## planner and runner in a model world with faults and kills, two minutes
	$(PYTEST) -q tests/simulation

# `make test` has no time for these: it is to take less than 40 minutes on two cores.
REHEARSALS := tests/lab/database/test_database_kill.py tests/lab/database/test_database_recover.py \
	tests/lab/test_database_roles.py tests/lab/test_faults.py tests/lab/test_roles.py

test-lab: venv-dev ## real machines (root)
	@if [ "$$(id -u)" = 0 ]; then $(PYTEST) -q --durations=15 tests/lab $(addprefix --ignore=,$(REHEARSALS)); \
	else echo "NOT RUN: tests/lab makes real machines and needs root; run: sudo make test-lab"; fi
	@echo "NOT RUN: rehearsals of faults, of roles, of killed runs on the database tier and of its recovery; run: sudo make test-rehearsals"

test-rehearsals: venv-dev ## faults, roles, killed runs on the database tier and its recovery, on real machines (root, 40 min)
	$(PYTEST) -q -s --durations=15 $(REHEARSALS)

test-kill: venv-dev ## kill a run at every step boundary on lab machines, and run it again (root, long)
	$(PYTEST) -m every_step tests/lab/test_kill.py tests/lab/database/test_database_kill.py

test-jenkins: venv-dev ## against a real controller: make test-jenkins JENKINS_URL=https://... (docs/jenkins.md)
	@if [ -n "$(JENKINS_URL)" ]; then JENKINS_URL="$(JENKINS_URL)" $(PYTEST) -q tests/jenkins --timeout 1800; \
	else echo "NOT RUN: tests/jenkins needs a Jenkins; run: make test-jenkins JENKINS_URL=https://..."; fi

simulate: venv-dev ## any number of simulated schedules: make simulate SEEDS=100000
	THEMS_SEEDS=$(SEEDS) $(PYTEST) -q -s tests/simulation/test_schedules.py --timeout 86400

bench: venv-dev ## benchmarks, printed as ratios (root for the lab part)
	$(PYTEST) -q -s tests/bench --timeout 3600

packages: ## the Debian packages that the lab needs (root)
	@sh resources/bootstrap/debian-packages.sh python3-venv

packages-dev: ## ... and those that the tests need (root)
	@sh resources/bootstrap/debian-packages.sh python3-venv chromium fonts-dejavu-core shellcheck haproxy socat curl \
		maven openjdk-17-jdk-headless

venv: packages
	@sh resources/bootstrap/venv.sh --no-dev

venv-dev: packages-dev
	@sh resources/bootstrap/venv.sh

package: venv-dev ## the wheel, with all resources
	.venv/bin/uv build --wheel --quiet && ls dist

clean: ## take the lab down and remove what was made here
	-.venv/bin/thems-jobs lab down --purge
	rm -rf .venv .cache .reports dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

.PHONY: help demo test check golden test-fast test-clients test-groovy test-simulation test-lab test-rehearsals test-kill test-jenkins simulate bench packages packages-dev venv venv-dev package clean
