# Everything starts here. A machine needs git, make and python3; tools/setup.sh installs the rest. A target that finds
# its work done starts at once.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

PYTHON ?= python3
KVBATCH_ROCKSDB ?= pinned
N ?= 200
# More arguments for pytest, such as PYTEST_ARGS='-k resume -x', or -n0 for one process that a debugger can join.
PYTEST_ARGS ?=

BIN := .venv/bin
# A build against the installed RocksDB lies beside the usual one, so that neither spoils the other.
BUILD := build/dev-$(KVBATCH_ROCKSDB)
CPP_FILES = $(shell find cpp tests/cpp -name '*.cc' -o -name '*.h')
PYTHON_FOLDERS := python tests bench third_party tools

export KVBATCH_ROCKSDB
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell nproc)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: build ## make a store of 1 M entries, migrate it through a receiver on loopback, verify it
	@$(BIN)/kvbatch demo

.PHONY: test
test: build ## run the C++ tests, then every Python test with coverage
	@tools/setup.sh chromium chromium-driver
	@# More shards and workers than cores: many of these tests wait for a disk, a link or another process.
	shards=$$(( 2 * $$(nproc) )); seq 0 $$(( shards - 1 )) | xargs -P 0 -I % env GTEST_TOTAL_SHARDS=$$shards GTEST_SHARD_INDEX=% $(BUILD)/core_tests --gtest_brief=1
	$(BIN)/pytest -n $$(( 2 * $$(nproc) )) --dist worksteal --cov --cov-fail-under=90 --cov-report=term-missing:skip-covered $(PYTEST_ARGS)

.PHONY: stress
stress: build ## run the kill -9 tests N times instead of the few of make test: make stress N=500
	KVBATCH_STRESS=$(N) $(BIN)/pytest tests/fault $(PYTEST_ARGS)

.PHONY: bench
bench: build ## measure: microbenchmarks, then whole migrations and ways to send, all with JSON in build/bench
	@mkdir -p build/bench
	@tools/setup.sh iperf3 iproute2 strace
	$(BIN)/pytest bench --benchmark-json=build/bench/micro.json $(PYTEST_ARGS)
	$(BIN)/python bench/end_to_end.py --json build/bench/end_to_end.json
	$(BIN)/python bench/lanes.py --json build/bench/lanes.json
	$(BIN)/python bench/kvrocks.py --json build/bench/kvrocks.json
	$(BIN)/python bench/memfd.py --json build/bench/memfd.json
	PYTHONPATH=tests $(BIN)/python bench/adaptation.py --json build/bench/adaptation.json
	PYTHONPATH=tests $(BIN)/python bench/flow_control.py --json build/bench/flow_control.json
	PYTHONPATH=tests $(BIN)/python bench/kvrocks_target.py --json build/bench/kvrocks_target.json

.PHONY: lint
lint: build ## check style, formatting, types and that the committed stubs match the built module
	$(BIN)/ruff check $(PYTHON_FOLDERS)
	$(BIN)/ruff format --check $(PYTHON_FOLDERS)
	$(BIN)/mypy
	@echo "$(BIN)/clang-format --dry-run -Werror (cpp, tests/cpp)"; $(BIN)/clang-format --dry-run -Werror $(CPP_FILES)
	$(BIN)/python tools/stubs.py --check

.PHONY: format
format: .venv/.dependencies ## format the Python and C++ code in place
	$(BIN)/ruff check --fix --exit-zero $(PYTHON_FOLDERS)
	$(BIN)/ruff format $(PYTHON_FOLDERS)
	@echo "$(BIN)/clang-format -i (cpp, tests/cpp)"; $(BIN)/clang-format -i $(CPP_FILES)

.PHONY: stubs
stubs: build ## write the type stubs of the compiled module again
	$(BIN)/python tools/stubs.py

.PHONY: wheel
wheel: dist/.built ## build a self-contained manylinux wheel in dist/ and try it in a fresh environment
	PYTHON=$(PYTHON) tools/wheel.sh try

.PHONY: clean
clean: ## remove what was built here (the cached RocksDB stays)
	rm -rf build dist .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks
	find $(PYTHON_FOLDERS) -name __pycache__ -prune -exec rm -rf {} +

.PHONY: setup
setup:
	@tools/setup.sh

# Python changes take effect at once (the install is editable); ninja finds what changed in cpp/.
.PHONY: build
build: $(BUILD)/.installed
	@cmake --build $(BUILD) | sed '/no work to do/d; /Re-checking globbed/d'
	@cmake --install $(BUILD) --prefix "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')" >/dev/null

.venv/.dependencies: pyproject.toml tools/requirements.py | setup
	$(PYTHON) -m venv .venv
	$(PYTHON) tools/requirements.py | $(BIN)/pip install --quiet --requirement /dev/stdin
	@touch $@

# rocksdb.py is run before pip, which hides the output of CMake, so that what it says is seen. When no source of the
# pinned RocksDB could be had, its answer is "system", and the installed library it falls back to is needed.
ROCKSDB = answer=$$($(PYTHON) third_party/rocksdb.py); if [ "$$answer" = system ]; then tools/setup.sh librocksdb-dev; fi

$(BUILD)/.installed: .venv/.dependencies
	@$(ROCKSDB)
	@echo "compiling the core and its tests in $(BUILD): three to seven minutes on 2 idle cores, without another word"
	$(BIN)/pip install --quiet --no-build-isolation --no-deps --config-settings=build-dir=$(BUILD) \
	  --config-settings=cmake.define.KVBATCH_TESTS=ON --editable .
	@touch $@

dist/.built: $(shell find cpp python third_party -type f -not -name '*.pyc') CMakeLists.txt pyproject.toml LICENSE \
             README.md tools/wheel.sh | setup .venv/.dependencies
	@$(ROCKSDB)
	tools/wheel.sh build
	@touch $@
