"""Make the pages' tables of the committed counts."""

from __future__ import annotations

from typing import Any

from bench.harness.text import table
from bench.simulator import bounds, records

GPU = "H200"
SIZES = (1024, 4096, 16384, 32768, 65536, 262144)
GROUPS = (65536, 262144)  # whose samples have other launches if there are more of them
CALLS = (*((size, 1) for size in SIZES), *((size, 8) for size in GROUPS))
OF_A_PROGRAM = ("registers", "stack", "shared", "warps", "barriers")
TABLES = ("index_tables", "permutation_table")  # launched once a call with a shared permutation


def counts_page() -> str:
    """Return the counts of a sample at each size, per launch, with the bounds that follow."""
    gpu = bounds.device(GPU)
    releases = records.read(records.RECORD)
    newest, oldest = max(releases, key=_order), min(releases, key=_order)
    now, before = releases[newest][gpu.arch], releases[oldest][gpu.arch]
    rows = []
    for size, batch in CALLS:
        case = f"gradient D={size} batch={batch}"
        name = str(size) if batch == 1 else f"{size}, B = {batch}"
        total = {"issue": 0.0, "load/store": 0.0, "L2": 0.0}
        for launch, entry in now[case].items():
            # A table is made once a call, everything else for each sample.
            each = _per_sample(entry["counts"], 1 if launch in TABLES else batch)
            found = bounds.bounds(each, gpu)
            rows.append(_row(name, launch, each, before[case][launch]["counts"], found))
            if launch not in TABLES:
                total = {kind: total[kind] + found[kind] for kind in total}
        if len(now[case]) > 2:
            sums = [f"**{total[name]:.1f}**" for name in ("issue", "load/store", "L2")]
            rows.append([name, "together", "", "", sums[0], "", sums[1], "", sums[2], ""])
    head = ["D", "launch", "registers", "instructions", "issue", "wavefronts (conflicts)",
            "load/store", "sectors", "L2", "barriers"]  # fmt: skip
    about = (
        f"\nTriton {newest} (registers also of {oldest}), {gpu.arch}, value and gradient, orders "
        f"1 and 2, float32, one sample. Times are bounds in ns on an {GPU} with all of its "
        "multiprocessors busy.\n\n"
    )
    return about + table(head, rows) + "\n" + _floors(gpu)


def _per_sample(counts: dict[str, Any], batch: int) -> dict[str, Any]:
    """Return counts of a launch for one of its samples; those of a program stay as they are."""
    return {
        name: number if name in OF_A_PROGRAM else round(number / batch)
        for name, number in counts.items()
    }


def _order(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in release.split("+")[0].split("."))


def _row(
    name: str, launch: str, c: dict[str, Any], old: dict[str, Any], found: dict[str, float]
) -> list[str]:
    spills = f" + {c['spills']} spills" if c["spills"] else ""
    conflicts = c["wavefronts"] / max(1, c["conflict_free"])
    return [
        name,
        launch + (" (once a call)" if launch in TABLES else ""),
        f"{c['registers']}, {old['registers']}",
        f"{c['machine']}{spills}",
        f"{found['issue']:.1f}",
        f"{c['wavefronts']} ({conflicts:.2f})" if c["wavefronts"] else "0",
        f"{found['load/store']:.1f}",
        str(c["sectors_read"] + c["sectors_written"]),
        f"{found['L2']:.1f}",
        str(c["barriers"]),
    ]


def _floors(gpu: bounds.Device) -> str:
    """Return the time to read a sample and write its gradient once, for each size."""
    each = ", ".join(f"{8 * size / gpu.copy_gb_s:.1f} ({size})" for size in SIZES)
    return (
        f"Reading x and writing the gradient, 8 D bytes at {gpu.copy_gb_s:.0f} GB/s: {each} ns.\n"
    )
