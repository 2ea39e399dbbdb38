"""The threads under ThreadSanitizer: a race is found, correct code is not reported."""

import os
import subprocess
import sys

import pytest

from bench.harness.errors import BadInput
from bench.tools import sanitize_native, sanitize_threads

TEAMWORK = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
body = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: seen.append(library.omp_get_thread_num()))
seen = []
library.GOMP_parallel(body, None, 3, 0)
print(sorted(seen), library.omp_get_num_threads())
"""


@pytest.fixture
def preloaded(tmp_path):
    """Returns the library of threads, and an environment in which the sanitizer watches."""
    try:
        sanitize_native.runtimes(["libtsan.so"])
        library = sanitize_threads.build(str(tmp_path))
    except (BadInput, OSError, subprocess.CalledProcessError):
        pytest.skip("no compiler with ThreadSanitizer")
    preload = sanitize_native.runtimes(["libtsan.so", library, "libstdc++.so.6"])
    options = f"exitcode={sanitize_threads.RACE}"
    return library, {**os.environ, "LD_PRELOAD": preload, "TSAN_OPTIONS": options}


def run(code, preloaded):
    library, environment = preloaded
    command = [sys.executable, "-c", code, library]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_a_planted_race_is_found(preloaded):
    ended = run(sanitize_threads.PLANTED, preloaded)
    assert ended.returncode == sanitize_threads.RACE
    assert "data race" in ended.stderr


def test_threads_that_share_no_memory_are_not_reported(preloaded):
    ended = run(TEAMWORK, preloaded)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == "[0, 1, 2] 1\n"
