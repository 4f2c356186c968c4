# `make help` lists the targets. Each brings what it needs; a second run starts at once, because what is done leaves a stamp.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory --no-builtin-rules

PY := .venv/bin/python
SOURCES := $(shell find csrc protos -name '*.cc' -o -name '*.h' -o -name '*.proto')
PORTS ?=
FILES ?=
REPO ?=
ARGS ?=
export JOBS ?= $(shell nproc)
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(JOBS)

.PHONY: help setup venv models demo serve test lint format sanitize fuzz bench wheel docs clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

.stamps/system-%: scripts/setup
	@scripts/setup system $* && touch $@

.venv/.installed: .stamps/system-build requirements/dev.txt requirements/constraints.txt
	@scripts/setup venv

.venv/.package: .venv/.installed pyproject.toml CMakeLists.txt $(SOURCES)
	@scripts/setup package

build/models/.made: .venv/.installed $(wildcard tests/models/*.py)
	@$(PY) tests/models/make_models.py build/models && touch $@

build/js/.installed: tests/js/package.json tests/js/package-lock.json .stamps/system-test
	@scripts/setup js

venv: .venv/.installed ## .venv with the pinned packages, without headrace

setup: .venv/.package ## all that is missing: system packages, .venv, native build; leaves .venv/bin/headrace
	@echo "ready: .venv/bin/headrace --help"

models: build/models/.made ## the models that tests and benchmarks use, in build/models

demo: .venv/.package ## classify files with a real model over gRPC; FILES="a b" adds your own
	@$(PY) scripts/demo.py $(FILES)

serve: .venv/.package ## serve a model repository in the foreground: make serve REPO=dir [ARGS="--grpc-port 0"]
	@[ -n "$(REPO)" ] || { echo 'which repository? make serve REPO=dir' >&2; exit 2; }
	@exec .venv/bin/headrace serve --model-repository "$(REPO)" $(ARGS)

test: .venv/.package .stamps/system-test models build/js/.installed ## every test: C++ (ctest), then Python, end to end and tidiness (pytest); ARGS to pytest
	@scripts/test $(ARGS)

lint: .venv/.installed .stamps/system-test .stamps/system-lint ## ruff, mypy --strict, clang-format, clang-tidy
	@scripts/lint

format: .venv/.installed .stamps/system-lint ## rewrite the sources in the house's format
	@.venv/bin/ruff check --quiet --fix-only . ; .venv/bin/ruff format .
	@find csrc tests benchmarks -name '*.cc' -o -name '*.h' | xargs clang-format -i

sanitize: .venv/.package .stamps/system-test .stamps/system-lint models ## C++ tests under ASan+UBSan and TSan, and a smoke of the server under ASan
	@scripts/sanitize

fuzz: .venv/.installed .stamps/system-test .stamps/system-fuzz ## run the fuzzers; SECONDS_EACH=60
	@scripts/fuzz

bench: .venv/.package .stamps/system-test models ## the figures of benchmarks/reports that take minutes, side by side with a grpc.aio twin
	@scripts/bench $(ARGS)

wheel: .venv/.package ## dist/headrace-*.whl, with the libraries that it links
	@scripts/setup wheel

docs: .venv/.package ## regenerate docs/configuration.md and the picture in docs/architecture.md
	@scripts/docs

clean: ## remove what was built (keeps .venv; make distclean removes that too)
	@rm -rf build dist .stamps .pytest_cache .mypy_cache .ruff_cache

distclean: clean
	@rm -rf .venv .venv-*
