"""Run the native backend's tests with ASan and UBSan: see `make sanitize-native`.

    python -m bench sanitize-native [PYTEST OPTION ...]

The tests run once for every instruction set of this processor. The Python that runs this must have
pytest, and a module built with the CMake option GAUSSREG_SANITIZE=address,undefined.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterable

from bench import ROOT
from bench.harness.errors import BadInput
from gaussreg_fast._exit_codes import Exit

# Without "isa", because all of these tests run for each instruction set.
TESTS = ("kernels", "runtime", "calls", "drift")
# Files of which only the tests that name the backend run.
OTHERS = ("inputs", "prepared", "drift", "path")
RUNTIMES = ("libasan.so", "libubsan.so", "libstdc++.so.6")  # the last for exceptions of torch

# Checks that the module under test is sanitized, and not that of the editable install.
CHECK = """
import sys
from gaussreg_fast.backends import native
module = native.module()
with open(module.__file__, "rb") as f:
    text = f.read()
assert module.__file__.startswith(sys.prefix), module.__file__
assert b"__asan_report_store" in text and b"__ubsan_handle" in text, "no sanitized module"
print(module.instruction_set())
"""


def compiler() -> list[str]:
    """Return the compiler's command, with options if CXX has some."""
    return shlex.split(os.environ.get("CXX", "g++"))


def runtimes(libraries: Iterable[str]) -> str:
    """Return paths of the compiler's libraries for LD_PRELOAD; a path stays as it is."""
    found = []
    for name in libraries:
        command = [*compiler(), f"-print-file-name={name}"]
        path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        if not os.path.isabs(path):
            raise BadInput(f"{shlex.join(compiler())} has no {name}")
        found.append(os.path.realpath(path))
    return ":".join(found)


def main(given: list[str]) -> int:
    environment = {
        **os.environ,
        "LD_PRELOAD": runtimes(RUNTIMES),
        # Python leaks at exit. New memory holds NaN, so that unwritten numbers show.
        "ASAN_OPTIONS": "detect_leaks=0:max_malloc_fill_size=1000000000:malloc_fill_byte=255",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    ran = []
    for name in ("avx512", "avx2", "portable"):
        environment["GAUSSREG_FAST_ISA"] = name
        command = [sys.executable, "-c", CHECK]
        probe = subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/")
        if "cannot run on this processor" in probe.stderr:
            print(f"{name}: this processor cannot run it", flush=True)
            continue
        if probe.returncode or probe.stdout.strip() != name:
            raise BadInput(f"{name} cannot be tested: {probe.stderr or probe.stdout}")
        command = [sys.executable, "-m", "pytest", "-q", "-m", "not memory"]
        command += ["--capture=sys", *given]  # sys lets sanitizers' reports through
        own = [str(ROOT / f"tests/native/test_native_{part}.py") for part in TESTS]
        others = [str(ROOT / f"tests/functional/test_{part}.py") for part in OTHERS]
        for chosen in (own, [*others, "-k", "native"]):
            # Run outside the checkout, because Python puts the current folder first on the path.
            if subprocess.run([*command, *chosen], env=environment, cwd="/").returncode:
                return Exit.NO
        # The way of processors whose stores are slow; only with AVX-512 it differs for one thread.
        if name == "avx512":
            slow = {**environment, "GAUSSREG_FAST_STORES": "slow"}
            if subprocess.run([*command, own[0]], env=slow, cwd="/").returncode:
                return Exit.NO
        ran.append(name)
    print("ran sanitized:", ", ".join(ran))
    return Exit.DONE if ran else Exit.NO
