# The same targets for people and for continuous integration; `make help` lists them.
# Every recipe runs under `timeout`: a hang is a failure, not a wait.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup build install dist check demo test sim bench images test-containers

# Where rustup puts cargo, for shells that do not have it on PATH.
export PATH := $(PATH):$(HOME)/.cargo/bin

# Tests that lack what they need (FUSE, root, network namespaces) append a line here and pass;
# with REMUDA_REQUIRE=fuse,root,netns they fail instead. Ignored tests are listed with them.
SKIPPED := $(CURDIR)/target/skipped-tests

# Seconds. A first build on two cores takes a few minutes.
BUILD_TIMEOUT := 1800
TEST_TIMEOUT := 1800

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 8

setup: ## install what is missing to build and test (Debian packages, Python environment)
	@timeout 3600 scripts/setup

build: setup ## build everything in release mode
	timeout $(BUILD_TIMEOUT) cargo build --locked --release --workspace

# Where `make install` puts things; DESTDIR stands before it, for packages.
PREFIX ?= /usr/local
# What it installs. It builds nothing, so that root need not build.
PROGRAM ?= target/release/remuda

install: ## install what `make build` built: binary, manual, completions; PREFIX=/usr/local, DESTDIR=
	@timeout 120 scripts/install $(PROGRAM) "$(DESTDIR)$(PREFIX)"

dist: build ## pack an archive to give away into target/dist
	@timeout 300 scripts/dist target/release/remuda target/dist

check: setup ## formatting, clippy without warnings, rules of architecture and style
	timeout 120 cargo fmt --all --check
	timeout $(BUILD_TIMEOUT) cargo clippy --locked --workspace --all-targets -- -D warnings
	timeout $(BUILD_TIMEOUT) cargo test --locked --quiet --workspace --test tidy -- --nocapture

demo: ## a job over real sources on a cluster of its own that loses a process of each tier, checked against a plain script
	@timeout --foreground 3600 scripts/demo

test: setup check ## setup, check, then all tests; ends with the list of those that were skipped
	@mkdir -p target && rm -f $(SKIPPED)
	@timeout $(BUILD_TIMEOUT) cargo test --locked --workspace --no-run
	@status=0; \
	REMUDA_SKIPPED=$(SKIPPED) timeout $(TEST_TIMEOUT) cargo test --locked --workspace --no-fail-fast \
	  | tee target/test-output || status=$$?; \
	sed -n 's/^test \(.*\) \.\.\. ignored/\1: ignored/p' target/test-output >> $(SKIPPED); \
	[ $$status != 124 ] || echo "error: the tests took longer than $(TEST_TIMEOUT) s"; \
	scripts/skipped $(SKIPPED); exit $$status

# How the simulator is called: one seed in full, fresh seeds for so many minutes, or a short look.
SEEDS := 50
simulator := --locked --profile sim --package cluster-tests --bin simulate
ifdef PLANTED
world := --planted $(PLANTED)
else ifdef WORLD
world := --$(WORLD)
endif
ifdef SEED
simulate := timeout 3600 cargo run --quiet $(simulator) -- $(world) --seed $(SEED)
else ifdef MINUTES
simulate := timeout $$(( $(MINUTES) * 60 + 600 )) cargo run --quiet $(simulator) -- $(world) --minutes $(MINUTES)
else
simulate := timeout 3600 cargo run --quiet $(simulator) -- $(world) --seeds $(SEEDS)
endif

sim: setup ## simulate clusters under faults: SEED=n, MINUTES=n, or a short run; WORLD=bank or pipeline, or PLANTED=mistake
	timeout $(BUILD_TIMEOUT) cargo build $(simulator)
	$(simulate)

# What `remuda bench` measures, one after the other; BENCH="noop" for one of them.
BENCH := noop spawn latency submit speedup files registers idle recover scale

bench: build ## measure this machine on clusters of its own: BENCH="noop latency" for some of the figures
	@for figure in $(BENCH); do timeout 900 target/release/remuda bench $$figure; done

# Their tag.
TAG := latest

images: build ## container images of each tier from `make build`: TAG=latest (needs a Docker engine)
	@timeout 1800 deploy/images/build target/release/remuda $(TAG)

test-containers: ## build the images, and lose one container of each tier of phase 4 while a job runs
	@if docker info >/dev/null 2>&1; then \
	  $(MAKE) --no-print-directory images TAG=test && \
	  timeout $(BUILD_TIMEOUT) cargo build --locked --package cli && \
	  timeout $(TEST_TIMEOUT) cargo test --locked --package cluster-tests --test processes -- --ignored --exact \
	    phases::phase_4_survives_one_container_of_each_tier; \
	else echo "skipped: there is no Docker engine"; fi
