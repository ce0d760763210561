# Every target does the set-up it needs: `make quickstart` on a fresh clone is enough.
PYTHON ?= python3
NAME ?=
ARGS ?=
BIN := .venv/bin
STAMP := .venv/.stamp
VLLM := .venv-vllm/.stamp
ALFWORLD := .venv/.stamp-alfworld
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
TORCH := $(shell grep '^torch==' constraints.txt)

.DEFAULT_GOAL := help
.PHONY: help setup setup-vllm quickstart test test-gpu test-vllm lint format bench clean

help:
	@echo "make setup        a .venv with every extra"
	@echo "make quickstart   train and measure an agent, about 15 minutes on two cores"
	@echo "make test         all tests (ARGS='-k credit' narrows them)"
	@echo "make test-gpu     the tests that need a GPU, where there is one"
	@echo "make setup-vllm   vLLM for a CPU, in a .venv-vllm of its own (3.5 GB)"
	@echo "make test-vllm    the tests of the vLLM engine, on vLLM itself"
	@echo "make lint         ruff and mypy"
	@echo "make format       let ruff rewrite what it can"
	@echo "make bench        list the benchmarks; NAME=multiturn_step ARGS='--json' runs one"
	@echo "make clean        remove the environments and everything that was built"

setup: $(STAMP)

# torch comes first, so that nothing else decides which build of it is taken.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "turnrl needs Python 3.11 or newer and $(PYTHON) is " + sys.version.split()[0] + ": run make PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { rm -rf .venv; echo "cannot make .venv: on Debian and Ubuntu, apt install python3-venv"; exit 1; }
	@echo "Installing into .venv (about 2 minutes) ..."
	@$(PIP) install '$(TORCH)'
	@$(PIP) install -c constraints.txt -e '.[all,dev]'
	@echo "Rebuilding the interpreter of TextWorld's games for this machine (about a minute) ..."
	@$(BIN)/python -m turnrl.envs.textworld.tune || echo "The interpreter stays as it was installed, about a third slower."
	@touch $@

# Fast Downward is compiled, so what only the household tests need is no part of the set-up. pip brings cmake; a g++ and
# make are the system's, and the build calls 'python', which need not be on the path. Without it those tests are skipped.
$(ALFWORLD): $(STAMP)
	@echo "Building Fast Downward for the household worlds (about 4 minutes, once) ..."
	@if PATH="$(CURDIR)/$(BIN):$$PATH" $(PIP) install -c constraints.txt -e '.[alfworld]'; then touch $@; \
	elif [ "$$CI" = true ]; then exit 1; \
	else echo "The household tests are skipped: Fast Downward was not built. On Debian and Ubuntu, apt install g++ make."; fi

# vLLM pins what turnrl has in other versions, so it has an environment of its own, in which nothing of turnrl is installed.
# constraints-vllm.txt is all of it, without what vLLM asks for and cannot be imported with: hence --no-deps.
setup-vllm: $(VLLM)

$(VLLM): constraints-vllm.txt
	@test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm || { rm -rf .venv-vllm; echo "cannot make .venv-vllm: on Debian and Ubuntu, apt install python3-venv"; exit 1; }
	@echo "Installing vLLM into .venv-vllm (about 5 minutes) ..."
	@.venv-vllm/bin/python -m pip --disable-pip-version-check -qq install --no-deps --only-binary=:all: -r constraints-vllm.txt
	@.venv-vllm/bin/python -c 'import torch' || { echo "vLLM for a CPU needs the CPU build of torch: name an index that has it in PIP_EXTRA_INDEX_URL"; exit 1; }
	@touch $@

quickstart: setup
	$(BIN)/python benchmarks/quickstart.py $(ARGS)

# One thread per process: two workers on two cores then do not fight over them.
test test-vllm: export OMP_NUM_THREADS = 1
test test-vllm: export OMP_WAIT_POLICY = passive
test test-vllm: export TOKENIZERS_PARALLELISM = false
test: setup $(ALFWORLD)
	$(BIN)/python -m pytest -n 2 -q $(ARGS)

test-gpu: setup
	$(BIN)/python -m pytest -m gpu -q $(ARGS)

# One server at a time, and the trainer beside it.
test-vllm: setup setup-vllm
	$(BIN)/python -m pytest -n 0 -q -m vllm tests/agents/test_vllm_engine.py tests/training/test_vllm_run.py $(ARGS)

# mypy cannot see that the repository root is the package, so it looks through a link named like the package.
lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@mkdir -p build/mypy && ln -sfn ../.. build/mypy/turnrl
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
ifeq ($(NAME),)
	@for file in benchmarks/*.py; do printf '%-24s ' "$$(basename $$file .py)"; sed -n '1s/^"""//;1s/"""$$//;1p' $$file; done
	@echo "run one: make bench NAME=multiturn_step ARGS='--json'"
else
	@test -f benchmarks/$(NAME).py || { echo "no benchmark '$(NAME)': make bench lists them"; exit 2; }
	$(BIN)/python benchmarks/$(NAME).py $(ARGS)
endif

clean:
	rm -rf .venv .venv-vllm build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
