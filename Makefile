# `make demo` and `make test` each work as the first command on a fresh machine with Python 3.11, gcc and cmake.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --disable-pip-version-check
N_CORES := $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)

# llama-cpp-python has no wheel. Only the library is built: no server, no tools, no vision. Without llamafile's
# matrix kernels a token's logits are equal, bit for bit, whether it is evaluated alone or in a batch: replies do
# not depend on what was cached or jumped over. (Prefill is slower by about a third, decoding is not.) The switches
# are given by environment and not by --config-settings, so that pip caches the wheel that it built.
CMAKE_SWITCHES := -DGGML_LLAMAFILE=OFF -DMTMD_BUILD=OFF -DLLAVA_BUILD=OFF -DLLAMA_BUILD_TESTS=OFF \
	-DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF
# Tests run in one process more than there are cores, as many wait for servers and children. Each has one thread: more
# threads than cores wait for each other. Bytecode is written even where the environment forbids it: else each test
# process compiles all tests, and each of its children the packages.
TEST_ENV := env -u PYTHONDONTWRITEBYTECODE -u MAKEFLAGS OMP_NUM_THREADS=1
N_TEST_PROCESSES := $(shell expr $(N_CORES) + 1)
# A test that ends its process ends the run: with another process in its place, pytest-xdist loses tests and waits.
TEST_OPTIONS := -n $(N_TEST_PROCESSES) --dist loadgroup --max-worker-restart 0
# Node's own limit of 4 GiB is just enough for pyright, which then spends two thirds of its time collecting garbage.
PYRIGHT_ENV := env NODE_OPTIONS=--max-old-space-size=8192
BUILD_ENV := CMAKE_BUILD_PARALLEL_LEVEL=$(N_CORES) CMAKE_ARGS="$(CMAKE_SWITCHES)"

.PHONY: demo test test-all test-fast lint docs bench wheel-smoke clean

demo: $(VENV)/.local
	$(BIN)/agentkit demo

# pyright is one process and takes minutes: the tests run beside it.
test: $(VENV)/.conformance
	$(BIN)/agentkit models pull smollm2-135m
	$(BIN)/agentkit models pull minilm
	$(BIN)/python -m evals.tool_use.bfcl.wheel
	$(MAKE) -j2 lint test-all

test-all: $(VENV)/.conformance
	$(TEST_ENV) $(BIN)/python -m pytest $(TEST_OPTIONS)

test-fast: $(VENV)/.dev
	$(TEST_ENV) $(BIN)/python -m pytest $(TEST_OPTIONS) -m "not slow"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(PYRIGHT_ENV) $(BIN)/pyright

# The site in build/site, for a browser without a server too; a warning is an error.
docs: $(VENV)/.dev
	$(BIN)/zensical build --strict --clean

# Builds sdist and wheel, installs the wheel alone in an environment of its own, and uses it outside this folder.
wheel-smoke: $(BIN)/python
	$(BUILD_ENV) $(BIN)/python -m tools.wheel_smoke

bench: $(VENV)/.dev
	$(BIN)/python -m evals.speed

# The official MCP conformance command line, an authorization server (node-oidc-provider), and the Node they need; their
# tests skip, with a reason, where npm is missing.
$(VENV)/.conformance: $(VENV)/.dev
	if command -v npm >/dev/null; then \
		npm install --silent --no-audit --no-fund --prefix $(VENV)/conformance \
			node@22 @modelcontextprotocol/conformance@0.1.16 oidc-provider@9.13.3; \
	fi
	@touch $@

clean:
	rm -rf $(VENV) .venv-peers* build *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.local: $(BIN)/python pyproject.toml
	@echo "Installing. llama-cpp-python is compiled now, once: about 3 minutes on 2 cores ($(N_CORES) here)."
	$(BUILD_ENV) $(PIP) -e ".[local,servers]"
	@touch $@

$(VENV)/.dev: $(VENV)/.local pyproject.toml
	$(BUILD_ENV) $(PIP) -e ".[all,dev]"
	@touch $@
