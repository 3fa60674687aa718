# Everything a person has to remember. Each target makes its own .venv and installs what it needs; on a second call
# only what changed is done again.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
# Extra arguments, for example: make test ARGS="-k numpy -x"
ARGS   ?=
JOBS   ?= auto
# Another PyTorch than the one of .ci/constraints.txt, in an environment of its own: make test VENV=.venv-2.6 TORCH=2.6.0
TORCH  ?=

PACKAGE = pyproject.toml CMakeLists.txt $(wildcard cmake/* native/* cuda/*.h)
CXX_SOURCES = $(wildcard native/*.cpp native/*.h cuda/*.cu cuda/*.cuh cuda/*.h bench/*.cu \
                tests/native/*.cpp tests/native/*.h tests/native/*.c tests/emulation/*.cpp tests/emulation/*.h)

.PHONY: help demo test lint bench gpu-check gpu-table2 gpu-million gpu-paper docs clean
help:
	@echo "make demo    the same recurrence on every library, and models trained through it; two minutes"
	@echo "make test    all tests"
	@echo "make lint    ruff, clang-format and mypy"
	@echo "make bench   the price of an add, and peers; JSON and a plot in bench/results"
	@echo "make gpu-check   with a GPU, in ten minutes: tests, sanitizer, benchmarks; JSON in bench/results"
	@echo "make gpu-paper   the paper's Table 2 and million-step task: gpu-table2, gpu-million, ten minutes each"
	@echo "make docs    HTML in docs/_build"
	@echo "make clean   remove the environment and everything built"

demo: $(VENV)/.extra-demo
	$(BIN)/python examples/demo.py $(ARGS)

test: $(VENV)/.extra-test
	@$(BIN)/pytest -n $(JOBS) --maxprocesses 8 $(ARGS)

# mypy wants the packages where they are when installed: backends inside scanlib.
lint: $(VENV)/.extra-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CXX_SOURCES)
	rm -rf build/typed && mkdir -p build/typed/scanlib
	ln -s $(CURDIR)/scanlib/* $(CURDIR)/backends build/typed/scanlib/
	cd build/typed && $(abspath $(BIN))/mypy --config-file $(CURDIR)/pyproject.toml -p scanlib

bench: $(VENV)/.torchlpc
	$(BIN)/python bench/run.py $(ARGS)

# In the Python that is there, with its torch, JAX and CuPy: nothing is installed or downloaded.
gpu-check:
	$(PYTHON) bench/gpu_check.py $(ARGS)

gpu-paper: gpu-table2 gpu-million

gpu-table2:
	$(PYTHON) bench/gpu_paper.py table2 $(ARGS)

gpu-million:
	$(PYTHON) bench/gpu_paper.py million $(ARGS)

docs: $(VENV)/.extra-docs
	$(BIN)/sphinx-build -W -q docs docs/_build

clean:
	rm -rf $(VENV) build dist docs/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The environment, then scanlib as an editable install (so that only a change of libscanlib or of the packaging needs
# another), then the requirements of one extra, which pip reads from the scanlib installed.
$(VENV)/.created:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@touch $@

$(VENV)/.installed: $(VENV)/.created $(PACKAGE)
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.extra-%: $(VENV)/.installed .ci/constraints.txt
	@sed 's/^torch==.*/$(if $(TORCH),torch==$(TORCH),&)/' .ci/constraints.txt > $(VENV)/constraints.txt
	$(BIN)/python -m pip install --quiet --constraint $(VENV)/constraints.txt "scanlib[$*]"
	@touch $@

# A peer in the benchmarks that compiles itself against the torch installed.
$(VENV)/.torchlpc: $(VENV)/.extra-bench
	$(BIN)/python -m pip install --quiet setuptools ninja
	$(BIN)/python -m pip install --quiet --no-build-isolation "torchlpc>=0.7"
	@touch $@
