"""Summarise a run in at most sixty lines: the stages and the main figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench.gpu.record import DONE, best, errors, rows
from bench.gpu.stage import Row
from bench.harness.text import digits, time_text
from bench.report import tables
from bench.report.measure import typical
from bench.subjects.cases import TARGETS

LINES = 60
WIDTH = 118


def line(stage: str, row: Row) -> str:
    """Format a row in one line, for the screen."""
    name, status = row["part"], row["status"]
    if status != "ok":
        return _cut(f"{name}: {status}: {row.get('reason', '')}")
    if stage == "headline":
        return _cut(tables.line(row))
    if "errors" in row:
        worst = max(row["errors"].values(), default=0.0)
        return f"{name}: right, worst error {worst:.1e}"
    if "ceilings" in row:
        return f"{name}: " + ", ".join(f"{k} {v:.4g}" for k, v in row["ceilings"].items())
    if "candidates" in row:
        return _cut(f"{name}: {_best(row)}")
    return f"{name}: ok, {row.get('seconds', 0):.1f} s"


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= WIDTH else text[: WIDTH - 3] + "..."


def _best(row: Row) -> str:
    """Format the fastest launch parameters, against those in use."""
    found = best(row)
    if found is None:
        return "nothing was timed"
    fastest, share = found
    timed = sum("median" in c for c in row["candidates"])
    return (
        f"{timed} of {len(row['candidates'])} timed; best {fastest['name']}, "
        f"{fastest['ns_per_sample']:.1f} ns a sample, {share:.2f} of the time of those in use"
    )


def text(content: dict[str, Any]) -> str:
    """Return the table; failures and the headline come first, because lines are limited."""
    about = content["machine"]
    words = ("driver", "torch", "triton", "python")
    named = (f"{word} {about.get(word)}" for word in words)
    head = ", ".join([str(about.get("device")), *named, content["date"]])
    found = [head, *_stages(content), *_failures(content)]
    found += [*_headline(content), *_rest(content)]
    if len(found) > LINES:
        left = len(found) - LINES + 1
        found = [*found[: LINES - 1], f"... the file has {left} more lines"]
    return "\n".join(found)


def _stages(content: dict[str, Any]) -> Iterator[str]:
    for name, stage in content["stages"].items():
        ok = sum(row["status"] == "ok" for row in stage["rows"])
        state = _cut(stage["state"] or "not begun")
        yield f"{name:11} {ok:3} ok of {len(stage['rows']):3}  {stage['seconds']:6.1f} s  {state}"
    if compiled := content.get("compiled"):
        seconds = compiled["seconds"].values()
        bad = f", {len(compiled['failed'])} failed" if "failed" in compiled else ""
        yield f"kernels     {len(seconds)} compiled in {sum(seconds):.0f} core seconds{bad}"


def _failures(content: dict[str, Any]) -> Iterator[str]:
    bad = [
        (name, row)
        for name, stage in content["stages"].items()
        for row in stage["rows"]
        if row["status"] == "FAILED"
    ]
    for name, row in bad[:14]:
        yield _cut(f"FAILED {name}, {row['part']}: {row.get('reason', '')}")
    if len(bad) > 14:
        yield f"FAILED: {len(bad) - 14} more"


def _headline(content: dict[str, Any]) -> Iterator[str]:
    """Yield each row with its ratios; "!" marks missed targets."""
    found = rows(content, "headline")
    if not found:
        return
    names = ("ours", "FFT pair", "naive", "compiled", "hand", "copy", "covariance", "PRNO")
    calls = ("fft", "naive", "compile", "hand", "copy", "covariance", "prno")
    yield f"{'value and gradient':22}" + "".join(f"{n:>12}" for n in names)
    for name, row in found.items():
        us = typical(row)
        ours = us.get("value_and_grad", us.get("gaussianity"))
        if ours is None:
            continue
        cells = [time_text(ours)]
        cells += [f"{digits(us[c] / ours)}x" if c in us else "-" for c in calls]
        missed = [t for t, result in row.get("targets", {}).items() if "MISSED" in result]
        flag = f"  ! {', '.join(missed)}" if missed else ""
        yield f"{name:22}" + "".join(f"{cell:>12}" for cell in cells) + flag
    graphs = {n: r for n, r in found.items() if "graph wall" in r.get("us", {})}
    for name, row in graphs.items():
        shown = (f"{c} {time_text(us)}" for c, us in typical(row, "graph wall").items())
        yield _cut(f"{name} as a CUDA graph: {', '.join(shown)}")
    targets = [s for r in found.values() for s in r.get("targets", {}).values()]
    met = sum("(met" in result for result in targets)
    if targets:
        yield f"targets: {met} met of {sum(map(len, TARGETS.values()))}"


def _rest(content: dict[str, Any]) -> Iterator[str]:
    for stage in ("look", "tuning", "extras"):
        for row in rows(content, stage).values():
            if {"ceilings", "candidates", "metrics", "summary_us"} & row.keys():
                yield _cut(_detail(stage, row))
    if compared := errors(content):
        yield f"routes: worst error {max(compared):.2e} of {len(compared)} results"
    for name, stage in content["stages"].items():
        for row in stage["rows"]:
            if row["status"] == "not measured":
                yield _cut(f"not measured: {name}, {row['part']}: {row.get('reason', '')}")
    sources = {row.get("source") for stage in content["stages"].values() for row in stage["rows"]}
    if len(sources) > 1:
        yield f"rows come from {len(sources)} states of the source, which each row names"
    if any(stage["state"] != DONE for stage in content["stages"].values()):
        yield "python -m bench gpu --resume measures the rest"


def _detail(stage: str, row: Row) -> str:
    if "metrics" in row:
        pairs = (
            f"{name.partition('.')[0]} {m['measured']:.4g}"
            + (f" (simulated {m['simulated']})" if "simulated" in m else "")
            for name, m in row["metrics"].items()
        )
        return f"{row['part']}: {', '.join(pairs)}"
    if "summary_us" in row:
        return f"{row['part']}: " + ", ".join(
            f"{name} {time_text(s['median'])}" for name, s in row["summary_us"].items()
        )
    return line(stage, row)
