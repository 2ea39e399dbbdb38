"""Sum up the counters of executed launches, per kernel and per line of source."""

from __future__ import annotations

import ast
import functools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from bench.compiled.machine_code import cuda_code
from bench.simulator import Launch

# Classes of PTX instructions with the beginnings of their names; the first match counts.
CLASSES = (
    ("LDS", ("ld.shared", "ldmatrix")),
    ("STS", ("st.shared", "stmatrix")),
    ("LDG", ("ld.global",)),
    ("STG", ("st.global",)),
    ("SHFL", ("shfl", "redux", "vote", "match", "elect", "activemask")),
    ("BAR", ("bar", "barrier")),
    ("FMA", ("fma.",)),
    ("MUFU", ("rsqrt", "sqrt.approx", "rcp.approx", "ex2", "lg2", "sin", "cos", "tanh",
              "div.full", "div.approx")),
    ("move", ("mov", "ld.param", "cvt", "selp", "slct", "set", "bra", "ret", "exit")),
)  # fmt: skip
# Types of instructions of the class FADD/FMUL, if no other class fits.
FLOATS = ("f16", "bf16", "f16x2", "bf16x2", "f32", "f32x2", "f64")
SPACES = {"shared": ("LDS", "STS"), "global": ("LDG", "STG")}
BY_LINE = ("instructions", "wavefronts", "sectors")


def class_of(mnemonic: str) -> str:
    """Return an instruction's class: one of `CLASSES`, FADD/FMUL, or INT for all others."""
    name = mnemonic.replace(".volatile", "", 1)
    rest = "FADD/FMUL" if name.endswith(FLOATS) else "INT"
    return next((kind for kind, starts in CLASSES if name.startswith(starts)), rest)


def counts(launch: Launch) -> dict[str, int]:
    """Return a launch's counts, all programs together; `machine` counts machine instructions.

    Machine code cannot be executed here. If no warp runs an instruction twice, `machine` is the
    binary's instructions, once for every warp, because a forward branch only skips some. With a
    loop it is an estimate, and `estimated` is 1: see `_share`. Registers, stack, shared memory and
    warps are those of one program.
    """
    program, execution = launch.program, launch.execution
    classes = np.array([class_of(m) for m in program.mnemonics])

    def total(values: np.ndarray, *names: str) -> int:
        return int(values[np.isin(classes, names)].sum()) if names else int(values.sum())

    numbers, names = cuda_code(launch.kernel.files["cubin"].read_bytes())
    binary = Counter(name for name in names if name != "NOP")
    warps = launch.programs * program.threads // 32
    loops = int(execution.executed.max(initial=0)) > warps
    share = _share(binary, Counter(classes.tolist()), total(execution.executed)) if loops else warps
    found = {
        "machine": round(binary.total() * share),
        "spills": round((binary["LDL"] + binary["STL"]) * share),
        **({"estimated": 1} if loops else {}),
        "instructions": total(execution.executed),
        **{name: total(execution.executed, name) for name in dict.fromkeys(classes.tolist())},
        "wavefronts": total(execution.wavefronts, *SPACES["shared"]),
        "conflict_free": total(execution.conflict_free, *SPACES["shared"]),
        "requests": total(execution.executed, *SPACES["global"]),
        "sectors_read": total(execution.sectors, "LDG"),
        "sectors_written": total(execution.sectors, "STG"),
        "barriers": execution.barriers // launch.programs,
        "programs": launch.programs,
        "warps": -(-program.threads // 32),
        "registers": numbers["registers"],
        "stack": numbers["stack"],
        "shared": launch.kernel.shared,
    }
    return {name: int(value) for name, value in found.items()}


def _share(binary: Counter[str], ptx: Counter[str], executed: int) -> float:
    """Estimate how often a binary's instruction runs in a kernel with loops, from PTX's counts.

    The copies of an unrolled loop run less often; the ratio of the binary's loads and stores to
    PTX's gives their number.
    """
    accesses = [name for names in SPACES.values() for name in names]
    copies = sum(binary[name] for name in accesses) / max(1, sum(ptx[name] for name in accesses))
    return executed / ptx.total() / max(1.0, copies)


# ---------------------------------------------------------------- by line


@functools.cache
def _triton() -> str:
    import triton

    return str(Path(triton.__file__).resolve().parent)


def place(chain: tuple[tuple[str, int], ...]) -> tuple[str, int]:
    """Return the innermost line that is not Triton's own."""
    own = [(file, line) for file, line in chain if not file.startswith(_triton())]
    return (own or list(chain) or [("?", 0)])[-1]


@functools.cache
def _source(file: str) -> tuple[list[str], list[tuple[int, int, str]]]:
    """Return a file's lines, and its functions as (first line, last line, name)."""
    try:
        text = Path(file).read_text(encoding="utf-8")
        found = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef)]
    except (OSError, SyntaxError, UnicodeDecodeError):
        return [], []
    return text.split("\n"), [(n.lineno, n.end_lineno or n.lineno, n.name) for n in found]


def label(file: str, line: int) -> str:
    """Name a line by its file, function and text, which stay the same when lines above move."""
    lines, functions = _source(file)
    while 0 < line <= len(lines) and not lines[line - 1].strip():
        line -= 1  # an empty line within a statement
    function = next((name for a, b, name in reversed(functions) if a <= line <= b), "?")
    text = lines[line - 1].strip() if 0 < line <= len(lines) else f"line {line}"
    return f"{Path(file).name} {function}: {text}"


def by_line(launch: Launch) -> dict[str, list[int]]:
    """Return instructions, shared wavefronts and global sectors of each line of source."""
    execution = launch.execution
    table: dict[str, Counter[str]] = {}
    for k, chain in enumerate(launch.program.sources):
        row = table.setdefault(label(*place(chain)), Counter())
        row["instructions"] += int(execution.executed[k])
        row["sectors"] += int(execution.sectors[k])
        row["wavefronts"] += int(execution.wavefronts[k])
    return {line: [row[name] for name in BY_LINE] for line, row in table.items()}


def kernel_names(launches: list[Launch]) -> list[str]:
    """Return a name for each launch, numbered if a kernel is launched again."""
    seen: Counter[str] = Counter()
    names = []
    for launch in launches:
        seen[launch.name] += 1
        again = seen[launch.name] > 1
        names.append(f"{launch.name} {seen[launch.name]}" if again else launch.name)
    return names


def table(launches: list[Launch]) -> dict[str, dict[str, Any]]:
    """Return the counts, lines and errors of each launch, by its name."""
    return {
        name: {
            "counts": counts(launch),
            "lines": by_line(launch),
            "errors": list(launch.errors().values()),
        }
        for name, launch in zip(kernel_names(launches), launches, strict=True)
    }
