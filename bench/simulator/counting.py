"""The counters of executed launches, per kernel and per line of source."""

from __future__ import annotations

import ast
import functools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine_code import cuda_code
from bench.simulator import Launch

# Classes of PTX instructions, by how their names begin; the first that fits.
CLASSES = (
    ("LDS", ("ld.shared", "ldmatrix")),
    ("STS", ("st.shared", "stmatrix")),
    ("LDG", ("ld.global",)),
    ("STG", ("st.global",)),
    ("SHFL", ("shfl", "redux")),
    ("BAR", ("bar", "barrier")),
    ("FMA", ("fma.",)),
    (
        "MUFU",
        ("rsqrt", "sqrt", "rcp", "ex2", "lg2", "sin", "cos", "tanh", "div.full", "div.approx"),
    ),
    (
        "FADD/FMUL",
        ("add.f", "add.rn", "add.ftz", "sub.f", "sub.rn", "sub.ftz", "mul.f", "mul.rn", "mul.ftz",
         "neg.f", "abs.f", "max.f", "min.f", "max.NaN", "min.NaN", "max.ftz", "min.ftz"),
    ),
    ("move", ("mov", "ld.param", "cvt", "selp", "setp", "bra", "ret", "exit")),
)  # fmt: skip
SPACES = {"shared": ("LDS", "STS"), "global": ("LDG", "STG")}
BY_LINE = ("instructions", "wavefronts", "sectors")


def class_of(mnemonic: str) -> str:
    """LDS, STS, LDG, STG, SHFL, BAR, FMA, FADD/FMUL, MUFU, move, or INT for what is left."""
    return next((name for name, starts in CLASSES if mnemonic.startswith(starts)), "INT")


def counts(launch: Launch) -> dict[str, int]:
    """What a launch did, all programs together; `machine` are instructions of the machine code.

    Machine code cannot be executed here: its instructions are counted as they stand, once for every
    warp. Where PTX branches back, or around something, they are scaled by how often PTX
    instructions ran. Registers, stack, shared memory and warps are those of one program.
    """
    program, execution = launch.program, launch.execution
    classes = np.array([class_of(m) for m in program.mnemonics])

    def total(values: np.ndarray, *names: str) -> int:
        return int(values[np.isin(classes, names)].sum()) if names else int(values.sum())

    numbers, names = cuda_code(launch.kernel.files["cubin"].read_bytes())
    static = sum(name != "NOP" for name in names)
    spills = sum(name in ("LDL", "STL") for name in names)
    warps = launch.programs * program.threads // 32
    runs = total(execution.executed) / len(program.mnemonics)
    share = warps if _straight(launch) else runs
    found = {
        "machine": round(static * share),
        "spills": round(spills * share),
        "instructions": total(execution.executed),
        **{name: total(execution.executed, name) for name in dict.fromkeys(classes.tolist())},
        "wavefronts": total(execution.wavefronts, *SPACES["shared"]),
        "conflict_free": total(execution.conflict_free, *SPACES["shared"]),
        "requests": total(execution.executed, *SPACES["global"]),
        "sectors_read": total(execution.sectors, "LDG"),
        "sectors_written": total(execution.sectors, "STG"),
        "barriers": execution.barriers // launch.programs,
        "programs": launch.programs,
        "warps": program.threads // 32,
        "registers": numbers["registers"],
        "stack": numbers["stack"],
        "shared": launch.kernel.shared,
    }
    return {name: int(value) for name, value in found.items()}


def _straight(launch: Launch) -> bool:
    """Whether every warp ran every instruction once, but for what a branch forward leaves out."""
    executed = launch.execution.executed
    return int(executed.max(initial=0)) <= launch.programs * launch.program.threads // 32


# ---------------------------------------------------------------- by line


@functools.cache
def _triton() -> str:
    import triton

    return str(Path(triton.__file__).resolve().parent)


def place(chain: tuple[tuple[str, int], ...]) -> tuple[str, int]:
    """The innermost line that is not Triton's own."""
    own = [(file, line) for file, line in chain if not file.startswith(_triton())]
    return (own or list(chain) or [("?", 0)])[-1]


@functools.cache
def _source(file: str) -> tuple[list[str], list[tuple[int, int, str]]]:
    """A file's lines, and its functions as (first line, last line, name)."""
    try:
        text = Path(file).read_text(encoding="utf-8")
        found = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef)]
    except (OSError, SyntaxError, UnicodeDecodeError):
        return [], []
    return text.split("\n"), [(n.lineno, n.end_lineno or n.lineno, n.name) for n in found]


def label(file: str, line: int) -> str:
    """A line by its file, function and text: what stays the same when lines above it move."""
    lines, functions = _source(file)
    function = next((name for a, b, name in reversed(functions) if a <= line <= b), "?")
    while 0 < line <= len(lines) and not lines[line - 1].strip():
        line -= 1  # an empty line within a statement
    text = lines[line - 1].strip() if 0 < line <= len(lines) else f"line {line}"
    return f"{Path(file).name} {function}: {text}"


def by_line(launch: Launch) -> dict[str, list[int]]:
    """Line of source -> instructions, shared wavefronts, global sectors."""
    execution = launch.execution
    table: dict[str, Counter[str]] = {}
    for k, chain in enumerate(launch.program.sources):
        row = table.setdefault(label(*place(chain)), Counter())
        row["instructions"] += int(execution.executed[k])
        row["sectors"] += int(execution.sectors[k])
        row["wavefronts"] += int(execution.wavefronts[k])
    return {line: [row[name] for name in BY_LINE] for line, row in table.items()}


def kernel_names(launches: list[Launch]) -> list[str]:
    """A name for each launch, numbered where a kernel is launched again."""
    seen: Counter[str] = Counter()
    names = []
    for launch in launches:
        seen[launch.name] += 1
        again = seen[launch.name] > 1
        names.append(f"{launch.name} {seen[launch.name]}" if again else launch.name)
    return names


def table(launches: list[Launch]) -> dict[str, dict[str, Any]]:
    """Name of a launch -> its counts and lines."""
    return {
        name: {"counts": counts(launch), "lines": by_line(launch)}
        for name, launch in zip(kernel_names(launches), launches, strict=True)
    }
