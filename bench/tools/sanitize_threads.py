"""Run the native backend's threads under ThreadSanitizer: see `make sanitize-native`.

    python -m bench sanitize-threads [PYTEST OPTION ...]

The kernels get their threads from threads_for_tsan.cpp instead of torch's OpenMP, whose
synchronisation the sanitizer cannot see. All instruction sets share the threads' code, so the tests
run for the best one alone. The Python that runs this must have pytest, and a module built with the
CMake option GAUSSREG_SANITIZE=thread.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import ROOT
from bench.harness.errors import BadInput
from bench.tools.sanitize_native import compiler, runtimes
from gaussreg_fast._exit_codes import Exit

SOURCE = Path(__file__).with_name("threads_for_tsan.cpp")
TESTS = (
    *("native/test_native_runtime", "native/test_native_calls"),
    *("functional/test_drift", "functional/test_path"),
)
# The C library reuses the memory of thread_local variables of threads that have ended, under a lock
# of its own, which the sanitizer does not see.
SUPPRESSED = "race:_dl_deallocate_tls\n"
RACE = 66  # exit code of a process in which the sanitizer has found one

CHECK = """
import sys
from gaussreg_fast.backends import native
module = native.module()
with open(module.__file__, "rb") as f:
    text = f.read()
assert module.__file__.startswith(sys.prefix), module.__file__
assert b"__tsan_read4" in text, "no sanitized module"
assert module.has_openmp()
"""
PLANTED = "import ctypes, sys; ctypes.CDLL(sys.argv[1]).planted_race()"


def build(folder: str) -> str:
    """Compile the library of threads, and return its path."""
    library = f"{folder}/threads_for_tsan.so"
    flags = ["-std=c++20", "-O1", "-g", "-fPIC", "-shared", "-fsanitize=thread"]
    subprocess.run([*compiler(), *flags, str(SOURCE), "-o", library], check=True)
    return library


def check(library: str, environment: dict[str, str]) -> None:
    """Check that a race is found, and that the module under test is sanitized."""
    planted = [sys.executable, "-c", PLANTED, library]
    probe = subprocess.run(planted, capture_output=True, text=True, env=environment, cwd="/")
    if probe.returncode != RACE or "data race" not in probe.stderr:
        raise BadInput(f"ThreadSanitizer does not find a planted race: {probe.stderr}")
    command = [sys.executable, "-c", CHECK]
    probe = subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/")
    if probe.returncode:
        raise BadInput(f"the native module cannot be tested: {probe.stderr}")


def main(given: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        library, suppressions = build(folder), Path(folder, "suppressions")
        suppressions.write_text(SUPPRESSED)
        options = f"halt_on_error=1:exitcode={RACE}:suppressions={suppressions}"
        environment = {
            **os.environ,
            "LD_PRELOAD": runtimes(["libtsan.so", library, "libstdc++.so.6"]),
            # A test computes in a forked child.
            "TSAN_OPTIONS": f"{options}:die_after_fork=0",
        }
        check(library, environment)
        command = [sys.executable, "-m", "pytest", "-q", "-m", "not memory", "--capture=sys"]
        command += ["-k", "native_runtime or threads", *given]
        tests = [str(ROOT / f"tests/{name}.py") for name in TESTS]
        # Run outside the checkout, because Python puts the current folder first on the path.
        ended = subprocess.run([*command, *tests], env=environment, cwd="/").returncode
    if ended == RACE:
        print("ThreadSanitizer has found a race", flush=True)
    return Exit.NO if ended else Exit.DONE
