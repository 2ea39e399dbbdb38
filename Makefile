# make demo      the checkerboard experiment, from nothing to a table and a picture in demo-out/
# make test      the tests, from nothing
# make kernels   what the GPU kernels compile to, against the committed numbers; needs no GPU
# Needs Python >= 3.10, make and, for the native CPU kernels, a C++20 compiler.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# A folder counts as newer when files came or went: an editable install lists its modules.
FOLDERS := $(shell find gaussreg_fast kernels -type d -not -name __pycache__)
SOURCES := pyproject.toml constraints.txt CMakeLists.txt $(wildcard kernels/cpu/*) $(FOLDERS)

.PHONY: demo test lint kernels record-kernels readme measure clean

demo: $(VENV)/.cli
	$(BIN)/gaussreg-fast demo --out demo-out

test: $(VENV)/.dev
	$(BIN)/pytest $(PYTEST_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# With the installed Triton, and with the oldest that is supported. Exit code 2: the installed one
# is of a release without numbers, which is said and is no failure.
OLDEST_TRITON := $(CURDIR)/build/triton-3.6.0
RESOURCES := $(BIN)/python bench/kernel_resources.py

kernels: $(VENV)/.dev $(OLDEST_TRITON)/.installed
	$(RESOURCES) --check || [ $$? = 2 ]
	PYTHONPATH=$(OLDEST_TRITON) $(RESOURCES) --check

# Accepts what they compile to now.
record-kernels: $(VENV)/.dev $(OLDEST_TRITON)/.installed
	$(RESOURCES) --out bench/results/kernel_resources.json
	PYTHONPATH=$(OLDEST_TRITON) $(RESOURCES) --out bench/results/kernel_resources.json

$(CURDIR)/build/triton-%/.installed: | $(BIN)/python
	$(PIP) install -q --upgrade --no-deps --target $(@D) triton==$*
	touch $@

# Reruns the demo for the README and puts its table there.
readme: $(VENV)/.cli
	$(BIN)/gaussreg-fast demo --out docs/demo
	$(BIN)/python bench/readme.py

# The committed measurements of bench/results/.
measure: $(VENV)/.cli
	$(BIN)/python bench/call_overhead.py --out bench/results/call_overhead.json
	$(BIN)/python bench/against_naive.py --out bench/results/against_naive.json
	$(BIN)/python bench/noise_injection.py --out bench/results/noise_injection.json
	$(BIN)/python bench/learning_rates.py --out bench/results/learning_rates.json

clean:
	rm -rf $(VENV) build demo-out

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Editable: Python sources are used as they stand, the C++ module is built here.
$(VENV)/.cli: $(SOURCES) | $(BIN)/python
	$(PIP) install -q -c constraints.txt -e '.[cli]'
	touch $@

$(VENV)/.dev: $(SOURCES) | $(BIN)/python
	$(PIP) install -q -c constraints.txt -e '.[dev]'
	touch $@ $(VENV)/.cli
