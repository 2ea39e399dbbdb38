"""Run code in a new Python process, because it makes a choice once per process or may end it."""

import os
import subprocess
import sys


def fresh_python(code, *arguments, **environment):
    """Runs code away from the checkout, whose folders would come first, and returns its result."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, cwd="/", timeout=120, env={**os.environ, **environment},
    )  # fmt: skip


def printed(code, *arguments, **environment):
    """Runs code as fresh_python() does, asserts that it succeeds, and returns what it prints."""
    result = fresh_python(code, *arguments, **environment)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()
