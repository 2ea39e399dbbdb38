"""Errors planted in the PTX of the package's kernels, and the simulator's findings of each.

    python tests/helpers/planted_errors.py [--all]

Writes JSON: for each error, the kinds of findings and the results that are wrong. A process of its
own runs this, for the tests' may interpret kernels instead of compiling them. With --all, barriers
of more kernels are removed one at a time, which takes minutes.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.simulator import Schedule, compare, simulated
from bench.simulator.calls import call
from bench.simulator.cases import Case

Change = Callable[[re.Match[str]], str]
SMALL, LARGE, GENERAL = Case(1024), Case(65536, batch=4), Case(1000)
PROJECTED = Case(992, task="projection", block_size=8)


def nth(pattern: str, number: int, change: Change | str) -> Callable[[str], str]:
    """Returns what changes one match in a text."""

    def edit(text: str) -> str:
        match = list(re.finditer(pattern, text))[number]
        new = change if isinstance(change, str) else change(match)
        return text[: match.start()] + new + text[match.end() :]

    return edit


REGISTER = r"(%rd?\d+)"
# Name, case, kernel, the change, and what must be seen: a word of a finding, or "wrong".
PLANTED: tuple[tuple[str, Case, str, Callable[[str], str], str], ...] = (
    (
        "operands of fma exchanged",
        SMALL,
        "fused",
        nth(
            rf"fma\.rn\.f32\s+{REGISTER}, {REGISTER}, {REGISTER}, {REGISTER}",
            100,
            lambda m: f"fma.rn.f32 {m[1]}, {m[2]}, {m[4]}, {m[3]}",
        ),
        "wrong",
    ),
    ("sub for add", SMALL, "fused", nth(r"add\.f32 ", 100, "sub.f32 "), "wrong"),
    (
        "another swizzle",
        SMALL,
        "fused",
        nth(
            rf"xor\.b32\s+{REGISTER}, {REGISTER}, (\d+);",
            0,
            lambda m: f"xor.b32 {m[1]}, {m[2]}, {int(m[3]) ^ 16};",
        ),
        "any",
    ),
    (
        "a global store a megabyte off",
        SMALL,
        "fused",
        nth(
            rf"st\.global(\S+) \[ {REGISTER} \+ 0 \]",
            1,
            lambda m: f"st.global{m[1]} [ {m[2]} + 1048576 ]",
        ),
        "global: out of bounds",
    ),
    (
        "a global store behind its tensor",
        SMALL,
        "fused",
        nth(
            rf"st\.global(\S+) \[ {REGISTER} \+ 0 \]",
            1,
            lambda m: f"st.global{m[1]} [ {m[2]} + 8192 ]",
        ),
        "global: out of bounds",
    ),
    (
        "a shared store behind the allocation",
        SMALL,
        "fused",
        nth(r"st\.shared(\S+)\s+\[(%r\d+)\]", 2, lambda m: f"st.shared{m[1]} [{m[2]}+8192]"),
        "shared: out of bounds",
    ),
    (
        "a shared store left out",
        SMALL,
        "fused",
        nth(r"st\.shared\.v4\.b32[^;]*;", 0, ""),
        "any",
    ),
    (
        "a misaligned load",
        SMALL,
        "fused",
        nth(
            rf"ld\.global\.v4\.b32 (\{{[^}}]*\}}), \[ {REGISTER} \+ 0 \]",
            0,
            lambda m: f"ld.global.v4.b32 {m[1]}, [ {m[2]} + 4 ]",
        ),
        "multiple of the access's size",
    ),
    (
        "a load without its mask",
        GENERAL,
        "gather",
        nth(r"@%p\d+ ld\.global", 1, "ld.global"),
        "any",
    ),
    (
        "every program is the first",
        LARGE,
        "group_columns",
        nth(r"mov\.u32 \t(%r\d+), %ctaid\.x;", 0, lambda m: f"mov.u32 {m[1]}, 0;"),
        "nothing has written",
    ),
)
BARRIER, WARP_BARRIER = r"bar\.sync\s+0;", r"bar\.warp\.sync[^;]*;"


def tried(
    case: Case, kernel: str, edit: Callable[[str], str], seed: int = 1
) -> tuple[list[str], list[str], list[str]]:
    """(errors found, what needs lanes in step, wrong results) of a case with a changed kernel."""

    def changed(text: str, name: str) -> str:
        return edit(text) if name == kernel else text

    with simulated(Schedule(seed), edit=changed) as simulation:
        results = call(case, simulation.memory)
    seen: dict[str, set[str]] = {"error": set(), "lockstep": set()}
    for launch in simulation.launches:
        for severity, texts in seen.items():
            texts |= {finding.kind.text for finding in launch.findings(severity)}
    errors = compare.errors(case, results)
    wrong = [name for name, error in errors.items() if not error <= compare.limit(case, name)]
    return sorted(seen["error"]), sorted(seen["lockstep"]), wrong


def text_of(case: Case, kernel: str) -> str:
    """Returns a kernel's PTX."""
    kept: dict[str, str] = {}
    with simulated(edit=lambda text, name: kept.setdefault(name, text)) as simulation:
        call(case, simulation.memory)
    return kept[kernel]


def planted() -> Iterator[dict[str, object]]:
    """Yield the simulator's findings of each planted error."""
    for name, case, kernel, edit, must in PLANTED:
        errors, _, wrong = tried(case, kernel, edit)
        seen = {"any": bool(errors or wrong), "wrong": bool(wrong)}
        fine = seen[must] if must in seen else any(must in text for text in errors)
        yield {"name": name, "seen": fine, "errors": errors, "wrong": wrong}


def removed(case: Case, kernel: str, pattern: str) -> dict[str, object]:
    """Removes what matches, one at a time: which were missed, and with wrong results or not."""
    usual = set(tried(case, kernel, lambda text: text)[1])
    count = len(re.findall(pattern, text_of(case, kernel)))
    silent, wrong = [], []
    for number in range(count):
        errors, lockstep, results = tried(case, kernel, nth(pattern, number, ""), seed=number + 1)
        if not errors and set(lockstep) <= usual:
            silent.append(number)
            if results:
                wrong.append(number)
    name = f"{case} {kernel}: {pattern}"
    return {"name": name, "count": count, "silent": silent, "silent and wrong": wrong}


def main() -> None:
    kernel = "project_spectrum"
    as_it_is = tried(SMALL, "fused", lambda text: text)
    barriers = [removed(SMALL, "fused", BARRIER), removed(PROJECTED, kernel, WARP_BARRIER)]
    if "--all" in sys.argv:
        large = ("interleave", "group_columns", "rows", "group_columns_back")
        barriers += [removed(LARGE, kernel, BARRIER) for kernel in large]
        barriers += [removed(Case(16384, batch=1), "fused", BARRIER)]
    print(json.dumps({"none": as_it_is, "planted": list(planted()), "removed": barriers}, indent=1))


if __name__ == "__main__":
    main()
