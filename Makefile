# Everything a person has to remember. Each target makes its own .venv and installs what it needs; on a second call
# only what changed is done again.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
# What pip says of each package; nothing with --quiet.
QUIET  ?= --progress-bar off
# Extra arguments, for example: make test ARGS="-k numpy -x"
ARGS   ?=
JOBS   ?= auto
# Another PyTorch than the one of .ci/constraints.txt, in an environment of its own: make test VENV=.venv-2.6 TORCH=2.6.0
TORCH  ?=

PACKAGE = pyproject.toml CMakeLists.txt $(wildcard cmake/* native/* cuda/*.h)
CXX_SOURCES = $(wildcard native/*.cpp native/*.h cuda/*.cu cuda/*.cuh cuda/*.h bench/gpu/*.cu \
                tests/native/*.cpp tests/native/*.h tests/native/*.c tests/operators/*.h tests/emulation/*.cpp tests/emulation/*.h)

PYTEST  = $(BIN)/pytest -n $(JOBS) --maxprocesses 8 --durations=25

.PHONY: help demo test test-all test-peers lint bench gpu-prepare gpu-check gpu-table2 gpu-million gpu-paper docs clean
help:
	@echo "make demo    the same recurrence on every library, and models trained through it; two minutes"
	@echo "make test    the everyday tests; about seven minutes on two cores"
	@echo "make test-all    all tests: those, the slow ones and test-peers; half an hour on two cores"
	@echo "make test-peers  the cells beside published implementations of them"
	@echo "make lint    ruff, clang-format and mypy"
	@echo "make bench   the price of an add, and peers; JSON and a plot in bench/results"
	@echo "make gpu-prepare   without a GPU: compile what gpu-check needs, into build/gpu-check; ten minutes on two cores"
	@echo "make gpu-check   with a GPU, in ten minutes: tests, sanitizer, benchmarks; JSON in bench/results"
	@echo "make gpu-paper   the paper's Table 2 and million-step task: gpu-table2, gpu-million, ten minutes each"
	@echo "make docs    HTML in docs/_build"
	@echo "make clean   remove the environment and everything built"
	@echo "The first of these to run downloads what it needs, which takes some minutes more."

demo: $(VENV)/.extra-demo
	$(BIN)/python examples/demo.py $(ARGS)

test: $(VENV)/.extra-test
	@$(PYTEST) -m "not slow" $(ARGS)

test-all: test-peers $(VENV)/.extra-test
	@$(PYTEST) --dist worksteal $(ARGS)

test-peers: $(VENV)/.peers
	@$(VENV)/peers/bin/python -m pytest tests/test_cells_peers.py

# mypy wants the packages where they are when installed: backends inside scanlib.
lint: $(VENV)/.extra-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CXX_SOURCES)
	rm -rf build/typed && mkdir -p build/typed/scanlib
	ln -s $(CURDIR)/scanlib/* $(CURDIR)/backends build/typed/scanlib/
	cd build/typed && $(abspath $(BIN))/mypy --config-file $(CURDIR)/pyproject.toml -p scanlib

bench: $(VENV)/.torchlpc
	$(BIN)/python bench/cpu/run.py $(ARGS)

# For another machine, whose NVRTC may be of another version: make gpu-prepare ARGS="--nvrtc 13.0.88 --architecture 90"
gpu-prepare: $(VENV)/.extra-test
	$(BIN)/python bench/gpu/prepare.py $(ARGS)

# In the Python that is there, with its torch, JAX and CuPy: nothing is installed or downloaded.
gpu-check:
	$(PYTHON) bench/gpu/check.py $(ARGS)

gpu-paper: gpu-table2 gpu-million

gpu-table2:
	$(PYTHON) experiments/gpu_paper.py table2 $(ARGS)

gpu-million:
	$(PYTHON) experiments/gpu_paper.py million $(ARGS)

docs: $(VENV)/.extra-docs
	$(BIN)/sphinx-build -W -q docs docs/_build

clean:
	rm -rf $(VENV) build dist docs/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The environment, then scanlib as an editable install (so that only a change of libscanlib or of the packaging needs
# another), then the requirements of one extra, which pip reads from the scanlib installed.
$(VENV)/.created:
	@echo "Making an environment in $(VENV)."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@touch $@

$(VENV)/.installed: $(VENV)/.created $(PACKAGE)
	@echo "Compiling libscanlib and installing scanlib: about a minute."
	@$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.extra-%: $(VENV)/.installed .ci/constraints.txt
	@echo "Installing what scanlib[$*] names: some minutes the first time, mostly downloads."
	@sed 's/^torch==.*/$(if $(TORCH),torch==$(TORCH),&)/' .ci/constraints.txt > $(VENV)/constraints.txt
	@$(BIN)/python -m pip install $(QUIET) --constraint $(VENV)/constraints.txt "scanlib[$*]"
	@touch $@

# Published implementations want older releases of what the other tests use: an environment on top of the first.
$(VENV)/.peers: $(VENV)/.extra-test
	@echo "Installing what scanlib[peers] names in $(VENV)/peers."
	@$(BIN)/python -m venv $(VENV)/peers
	@$(VENV)/peers/bin/python -c "import pathlib, sys, sysconfig as s; pathlib.Path(s.get_path('purelib'), 'below.pth').write_text(f'import site; site.addsitedir({sys.argv[1]!r})')" \
	  "$$($(BIN)/python -c "import sysconfig as s; print(s.get_path('purelib'))")"
	@$(VENV)/peers/bin/python -m pip install --quiet --constraint $(VENV)/constraints.txt "scanlib[peers]"
	@touch $@

# A peer in the benchmarks that compiles itself against the torch installed.
$(VENV)/.torchlpc: $(VENV)/.extra-bench
	$(BIN)/python -m pip install --quiet setuptools ninja
	$(BIN)/python -m pip install --quiet --no-build-isolation "torchlpc>=0.7"
	@touch $@
