"""Compile the interpreter, once for each version, compiler and processor."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.harness import machine
from bench.simulator.instructions import generated_cases, generated_header

SOURCES = Path(__file__).resolve().parent / "interpreter"
PARTS = 4  # the number of parts in interpreter/arithmetic.h
# Without the two -fno flags for mathematics, compilers do not vectorise loops with a choice; with
# contraction they would fuse operations that PTX rounds one by one.
FLAGS = (
    *("-std=c++17", "-O2", "-ftree-vectorize", "-fPIC", "-fno-strict-aliasing", "-Wall"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-Wno-unknown-pragmas"),
)
# The facts in /proc/cpuinfo that decide which code the compiler makes for this processor.
PROCESSOR = (
    "flags", "Features", "model name", "cpu family", "model", "CPU implementer", "CPU part",
)  # fmt: skip


class CompilerMissing(Exception):
    """There is no C++ compiler for the simulator, or it fails to build it."""


def built(fields: str) -> ctypes.CDLL:
    """Return the interpreter, built if needed.

    Args:
        fields: the C++ that describes its structures.

    Raises:
        CompilerMissing: there is no compiler, or it fails.
    """
    generated = {"generated.h": generated_header(), "fields.inc": fields}
    generated |= {f"cases_{k}.inc": generated_cases(k, PARTS) for k in range(PARTS)}
    compiler = _compiler()
    target = _target()
    texts = {path.name: path.read_text(encoding="utf-8") for path in sorted(SOURCES.iterdir())}
    key = hashlib.sha256()
    for part in (_version(compiler), _processor(), *FLAGS, *target, *(texts | generated).values()):
        key.update(part.encode() + b"\0")
    path = cache_folder() / f"interpreter-{key.hexdigest()[:24]}.so"
    if not path.exists():
        _build(compiler, (*FLAGS, *target), texts | generated, path)
    return ctypes.CDLL(str(path))


def cache_folder() -> Path:
    """Return the folder of built interpreters."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "gaussreg_fast" / "simulator"


def _compiler() -> tuple[str, ...]:
    named = shlex.split(os.environ.get("CXX", ""))
    if named and shutil.which(named[0]):
        return tuple(named)
    for name in ("g++", "c++", "clang++"):
        if found := shutil.which(name):
            return (found,)
    raise CompilerMissing("the simulator needs a C++ compiler: g++, c++ and clang++ are missing")


@functools.cache
def _version(compiler: Sequence[str]) -> str:
    return subprocess.run([*compiler, "--version"], capture_output=True, text=True).stdout


def _target() -> tuple[str, ...]:
    """Return the flags for the fastest code of this processor."""
    if platform.machine() in ("x86_64", "AMD64"):
        return ("-march=native", "-mprefer-vector-width=512")
    return ("-mcpu=native",) if platform.machine() in ("aarch64", "arm64") else ()


@functools.cache
def _processor() -> str:
    """Identify the processor as far as code depends on it, because machines may share a cache."""
    text = f"{platform.system()} {platform.machine()} {platform.libc_ver()}"
    facts = machine.cpuinfo()
    if not facts:
        return f"{text} {platform.node()}"  # unknown: for this machine alone
    named = {f"{name}: {value}" for name, value in facts if name in PROCESSOR}
    return "\n".join([text, *sorted(named)])


def _build(
    compiler: Sequence[str], flags: Sequence[str], texts: dict[str, str], path: Path
) -> None:
    """Compile in a temporary folder beside `path`, and move the result there whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".build-") as name:
        folder = Path(name)
        for file, text in texts.items():
            (folder / file).write_text(text, encoding="utf-8")
        units = [(file[:-4], []) for file in texts if file.endswith(".cpp")]
        units = [unit for unit in units if unit[0] != "arithmetic"]
        units += [("arithmetic", [f"-DPART={k}"]) for k in range(PARTS)]
        commands = []
        objects = []
        for k, (unit, defined) in enumerate(units):
            objects.append(f"{k}.o")
            commands.append([*compiler, *flags, *defined, "-c", f"{unit}.cpp", "-o", objects[-1]])
        _run(commands, folder)
        _run([[*compiler, *flags, "-shared", *objects, "-o", "interpreter.so"]], folder)
        os.replace(folder / "interpreter.so", path)


def _run(commands: Sequence[Sequence[str]], folder: Path) -> None:
    """Run commands, as many at a time as there are processors."""
    waiting, running = list(commands), []
    failed = ""
    while waiting or running:
        while waiting and not failed and len(running) < max(1, os.cpu_count() or 1):
            command = waiting.pop()  # from the end, because the last ones take longest
            pipe = subprocess.PIPE
            running.append(subprocess.Popen(command, cwd=folder, stderr=pipe, text=True))
        if failed:
            waiting = []
        if not running:
            break
        process = running.pop(0)
        _, errors = process.communicate()
        if process.returncode and not failed:
            failed = errors.strip() or f"exit code {process.returncode}"
    if failed:
        raise CompilerMissing(f"the C++ compiler cannot build the simulator:\n{failed}")
