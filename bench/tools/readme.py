"""Write the tables of measured results between the marks of README.md and docs/.

python -m bench readme           rewrite the pages
python -m bench readme --check   exit 1 if a page disagrees with the results
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from bench import ROOT
from bench.gpu import pages as gpu
from bench.harness import machine
from bench.harness.errors import BadInput
from bench.harness.text import table
from bench.report import tables
from bench.simulator.pages import counts_page
from bench.studies import cpu_limits, path_kl
from bench.studies.noise_injection import BATCHES
from bench.tools import cpu_pages
from gaussreg_fast._exit_codes import Exit
from gaussreg_fast._files import write_text
from gaussreg_fast.experiments.checkerboard import report as checkerboard_report
from gaussreg_fast.experiments.frontier import report as frontier_report
from gaussreg_fast.experiments.personalisation import report as personalisation_report
from gaussreg_fast.experiments.reward_tuning import report as reward_tuning_report

REPORT = "docs/results/report/report.json"


def load(path: str) -> Any:
    return json.loads((ROOT / path).read_text(encoding="utf-8"))


def of_study(name: str, tables: Callable[[dict[str, Any]], str]) -> Callable[[], str]:
    """Return a function that formats the committed result of a study."""
    return lambda: tables(load(f"bench/results/{name}.json"))


def demo_table() -> str:
    return checkerboard_report.markdown(load("docs/results/demo/demo.json"))


def frontier_table() -> str:
    return frontier_report.markdown(load("docs/results/demo/frontier.json"))


def personalisation_table() -> str:
    return personalisation_report.markdown(load("docs/results/demo/personalisation.json"))


def reward_table() -> str:
    return reward_tuning_report.markdown(load("docs/results/demo/reward-tuning.json"))


def learning_rates() -> str:
    """Return the share of the pattern left by each guard at each of its settings."""
    rows = []
    for guard, found in load("bench/results/learning_rates.json")["guards"].items():
        left = {setting: trial["pattern_left"] for setting, trial in found["trials"].items()}
        best = found["best"]
        others = [f"{setting}: {share:.0%}" for setting, share in left.items() if setting != best]
        rows.append([guard, f"{best}: {left[best]:.0%}", ", ".join(others)])
    return "\n" + table(["guard", "best setting", "others"], rows) + "\n"


def noise_injection() -> str:
    """Return the loss of noise and of patterns, and the results of optimising from each."""
    result = load("bench/results/noise_injection.json")
    losses = [
        [name, f"{loss['mean']:.3f}", f"{loss['std_of_batches'] / BATCHES**0.5:.3f}"]
        for name, loss in (
            ("checkerboards", result["loss_of_checkerboards"]),
            ("noise", result["loss_of_noise"]),
        )
    ]
    ends = {
        f"noise, learning rate {rate}": end
        for rate, end in result["from_noise_by_learning_rate"].items()
    } | {"checkerboard, learning rate 5, not permuted": result["unpermuted_learning_rate_5"]}
    rows = [
        [
            start,
            f"{end['cosine_to_start']:.2f}",
            f"{end['pattern_left']:.0%}",
            f"{end['p_value']:.2g}",
        ]
        for start, end in ends.items()
    ]
    return (
        "\n" + table(["loss of 320", "mean", "standard error"], losses)
        + "\n" + table(["100 iterations from", "cosine to it", "pattern left", "p"], rows) + "\n"
    )  # fmt: skip


def report_tables() -> str:
    """Return the main tables of the committed report; its report.md has all."""
    report = load(REPORT)
    about, sections = report["machine"], ("speed", "exponents", "crossings", "toy", "memory")
    where = f"{machine.describe(about)}, {about['threads']} thread(s), torch {about['torch']}"
    pairs = f" {tables.PAIRS}" if len(tables.clocks(report)) > 1 else ""
    return f"{where}, {report['date']}.{pairs}\n" + tables.sections(report, sections)


MARKED = {
    ("docs/results/demo/README.md", "demo table"): demo_table,
    ("docs/results/gpu.md", "gpu table"): gpu.readme,
    ("docs/guide/ten-minutes-with-a-gpu.md", "stages"): gpu.stages,
    ("docs/guide/ten-minutes-with-a-gpu.md", "compilation"): gpu.compilation,
    ("docs/results/gpu.md", "measured"): gpu.details,
    ("bench/NOTES.md", "counts"): counts_page,
    ("bench/NOTES.md", "predictions"): gpu.predicted,
    ("README.md", "cpu table"): of_study("cpu", cpu_pages.speed),
    ("docs/results/cpu.md", "cpu table"): of_study("cpu", cpu_pages.speed),
    ("docs/results/cpu.md", "cpu details"): of_study("cpu", cpu_pages.details),
    ("docs/internals/native.md", "cpu limits"): of_study("cpu_limits", cpu_limits.page),
    ("docs/results/projection.md", "projection table"): of_study(
        "projection", cpu_pages.projection
    ),
    ("docs/results/benchmarks.md", "report"): report_tables,
    ("docs/results/demo/README.md", "frontier"): frontier_table,
    ("docs/results/drift.md", "drift"): of_study("drift", cpu_pages.drift),
    ("docs/results/finetuning.md", "personalisation"): personalisation_table,
    ("docs/results/finetuning.md", "reward tuning"): reward_table,
    ("docs/results/path-kl.md", "path_kl"): of_study("path_kl", path_kl.tables),
    ("docs/results/demo/README.md", "learning rates"): learning_rates,
    ("docs/results/demo/README.md", "noise injection"): noise_injection,
}

DEMO = {
    "demo": demo_table,
    "frontier": frontier_table,
    "personalisation": personalisation_table,
    "reward-tuning": reward_table,
}


def marked(page: str, mark: str, content: str) -> str:
    """Return a page with new content between its marks."""
    pattern = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", re.DOTALL)
    page, found = pattern.subn(lambda match: match[1] + content + match[2], page)
    if found != 1:
        raise BadInput(f"the page must have the marks of {mark!r} once, got them {found} times")
    return page


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench readme", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--check", action="store_true", help="Compare without writing; exit code 1 if they differ."
    )
    check = parser.parse_args(given).check
    stale = list(_pages(write=not check))
    if check:
        stale += _reports()
        for line in stale:
            print(line)
    return Exit.NO if check and stale else Exit.DONE


def _pages(write: bool) -> Iterator[str]:
    """Yield a line for each page that does not show the results, and write it anew if asked."""
    pages: dict[str, str] = {}
    for (name, mark), content in MARKED.items():
        page = pages.get(name) or (ROOT / name).read_text(encoding="utf-8")
        pages[name] = marked(page, mark, content())
    for name, page in pages.items():
        if page != (ROOT / name).read_text(encoding="utf-8"):
            if write:
                write_text(ROOT / name, page)
            yield f"{name} does not show the results"


def _reports() -> Iterator[str]:
    """Yield a line for each committed table that differs from its result."""
    for name, text in DEMO.items():
        path = ROOT / f"docs/results/demo/{name}.md"
        if path.read_text(encoding="utf-8") != text():
            yield f"docs/results/demo/{name}.md does not show docs/results/demo/{name}.json"
    page = (ROOT / REPORT).with_name("report.md")
    if page.read_text(encoding="utf-8") != tables.markdown(load(REPORT)):
        yield f"docs/results/report/report.md does not show {REPORT}"
