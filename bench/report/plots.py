"""Draw the plots of a report, a file each: speed-ups, growth, roofline, memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.harness import store
from bench.harness.cpu_clocks import CpuClock
from bench.harness.text import digits
from bench.report import growth, roofline
from bench.report.measure import typical
from bench.subjects.peers import LABELS
from gaussreg_fast._files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Report = dict[str, Any]
# A call has one colour in all plots.
COLORS = {
    "value_and_grad": "#0b5fa5",
    "value": "#6fb1e4",
    "loss_backward": "#4c7fb0",
    "naive": "#c44e52",
    "compile": "#dd8452",
    "hand": "#937860",
    "fft": "#55a868",
    "copy": "#8c8c8c",
    "covariance": "#8172b3",
    "prno": "#da8bc3",
}


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _subtitle(report: Report) -> str:
    about = report["machine"]
    threads = "" if about["kind"] == "cuda" else f", {about['threads']} thread(s)"
    return f"{about['device']}{threads}, torch {about['torch']}, {report['date']}"


def _ceiling(report: Report, name: str) -> float | None:
    return (store.row(report, "ceilings") or {}).get("ceilings", {}).get(name)


def speedups(report: Report) -> Figure | None:
    """Draw bars: the peers' times as multiples of ours, on a CPU cold with a mark for hot."""
    rows = store.on_topic(report, "loss")
    if not rows:
        return None
    calls = [c for c in ("naive", "compile", "hand", "fft") if any(c in typical(r) for r in rows)]
    figure = _figure(9, 1.2 + 0.17 * len(rows) * len(calls) + 0.12 * len(rows))
    axes = figure.add_subplot()
    height = 0.8 / len(calls)
    for k, call in enumerate(calls):
        for place, row in enumerate(rows):
            us = typical(row)
            if call not in us:
                continue
            ratio = us[call] / us["value_and_grad"]
            y = place + (k - (len(calls) - 1) / 2) * height
            first = place == _first(rows, call)
            label = LABELS[call] if first else None
            axes.barh(y, ratio, height, color=COLORS[call], label=label)
            if call in (hot := typical(row, CpuClock.name)):
                label = "hot" if first and call == calls[0] else None
                axes.plot(hot[call] / hot["value_and_grad"], y, "k|", ms=7, label=label)
            text = axes.text(ratio * 1.03, y, f"{digits(ratio)}x", va="center", fontsize="x-small")
            text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
    axes.axvline(1, color=COLORS["value_and_grad"], lw=1.5, label="ours", zorder=0.9)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.5), high * 1.4)
    axes.set_yticks(range(len(rows)), [row["case"] for row in rows], fontsize="small")
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.set_xlabel("time over that of ours (value and gradient)")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.grid(axis="x", which="both", alpha=0.25)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=5, fontsize="small", frameon=False)
    figure.suptitle(f"Value and gradient\n{_subtitle(report)}", fontsize="medium")
    return figure


def _first(rows: list[dict[str, Any]], call: str) -> int:
    return next(i for i, row in enumerate(rows) if call in typical(row))


def growths(report: Report) -> Figure | None:
    """Plot the time of one sample against D, and of a batch against B, with the memory limit.

    On a CPU lines are cold calls, and dotted ones hot calls.
    """
    found = {by: growth.curves(report, by) for by in ("dimension", "batch")}
    hot = {by: growth.curves(report, by, CpuClock.name) for by in found}
    if not any(found.values()):
        return None
    figure = _figure(11, 5.6)
    copy = _ceiling(report, "copy_gb_per_s")
    # The first clock leads.
    fits = next(iter(report.get("growth", {}).values()), {})
    for k, (by, name) in enumerate((("dimension", "D, one sample"), ("batch", "B at D = 16384"))):
        axes = figure.add_subplot(1, 2, k + 1)
        sizes: list[int] = []
        for call in COLORS:
            curve = found[by].get(call, [])
            if len(curve) < 3 or call == "copy":
                continue
            x, y = zip(*curve, strict=True)
            sizes = sorted({*sizes, *x})
            fit = fits.get(by, {}).get(call)
            power = f" ~ {by[0].upper()}^{fit['exponent']:.2f}" if fit else ""
            marker = {"marker": "o", "ms": 4, "lw": 2.2 if call == "value_and_grad" else 1.3}
            axes.plot(x, y, color=COLORS[call], label=LABELS[call] + power, **marker)
            if curve := hot[by].get(call, []):
                axes.plot(*zip(*curve, strict=True), ":", color=COLORS[call], lw=1)
        if copy and sizes:
            per = 1 if by == "dimension" else 16384
            limit = [roofline.loss_and_gradient(s * per)[0] / copy / 1e3 for s in sizes]
            label = "memory limit: x read, gradient written"
            axes.plot(sizes, limit, "k--", lw=1, label=label)
        axes.set(xscale="log", yscale="log", xlabel=name, ylabel="microseconds a call")
        axes.set_xticks(sizes, [_short(s) for s in sizes], fontsize="small")
        axes.minorticks_off()
        axes.grid(alpha=0.25)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="x-small", loc="upper left")
        low, high = axes.get_ylim()
        axes.set_ylim(low, high * 30)  # room for the legend
    dotted = ", dotted: hot" if any(hot.values()) else ""
    figure.suptitle(f"Growth of time{dotted}\n{_subtitle(report)}", fontsize="medium")
    return figure


def _short(size: int) -> str:
    return f"{size // 1024}Ki" if size >= 1024 and size % 1024 == 0 else str(size)


def rooflines(report: Report) -> Figure | None:
    """Plot operations a second against operations per byte, under the measured ceilings."""
    row, copy, peak = (
        store.row(report, "stages"),
        _ceiling(report, "copy_gb_per_s"),
        _ceiling(report, "gflop_per_s"),
    )
    if not row or not copy or not peak:
        return None
    from matplotlib.ticker import LogLocator

    figure = _figure(10, 5.6)
    axes = figure.add_subplot()
    points = _draw_stages(axes, row["stages"])
    if not points:
        return None
    span = [min(points) / 3, max(*points, peak / copy) * 3]
    cached = _ceiling(report, "cached_copy_gb_per_s")
    for rate, name, style in ((copy, "copy in memory", "k-"), (cached, "copy in cache", "k:")):
        if rate:
            line = [min(peak, rate * x) for x in _between(*span)]
            axes.plot(_between(*span), line, style, lw=1.2, label=f"{name}: {rate:.3g} GB/s")
    axes.axhline(peak, color="k", lw=0.6, label=f"matrix product: {peak:.3g} Gflop/s")
    _name_stages(axes, row["stages"])
    axes.set(xscale="log", yscale="log", xlim=span, xlabel="operations per byte moved")
    axes.set_ylabel("Gflop/s")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    axes.grid(which="both", alpha=0.2)
    figure.legend(loc="outside right upper", fontsize="x-small", frameon=False)
    figure.suptitle(f"Roofline of the stages\n{_subtitle(report)}", fontsize="medium")
    return figure


Stages = dict[str, dict[str, dict[str, float]]]  # size -> stage -> numbers
MARKERS = "osD^v<>"  # one for each size


def _draw_stages(axes: Any, stages: Stages) -> list[float]:
    """Draw a point for each stage of each size; return their operations per byte."""
    names = list(dict.fromkeys(name for found in stages.values() for name in found))
    points = []
    for found, marker in zip(stages.values(), MARKERS, strict=False):
        for name, stage in found.items():
            if stage.get("gflop_per_s"):
                x = stage["gflop_per_s"] / stage["gb_per_s"]
                points.append(x)
                color = f"C{names.index(name) % 10}"
                axes.plot(x, stage["gflop_per_s"], marker, color=color, ms=7, mec="k")
    return points


def _name_stages(axes: Any, stages: Stages) -> None:
    """Add the legend: a marker for each size, a colour for each stage that has a point."""
    for size, marker in zip(stages, MARKERS, strict=False):
        axes.plot([], [], marker, color="w", mec="k", ms=7, label=f"D = {size}")
    names = list(dict.fromkeys(name for found in stages.values() for name in found))
    for place, name in enumerate(names):
        if any(found.get(name, {}).get("gflop_per_s") for found in stages.values()):
            axes.plot([], [], "o", color=f"C{place % 10}", label=name)


def _between(low: float, high: float, steps: int = 60) -> list[float]:
    return [low * (high / low) ** (k / (steps - 1)) for k in range(steps)]


def memories(report: Report) -> Figure | None:
    """Draw bars: the bytes that a call adds at its peak, per number of the batch."""
    rows = store.on_topic(report, "loss")
    calls = [
        call
        for call in ("value", "value_and_grad", "loss_backward", "fft", "naive", "compile", "hand")
        if any(row["extra_memory_bytes"].get(call) is not None for row in rows)
    ]
    if not calls:
        return None
    figure = _figure(max(8, 0.75 * len(rows)), 4.6)
    axes = figure.add_subplot()
    width = 0.8 / len(calls)
    for k, call in enumerate(calls):
        for place, row in enumerate(rows):
            found = row["extra_memory_bytes"].get(call)
            if found is not None:
                x = place + (k - (len(calls) - 1) / 2) * width
                height = found / (row["batch"] * row["dimension"])
                label = LABELS[call] if place == 0 else None
                axes.bar(x, height, width, color=COLORS[call], label=label)
    axes.axhline(4, color="k", ls="--", lw=0.8, label="a float32 gradient: 4")
    axes.set_xticks(range(len(rows)), [row["case"] for row in rows], rotation=30, ha="right")
    axes.tick_params(labelsize="small")
    axes.set_ylabel("bytes per number")
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=4, fontsize="small", frameon=False)
    figure.suptitle(f"Memory a call adds at its peak\n{_subtitle(report)}", fontsize="medium")
    return figure


PLOTS = {"speedup": speedups, "growth": growths, "roofline": rooflines, "memory": memories}


def write_all(report: Report, folder: Path) -> list[Path]:
    """Write a PNG of each plot that the report has rows for; return the paths."""
    paths = []
    for name, draw in PLOTS.items():
        if figure := draw(report):
            paths.append(folder / f"{name}.png")
            with atomic_path(paths[-1]) as temporary:
                figure.savefig(temporary, dpi=110, format="png")
    return paths
