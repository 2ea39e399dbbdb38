# make demo             run two experiments; tables and pictures go to demo-out/
# make test             run the tests, except the slow ones, which make test-slow runs
# make sanitize-native  run the native backend's tests under ASan, UBSan and TSan; needs GCC
# make resources        compile the GPU kernels and compare with the record; needs no GPU
# make simulate         execute the compiled GPU kernels on the CPU; make counters counts
#                       their instructions, wavefronts and sectors
# make bench            report this machine's speed; make bench-check looks for slower calls
# make docs             build the documentation as a site in build/site
# make gpu              measure a GPU in ten minutes; make gpu-rehearsal does so without a GPU
# Targets install their packages into .venv, except those for a machine with a GPU.
# Needs Python >= 3.10, make and, for the native CPU kernels, a C++20 compiler.

PYTHON ?= python3
VENV ?= .venv
# The checkout may lie anywhere, also under a folder with spaces: targets, which make splits at
# spaces, are relative paths.
$(if $(word 2,$(VENV)),$(error VENV must be a path without spaces, got '$(VENV)'))
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# With the folders, which are newer if a file was added or removed: an editable install lists its
# modules.
FOLDERS := $(shell find gaussreg_fast kernels -type d -not -name __pycache__)
SOURCES := pyproject.toml constraints.txt CMakeLists.txt $(wildcard kernels/cpu/*/*) $(FOLDERS)

.PHONY: demo test test-slow lint resources record-resources launches record-launches readme measure \
	simulate counters record-counters \
	bench bench-check record-baseline docs clean \
	gpu gpu-rehearsal record-compile-seconds gpu-test gpu-test-all gpu-bench sanitize sanitize-native installed

demo: $(VENV)/.latent
	$(BIN)/gaussreg-fast demo --out demo-out

OLDEST_TRITON := build/triton-3.6.0

# With worksteal, tests that share a module's fixtures mostly run in the same process.
PYTEST := $(BIN)/pytest -n auto --maxprocesses 8 --dist worksteal

test: $(VENV)/.dev
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

test-slow: $(VENV)/.dev $(OLDEST_TRITON)/.installed
	$(PYTEST) -m slow $(PYTEST_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# With --strict a broken link, an unknown name or any other warning is an error. The build
# downloads nothing.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Compiles with the installed Triton and with the oldest supported one. Exit code 2 means that the
# record has no numbers of the installed release; the command prints so, and it is not a failure.
RESOURCES := $(BIN)/python -m bench resources

resources: $(VENV)/.dev $(OLDEST_TRITON)/.installed
	$(RESOURCES) --check || [ $$? = 2 ]
	PYTHONPATH="$(CURDIR)/$(OLDEST_TRITON)" $(RESOURCES) --check

# Accepts the present machine code.
record-resources: $(VENV)/.dev $(OLDEST_TRITON)/.installed
	$(RESOURCES) --out bench/results/kernel_resources.json
	PYTHONPATH="$(CURDIR)/$(OLDEST_TRITON)" $(RESOURCES) --out bench/results/kernel_resources.json

# Compares every call's launches, bytes and allocations, which do not depend on Triton's release.
launches: $(VENV)/.dev
	$(BIN)/python -m bench launches --check

record-launches: $(VENV)/.dev
	$(BIN)/python -m bench launches --out bench/results/launches.json

# Executes the compiled kernels on the CPU, with both releases, and checks numbers, races and
# bounds; on the other architectures once per route. The first run mostly compiles, and Triton's
# cache keeps the kernels.
SIMULATE := $(BIN)/python -m bench simulate

simulate: $(VENV)/.dev $(OLDEST_TRITON)/.installed
	$(SIMULATE)
	$(SIMULATE) --triton $(OLDEST_TRITON)
	$(SIMULATE) --quick --arch sm_80
	$(SIMULATE) --quick --arch sm_100

# Compares the executed kernels' instructions, wavefronts and sectors with the committed counts.
# Exit code 2 means that the record has no counts of the installed release.
COUNTERS := $(BIN)/python -m bench counters

counters: $(VENV)/.dev $(OLDEST_TRITON)/.installed
	$(COUNTERS) --check || [ $$? = 2 ]
	$(COUNTERS) --check --triton $(OLDEST_TRITON)

record-counters: $(VENV)/.dev $(OLDEST_TRITON)/.installed
	$(COUNTERS) --out bench/results/counters.json
	$(COUNTERS) --out bench/results/counters.json --triton $(OLDEST_TRITON)
	$(BIN)/python -m bench readme

build/triton-%/.installed: | $(BIN)/python
	$(PIP) install -q --upgrade --no-deps --target $(@D) triton==$*
	touch $@

# An environment of its own uses the other's packages, but not its editable install, because Python
# reads no .pth files in a folder that a .pth file names.
SANITIZED := build/sanitized-

sanitize-native: $(SANITIZED)address,undefined/.installed $(SANITIZED)thread/.installed
	$(SANITIZED)address,undefined/bin/python -m bench sanitize-native $(PYTEST_ARGS)
	$(SANITIZED)thread/bin/python -m bench sanitize-threads $(PYTEST_ARGS)

$(SANITIZED)%/.installed: $(SOURCES) $(VENV)/.dev
	$(BIN)/python -m venv --without-pip --clear $(@D)
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > \
		"$$($(@D)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/dev.pth"
	$(PIP) --python $(@D)/bin/python install -q --no-deps \
		-C build-dir=build/cmake-$* -C install.strip=false \
		-C cmake.define.GAUSSREG_SANITIZE=$* .
	touch $@

# Reruns the experiments for the README, the second at full size, and writes their tables there.
readme: $(VENV)/.latent
	$(BIN)/gaussreg-fast demo --out docs/results/demo --experiment checkerboard
	$(BIN)/gaussreg-fast demo --out docs/results/demo --experiment frontier --full
	$(BIN)/gaussreg-fast demo --out docs/results/demo --experiment personalisation \
		--experiment reward-tuning
	$(BIN)/python -m bench readme

# Measures this machine in a minute (docs/guide/profile.md); a table and plots go to bench-out/.
bench: $(VENV)/.bench
	$(BIN)/python -m bench report --quick --restart

# Compares with the committed baseline of this device. Exit code 2 means that there is none.
BASELINE ?= bench/baselines/cpu-amd-epyc-avx512.json

bench-check: $(VENV)/.bench
	$(BIN)/python -m bench check --baseline "$(BASELINE)"

record-baseline: $(VENV)/.bench
	$(BIN)/python -m bench record

# Repeats the committed measurements, and writes the tables made of them.
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

# Measures a GPU in ten minutes: docs/guide/ten-minutes-with-a-gpu.md. It uses the packages of
# $(PYTHON) and downloads nothing. It needs torch, triton and numpy, and to build scikit-build-core,
# nanobind, cmake, ninja and a C++ compiler. If time is up, make gpu GPU=--resume continues.
GPU_SECONDS ?= 540
GPU_OUT ?= bench/results/gpu

gpu:
	"$(PYTHON)" -m bench gpu --install --seconds $(GPU_SECONDS) --out "$(GPU_OUT)" $(GPU)

# Rehearses all of it without a GPU, in an environment like a GPU machine's: the oldest supported
# torch and triton, and nothing optional. Python is 3.12 if it is installed.
GPU_PYTHON ?= $(shell for p in python3.12 "$$HOME"/.pyenv/versions/3.12*/bin/python "$(PYTHON)"; \
	do "$$p" -c "import venv" 2>/dev/null && command -v "$$p" && break; done)
GPU_LIKE := build/gpu-like

gpu-rehearsal: $(GPU_LIKE)/.installed
	$(GPU_LIKE)/bin/python -m bench gpu --rehearse --install --restart --seconds 900 --out build
	$(GPU_LIKE)/bin/python -P -m pytest tests/bench/gpu -k "not every_stage"

# Records the seconds of each kernel's compilation with that Triton. `make gpu` compiles the longest
# first.
record-compile-seconds: $(GPU_LIKE)/.installed
	$(GPU_LIKE)/bin/python -m pip install -q --no-deps --no-build-isolation .
	$(GPU_LIKE)/bin/python -m bench gpu --compile --record

$(GPU_LIKE)/.installed: bench/gpu/packages.txt | $(BIN)/python
	"$(GPU_PYTHON)" -m venv --clear $(GPU_LIKE)
	$(GPU_LIKE)/bin/python -m pip install -q --disable-pip-version-check -r $<
	$(GPU_LIKE)/bin/python -m pip uninstall -q -y pydantic pydantic_core nvtx diffusers
	touch $@

# On a machine with a GPU: runs the tests that need one, and those of the clocks.
gpu-test: installed
	"$(PYTHON)" -P -m pytest $(shell "$(PYTHON)" -c "import xdist" 2>/dev/null && echo "-n 8") \
		tests/gpu tests/bench/harness $(PYTEST_ARGS)

# On a machine with a GPU: also runs on it the tests that elsewhere use Triton's interpreter, which
# compiles some hundred kernels.
gpu-test-all: installed
	"$(PYTHON)" -P -m pytest $(shell "$(PYTHON)" -c "import xdist" 2>/dev/null && echo "-n 8") \
		tests/gpu tests/triton tests/functional $(PYTEST_ARGS)

gpu-bench: installed
	"$(PYTHON)" -m bench report --restart --out bench/results/gpu

# On a machine with a GPU: looks for memory errors and races in the kernels, at more sizes than
# `make gpu` has time for. memcheck runs without the allocator's pools, which would hide accesses
# out of bounds.
sanitize: installed
	PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck --error-exitcode 3 \
		"$(PYTHON)" -m bench sanitize
	compute-sanitizer --tool racecheck --error-exitcode 3 "$(PYTHON)" -m bench sanitize

installed:
	"$(PYTHON)" -m pip install -q --no-deps --no-build-isolation .

clean:
	rm -rf $(VENV) build demo-out bench-out

$(BIN)/python:
	"$(PYTHON)" -m venv $(VENV)

# Editable installs use the Python sources in place and build the C++ module.
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
