"""Rerun a command with another release of Triton than the installed one."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence

from bench import ROOT
from bench.harness.errors import BadInput
from gaussreg_fast._files import user_path


def add_option(parser: argparse.ArgumentParser) -> None:
    """Add the option --triton."""
    about = "Use the Triton in build/triton-RELEASE, or in a folder that holds the package."
    parser.add_argument("--triton", metavar="RELEASE", help=about)


def rerun(command: str, given: Sequence[str], triton: str) -> int:
    """Run the command in a process that imports that Triton; return its exit code."""
    folder = user_path(triton)
    if not (folder / "triton").is_dir():
        folder = ROOT / "build" / f"triton-{triton}"
    if not (folder / "triton").is_dir():
        raise BadInput(
            f"--triton: {folder} holds no triton; "
            f"python -m pip install --no-deps --target {shlex.quote(str(folder))} "
            f"triton=={shlex.quote(triton)} installs it there"
        )
    rest, skip = [], False
    for word in given:
        if not skip and not word.startswith("--triton="):
            if word == "--triton":
                skip = True
                continue
            rest.append(word)
        skip = False
    path = os.pathsep.join([str(folder.resolve()), *filter(None, [os.environ.get("PYTHONPATH")])])
    words = [sys.executable, "-m", "bench", command, *rest]
    return subprocess.run(words, env={**os.environ, "PYTHONPATH": path}, check=False).returncode
