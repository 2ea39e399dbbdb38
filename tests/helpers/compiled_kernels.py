"""Processes in which Triton compiles, shared by the tests of the simulator's commands."""

import json
import os
import subprocess
import sys

from bench import ROOT


def python(script, *words, cwd=ROOT, triton=None):
    """Runs a script without the interpreter that the other tests ask Triton for.

    `triton` is a folder with another release. What the script prints is returned.
    """
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, filter(None, [triton, ROOT])))
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, timeout=600,
        cwd=cwd, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


COMMANDS = """
import contextlib, io, json, sys
from bench.cli import main

for words in json.loads(sys.argv[1]):
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        code = main(words)
    print(json.dumps([code, text.getvalue()]))
"""


def commands(*lists, cwd=ROOT):
    """Exit codes and output of `python -m bench` commands, one after the other in one process."""
    printed = python(COMMANDS, json.dumps(lists), cwd=cwd)
    return [tuple(json.loads(line)) for line in printed.splitlines()]
