"""Format a report as Markdown tables; the same functions fill the tables of docs/."""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.harness import store, timing
from bench.harness.text import digits, table, time_text
from bench.report.measure import typical
from bench.subjects.peers import LABELS
from gaussreg_fast._files import write_text

Report = dict[str, Any]
COLUMNS = {clock.name: clock.column for clock in timing.clocks("cpu")}
PAIRS = "Where a column does not say which, the first of two numbers is cold, the second hot."


def clocks(report: Report) -> tuple[str, ...]:
    """Return the clocks by which a report's rows are shown; "" is a row's own."""
    on_gpu = report["machine"]["kind"] == "cuda"
    return ("",) if on_gpu else tuple(COLUMNS)


def _cell(report: Report, row: dict[str, Any], show: Callable[[dict[str, float]], str]) -> str:
    """Return what `show` makes of a row's times by each clock; "not measured" if it lacks one."""
    found = []
    for clock in clocks(report):
        try:
            found.append(show(typical(row, clock)))
        except KeyError:
            return "not measured"
    return ", ".join(found)


def _time(report: Report, row: dict[str, Any], call: str) -> str:
    return _cell(report, row, lambda us: time_text(us[call]))


def line(row: dict[str, Any]) -> str:
    """Format a row in one line, for the screen."""
    if row["status"] != "ok":
        return f"{row['case']}: {row['status']}: {row['reason']}"
    us = typical(row)
    if not us:
        return f"{row['case']}: measured"
    shown = [f"{LABELS.get(call, call)} {time_text(t)}" for call, t in us.items()]
    return f"{row['case']}: {', '.join(shown)}"


# ---------------------------------------------------------------- tables


def speed(report: Report) -> str:
    """Return the table of value and gradient: ours, and the peers as multiples."""
    head = ["case", "D", "ours", "naive", "torch.compile", "hand gradient, compiled",
            "FFT pair alone", "copy alone"]  # fmt: skip
    rows = []
    for row in store.on_topic(report, "loss"):
        against = [
            _cell(report, row, lambda us, call=call: f"{digits(us[call] / us['value_and_grad'])}x")
            for call in ("naive", "compile", "hand", "fft", "copy")
        ]
        ours = _time(report, row, "value_and_grad")
        rows.append([row["case"], str(row["dimension"]), ours, *against])
    return table(head, rows)


def forms(report: Report) -> str:
    """Return the table of the three ways to call ours, and the spread of one."""
    spread_of = "cold: median, 90 %" if len(clocks(report)) > 1 else "median, 90 %"
    head = ["case", "value only", "value and gradient", spread_of, "loss and backward"]
    rows = []
    for row in store.on_topic(report, "loss"):
        spread = row["summary_us"][row["clock"]]["value_and_grad"]
        rows.append(
            [
                row["case"],
                _time(report, row, "value"),
                _time(report, row, "value_and_grad"),
                f"{time_text(spread['median'])}, {time_text(spread['p90'])}",
                _time(report, row, "loss_backward"),
            ]
        )
    return table(head, rows)


def memory(report: Report) -> str:
    """Return the table of bytes that a call adds at its peak, per number of the batch."""
    calls = ("value", "value_and_grad", "loss_backward", "naive", "fft")
    rows = []
    for row in store.on_topic(report, "loss"):
        size = row["batch"] * row["dimension"]
        found = [row["extra_memory_bytes"].get(call) for call in calls]
        shown = ["not measured" if b is None else f"{b / size:.1f}" for b in found]
        rows.append([row["case"], *shown])
    return table(["case", *(LABELS[call] for call in calls)], rows)


def guards(report: Report) -> str:
    """Return the table of the regularisers, loss and backward."""
    rows = store.on_topic(report, "guards")
    calls = list(dict.fromkeys(call for row in rows for call in typical(row)))
    lines = []
    for call in calls:
        lines.append([LABELS.get(call, call), *(_time(report, row, call) for row in rows)])
    names = [row["case"].removesuffix("-guards") for row in rows]
    return table(["loss and backward", *names], lines)


def exponents(report: Report) -> str:
    """Return the table of growth exponents with standard errors and the fitted sizes."""
    lines = []
    for by, name in (("dimension", "D"), ("batch", "B")):
        for clock, found in report.get("growth", {}).items():
            for call, fit in found[by].items():
                power = f"{name}^({fit['exponent']:.2f} ± {fit['error']:.2f})"
                span = f"{fit['from']} to {fit['to']}"
                lines.append([LABELS.get(call, call), COLUMNS.get(clock, clock), power, span])
    return table(["call", "clock", "time grows as", "fitted over"], lines)


def crossings(report: Report) -> str:
    """Return a line for each peer: the sizes where its time crosses ours, if any."""
    lines = []
    crossings = [
        (f"{LABELS[call]}, {COLUMNS.get(clock, clock)}", crossing)
        for clock, found in report.get("growth", {}).items()
        for call, crossing in found["crossings"].items()
    ]
    for name, found in crossings:
        span = f"from D = {found['from']} to {found['to']}"
        ends = (
            f"{digits(found['ratio_at_first'])} times our time at D = {found['from']}, "
            f"{digits(found['ratio_at_last'])} times at {found['to']}"
        )
        at = " and ".join(f"{d:.0f}" for d in found["at"])
        text = f"crosses ours near D = {at} (interpolated)" if at else f"no crossing {span}"
        lines.append(f"- {name}: {text}; {ends}.\n")
    return "".join(lines)


def toy(report: Report) -> str:
    """Return the table of the paper's hundred iterations."""
    row = store.row(report, "toy")
    if not row:
        return "not measured\n"
    lines = []
    for name, runs in row["seconds_of_runs"].items():
        here = f"{digits(min(runs))} s (fastest of {len(runs)})"
        lines.append([name, here, f"{row['paper_seconds'][name]} s"])
    return table([f"{row['iterations']} iterations, 1 latent", "here", "the paper"], lines)


def stages(report: Report) -> str:
    """Return the table of each stage's or kernel's time and rates, at D = 16384 if measured."""
    row = store.row(report, "stages")
    sizes = [size for size, found in (row or {}).get("stages", {}).items() if found]
    if not row or not sizes:
        return "not measured\n"
    size = "16384" if "16384" in sizes else sizes[0]
    lines = []
    for name, stage in row["stages"][size].items():
        rates = [f"{stage[k]:.1f}" if k in stage else "" for k in ("gb_per_s", "gflop_per_s")]
        lines.append([name, f"{stage['us']:.1f}", *rates])
    return table([f"stage, D = {size}", "us", "GB/s", "Gflop/s"], lines)


def latency(report: Report) -> str:
    """Return the table of a single latent's waiting times on a GPU, eager and as a CUDA graph."""
    lines = []
    for row in store.on_topic(report, "loss"):
        for clock in ("wall", "graph wall"):
            if row["batch"] == 1 and clock in row["us"] and row["clock"] != "device":
                shown = (f"{call} {time_text(us)}" for call, us in typical(row, clock).items())
                lines.append([row["case"], clock, ", ".join(shown)])
    return table(["case", "clock", "one call and a synchronize"], lines)


def machine(report: Report) -> str:
    """Return a line for each known fact of the machine."""
    known = {**report["machine"], "date": report["date"]}
    ceilings = (store.row(report, "ceilings") or {}).get("ceilings", {})
    known |= {name: f"{value:.4g}" for name, value in ceilings.items()}
    return "".join(f"- {name}: {value}\n" for name, value in known.items() if value is not None)


def missing(report: Report) -> str:
    """Return a line with the reason for each part that failed or was left out."""
    lines = []
    for row in report["rows"]:
        if row["status"] != "ok":
            lines.append(f"- {row['case']}: {row['status']}: {row['reason']}\n")
        for call, why in row.get("not_measured", {}).items():
            lines.append(f"- {row['case']}, {LABELS.get(call, call)}: not measured: {why}\n")
        for target, result in row.get("targets", {}).items():
            if "met:" not in result:
                lines.append(f"- {row['case']}, target {target}: {result}\n")
    return "".join(lines) or "- nothing\n"


SECTIONS = (
    ("Machine and ceilings", machine),
    ("Value and gradient: ours, and the peers as multiples of it", speed),
    ("Ways to call it", forms),
    ("Waiting time for one latent", latency),
    ("Regularisers", guards),
    ("Peak memory: bytes added per number", memory),
    ("Growth", exponents),
    ("Crossings", crossings),
    ("The paper's toy", toy),
    ("Stages", stages),
    ("Failed or left out", missing),
)


def sections(report: Report, names: tuple[str, ...] = ()) -> str:
    """Return the tables of these names, or all that apply, each with its heading."""
    text = []
    for title, section in SECTIONS:
        if section is latency and report["machine"]["kind"] == "cpu":
            continue
        if names and section.__name__ not in names:
            continue
        text.append(f"\n## {title}\n\n{section(report)}")
    return "".join(text)


def markdown(report: Report) -> str:
    """Return the whole report in Markdown."""
    kind = "quick " if report["settings"]["quick"] else ""
    statistic = "Medians of interleaved samples"
    if report["machine"]["kind"] == "cpu":
        statistic = (
            f"Interleaved samples: lower quartiles of cold calls, tenth percentiles of hot. {PAIRS}"
        )
    state = "" if report["complete"] else " **Interrupted: not all of it was measured.**"
    return (
        f"# gaussreg_fast: {kind}report\n\n{statistic.rstrip('.')}. Every case was compared with "
        f"float64 first. Took {report['seconds']:.0f} s.{state}\n" + sections(report)
    )


def write_all(report: Report, folder: Path) -> list[Path]:
    """Write report.md, and the plots if matplotlib is installed; return all paths."""
    paths = [folder / store.NAME, folder / "report.md"]
    write_text(paths[1], markdown(report))
    if importlib.util.find_spec("matplotlib"):
        from bench.report import plots

        return paths + plots.write_all(report, folder)
    print(
        "no plots, because matplotlib is not installed; "
        f"python -m bench render {shlex.quote(str(folder))} draws them where it is"
    )
    return paths
