# make demo        the two experiments, from nothing to tables and pictures in demo-out/
# make test        the tests, from nothing, but for the slow ones; make test-slow: those
# make sanitize-native  the native backend's tests under ASan and UBSan; needs GCC
# make resources   what the GPU kernels compile to, against the committed numbers; needs no GPU
# make simulate    the compiled GPU kernels executed on the CPU; make counters: what they do there
# make bench       a report on this machine's speed; make bench-check: is anything slower?
# make docs        the documentation as a site, in build/site
# make gpu         all that a GPU can say in ten minutes; make gpu-rehearsal: without one
# Needs Python >= 3.10, make and, for the native CPU kernels, a C++20 compiler.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# A folder counts as newer when files came or went: an editable install lists its modules.
FOLDERS := $(shell find gaussreg_fast kernels -type d -not -name __pycache__)
SOURCES := pyproject.toml constraints.txt CMakeLists.txt $(wildcard kernels/cpu/*) $(FOLDERS)

.PHONY: demo test test-slow lint resources record-resources launches record-launches readme measure \
	simulate counters record-counters \
	bench bench-check record-baseline docs clean \
	gpu gpu-rehearsal record-compile-seconds gpu-test gpu-test-all gpu-bench sanitize sanitize-native installed

demo: $(VENV)/.latent
	$(BIN)/gaussreg-fast demo --out demo-out

OLDEST_TRITON := $(CURDIR)/build/triton-3.6.0

# Work is stolen, not dealt: tests that share what a module prepares mostly stay together.
PYTEST := $(BIN)/pytest -n auto --maxprocesses 8 --dist worksteal

test: $(VENV)/.dev
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

test-slow: $(VENV)/.dev $(OLDEST_TRITON)/.installed
	$(PYTEST) -m slow $(PYTEST_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Strict: a broken link, an unknown name or any other warning fails it. Fetches nothing at build time.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# With the installed Triton, and with the oldest that is supported. Exit code 2: the installed one
# is of a release without numbers, which is said and is no failure.
RESOURCES := $(BIN)/python -m bench resources

resources: $(VENV)/.dev $(OLDEST_TRITON)/.installed
	$(RESOURCES) --check || [ $$? = 2 ]
	PYTHONPATH=$(OLDEST_TRITON) $(RESOURCES) --check

# Accepts what they compile to now.
record-resources: $(VENV)/.dev $(OLDEST_TRITON)/.installed
	$(RESOURCES) --out bench/results/kernel_resources.json
	PYTHONPATH=$(OLDEST_TRITON) $(RESOURCES) --out bench/results/kernel_resources.json

# Launches, bytes and allocations of every call; the same with any release of Triton.
launches: $(VENV)/.dev
	$(BIN)/python -m bench launches --check

record-launches: $(VENV)/.dev
	$(BIN)/python -m bench launches --out bench/results/launches.json

# The compiled kernels executed on the CPU, with both: numbers, races, bounds; other architectures
# once per route. The first time most of it is compilation, which Triton's cache keeps.
SIMULATE := $(BIN)/python -m bench simulate

simulate: $(VENV)/.dev $(OLDEST_TRITON)/.installed
	$(SIMULATE)
	$(SIMULATE) --triton $(OLDEST_TRITON)
	$(SIMULATE) --quick --arch sm_80
	$(SIMULATE) --quick --arch sm_100

# What they do there: instructions, wavefronts, sectors, against the committed counts.
COUNTERS := $(BIN)/python -m bench counters

counters: $(VENV)/.dev $(OLDEST_TRITON)/.installed
	$(COUNTERS) --check || [ $$? = 3 ]
	$(COUNTERS) --check --triton $(OLDEST_TRITON)

record-counters: $(VENV)/.dev $(OLDEST_TRITON)/.installed
	$(COUNTERS) --out bench/results/counters.json
	$(COUNTERS) --out bench/results/counters.json --triton $(OLDEST_TRITON)
	$(BIN)/python -m bench readme

$(CURDIR)/build/triton-%/.installed: | $(BIN)/python
	$(PIP) install -q --upgrade --no-deps --target $(@D) triton==$*
	touch $@

# In an environment of its own, which sees the packages of the other but not its editable install:
# the .pth files of a folder that a .pth file names are not read.
SANITIZED := build/sanitized

sanitize-native: $(SANITIZED)/.installed
	$(SANITIZED)/bin/python -m bench sanitize-native $(PYTEST_ARGS)

$(SANITIZED)/.installed: $(SOURCES) $(VENV)/.dev
	$(BIN)/python -m venv --without-pip --clear $(SANITIZED)
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > \
		`$(SANITIZED)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))"`/dev.pth
	$(PIP) --python $(SANITIZED)/bin/python install -q --no-deps \
		-C build-dir=build/sanitized-cmake -C install.strip=false \
		-C cmake.define.GAUSSREG_SANITIZE=ON .
	touch $@

# Reruns the experiments for the README, the second in full, and puts their tables there.
readme: $(VENV)/.latent
	$(BIN)/gaussreg-fast demo --out docs/results/demo --experiment checkerboard
	$(BIN)/gaussreg-fast demo --out docs/results/demo --experiment frontier --full
	$(BIN)/gaussreg-fast demo --out docs/results/demo --experiment personalisation \
		--experiment reward-tuning
	$(BIN)/python -m bench readme

# What this machine does, in a minute (docs/guide/profile.md): a table and plots in bench-out/.
bench: $(VENV)/.bench
	$(BIN)/python -m bench report --quick --restart

# Is anything slower than the committed baseline of this device says? Exit code 2: there is none.
BASELINE ?= bench/baselines/cpu-amd-epyc-avx2.json

bench-check: $(VENV)/.bench
	$(BIN)/python -m bench check --baseline $(BASELINE)

record-baseline: $(VENV)/.bench
	$(BIN)/python -m bench record

# The committed measurements, and the tables made of them.
measure: $(VENV)/.bench
	$(BIN)/python -m bench study call_overhead --out bench/results/call_overhead.json
	$(BIN)/python -m bench study cpu --out bench/results/cpu.json
	$(BIN)/python -m bench study drift --compile --out bench/results/drift.json
	$(BIN)/python -m bench study path_kl --out bench/results/path_kl.json
	$(BIN)/python -m bench study projection --out bench/results/projection.json
	$(BIN)/python -m bench study noise_injection --out bench/results/noise_injection.json
	$(BIN)/python -m bench study learning_rates --out bench/results/learning_rates.json
	$(BIN)/python -m bench report --restart --out docs/results/report
	$(BIN)/python -m bench readme

# On a machine with a GPU, in ten minutes: docs/guide/ten-minutes-with-a-gpu.md. Uses $(PYTHON) and
# what it has, and fetches nothing: torch, triton, numpy; to build, scikit-build-core, nanobind,
# cmake, ninja and a C++ compiler. A second command resumes where time was up: make gpu GPU=--resume
GPU_SECONDS ?= 540
GPU_OUT ?= bench/results/gpu

gpu:
	$(PYTHON) -m bench gpu --install --seconds $(GPU_SECONDS) --out $(GPU_OUT) $(GPU)

# All of it without a GPU, in an environment like such a machine's: the oldest torch and triton that
# are supported, nothing that is optional. Python 3.12 where it is to be had.
GPU_PYTHON ?= $(firstword $(shell for p in python3.12 $$HOME/.pyenv/versions/3.12*/bin/python \
	$(PYTHON); do $$p -c "import venv" 2>/dev/null && command -v $$p; done))
GPU_LIKE := build/gpu-like

gpu-rehearsal: $(GPU_LIKE)/.installed
	$(GPU_LIKE)/bin/python -m bench gpu --rehearse --install --restart --seconds 900 --out build
	$(GPU_LIKE)/bin/python -P -m pytest tests/bench/gpu -k "not every_stage"

# What its kernels take to compile, with that Triton, in the order of which they are compiled.
record-compile-seconds: $(GPU_LIKE)/.installed
	$(GPU_LIKE)/bin/python -m pip install -q --no-deps --no-build-isolation .
	$(GPU_LIKE)/bin/python -m bench gpu --compile --record

$(GPU_LIKE)/.installed: bench/gpu/packages.txt | $(BIN)/python
	$(GPU_PYTHON) -m venv --clear $(GPU_LIKE)
	$(GPU_LIKE)/bin/python -m pip install -q --disable-pip-version-check -r $<
	$(GPU_LIKE)/bin/python -m pip uninstall -q -y pydantic pydantic_core nvtx diffusers
	touch $@

# There: the tests that need a GPU.
gpu-test: installed
	$(PYTHON) -P -m pytest $(shell $(PYTHON) -c "import xdist" 2>/dev/null && echo "-n 8") \
		tests/gpu tests/bench/test_bench_measure.py tests/bench/test_bench_clocks.py $(PYTEST_ARGS)

# The interpreter's tests on the device, too: some hundred kernels to compile.
gpu-test-all: installed
	$(PYTHON) -P -m pytest $(shell $(PYTHON) -c "import xdist" 2>/dev/null && echo "-n 8") \
		tests/gpu tests/triton tests/functional/test_inputs.py $(PYTEST_ARGS)

gpu-bench: installed
	$(PYTHON) -m bench report --restart --out bench/results/gpu

# There too: memory errors and races in the kernels, at more sizes than `make gpu` has time for. The
# allocator's pools are off for the first, for they would hide what is out of bounds.
sanitize: installed
	PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck --error-exitcode 3 \
		$(PYTHON) -m bench sanitize
	compute-sanitizer --tool racecheck --error-exitcode 3 $(PYTHON) -m bench sanitize

installed:
	$(PYTHON) -m pip install -q --no-deps --no-build-isolation .

clean:
	rm -rf $(VENV) build demo-out bench-out

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Editable: Python sources are used as they stand, the C++ module is built here.
$(VENV)/.latent: $(SOURCES) | $(BIN)/python
	$(PIP) install -q -c constraints.txt -e '.[latent]'
	touch $@

$(VENV)/.bench: $(SOURCES) | $(BIN)/python
	$(PIP) install -q -c constraints.txt -e '.[bench]'
	touch $@

$(VENV)/.docs: $(SOURCES) | $(BIN)/python
	$(PIP) install -q -c constraints.txt -e '.[docs]'
	touch $@ $(VENV)/.latent

$(VENV)/.dev: $(SOURCES) | $(BIN)/python
	$(PIP) install -q -c constraints.txt -e '.[dev]'
	touch $@ $(VENV)/.latent $(VENV)/.bench $(VENV)/.docs
