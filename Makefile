# `make demo` verifies a real model and asks it a question, `make test` is what CI runs. Both need
# Python and make; a C++ compiler is taken from PyPI (ziglang) where the machine has none.

PYTHON ?= python3
VENV ?= .venv
# Unpinned, torch brings gigabytes of CUDA on Linux.
TORCH ?= torch==2.13.0

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
LINUX := $(filter Linux,$(shell uname -s))
SHADERS = find metal mlx_dequant/backends tests \( -name '*.metal' -o -name '*.h' -o -name '*.cpp' \) -print0

fuzz: SECONDS ?= 60
soak: SECONDS ?= 600

.PHONY: demo test test-full lint format docs agx fuzz soak clean

demo: $(VENV)/demo
	model=$$($(BIN)/mlx-dequant fetch-demo-model) && $(BIN)/mlx-dequant verify --rounds 3 "$$model" && \
	$(BIN)/mlx-dequant generate "$$model" -p "What is the capital of France?"

test: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not full"

test-full: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal --durations=20

lint: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(SHADERS) | xargs -0 $(BIN)/clang-format --dry-run --Werror
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(SHADERS) | xargs -0 $(BIN)/clang-format -i

docs: $(VENV)/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict -f docs/site/mkdocs.yml
	@echo build/docs/index.html

# What Mesa's compiler for Apple's GPUs makes of the Metal kernels, beside MLX's: needs Debian 12 and root.
agx: $(VENV)/test
	$(BIN)/python -m tests.tools.agx --build --write

# Damaged files for so many seconds, guided by coverage where atheris can be installed, else at random.
fuzz: $(VENV)/test
	-$(PIP) atheris
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

# 16 threads on every backend and the torch bridge: results, memory, open files.
soak: $(VENV)/test
	$(BIN)/python -m tests.tools.soak --seconds $(SECONDS)

clean:
	rm -rf $(VENV) build

# Stamps: what they are named after is installed, anew when pyproject.toml changes.
$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 10) else \
	    "found Python %d.%d, expected 3.10 or newer: make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo: pyproject.toml | $(BIN)/python
	$(PIP) -e '.[lm]' $(if $(LINUX),'mlx[cpu]')
	$(BIN)/python -c 'from mlx_dequant.backends.host.compiler import compiler as c; exit(not c())' || $(PIP) ziglang
	touch $@

$(VENV)/test: pyproject.toml $(VENV)/demo
	$(PIP) -e '.[torch,test]' $(TORCH)
	touch $@

$(VENV)/docs: pyproject.toml | $(BIN)/python
	$(PIP) -e '.[docs]' $(if $(LINUX),'mlx[cpu]')
	touch $@
