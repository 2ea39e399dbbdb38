"""The pages' tables of committed GPU runs."""

import copy

import pytest

from bench.gpu import pages, record
from bench.report.measure import verdicts
from bench.subjects.cases import parse

FACTS = {
    "device": "NVIDIA H200", "driver": "580.1", "torch": "2.11.0", "triton": "3.6.0",
    "python": "3.12", "gaussreg_fast": "0.1.0",
}  # fmt: skip


def row(name, us, extra=None, graph=None):
    case = parse(name)
    clock = "wall" if case.batch == 1 and case.topic == "loss" else "device"
    summary = {call: {"median": t, "p10": t, "p90": t} for call, t in us.items()}
    ours = us["value_and_grad"]
    found = {
        "part": name, "status": "ok", "case": name, "topic": case.topic, "batch": case.batch,
        "dimension": case.dimension, "clock": clock, "us": {clock: {c: [t] for c, t in us.items()}},
        "summary_us": {clock: summary}, "ns_per_sample": ours / case.batch * 1e3,
        "ratios": {"ours/fft": ours / us["fft"], "naive/ours": us["naive"] / ours},
        "extra_memory_bytes": {"value_and_grad": extra},
    }  # fmt: skip
    if graph:
        found["us"]["graph wall"] = {"ours": [graph]}
        found["summary_us"]["graph wall"] = {"ours": {"median": graph, "p10": graph, "p90": graph}}
    found["targets"] = verdicts(case, found["ratios"])
    return found


def run(device, factor=1.0):
    facts = FACTS | {"device": device}
    case = parse("sd-4096")
    rows = [
        row("sd-4096", {"value_and_grad": 520 * factor, "fft": 300, "naive": 5200}, case.nbytes),
        row("sd-1", {"value_and_grad": 60 * factor, "fft": 20, "naive": 900}, 2**17, 12.0),
        row("d16384-1-growth", {"value_and_grad": 20, "fft": 9, "naive": 80, "covariance": 4e4}),
    ]
    rows[2]["clock"] = "device"
    failed = {"part": "flux-256", "status": "FAILED", "reason": "Wrong: gradient"}
    return {
        "what": "gpu run", "format": 1, "date": "2026-01-02", "machine": facts,
        "stages": {
            "headline": {"state": "FAILED: flux-256", "seconds": 99.0, "rows": [*rows, failed]}
        },
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    for device, factor in (("NVIDIA H200", 1.0), ("NVIDIA H100 80GB HBM3", 2.0)):
        content = run(device, factor)
        record.Record(tmp_path / record.slug(device) / record.NAME, content).save()
    return tmp_path


def test_nothing_measured_is_said(tmp_path):
    assert pages.readme(tmp_path) == pages.details(tmp_path) == pages.NOTHING
    assert "Measured: nothing yet." in pages.predicted(tmp_path)


def test_a_device_to_a_table(folder):
    for page in (pages.readme(folder), pages.details(folder), pages.predicted(folder)):
        h100, h200 = page.split("NVIDIA H200, driver")
        assert "NVIDIA H100 80GB HBM3, driver 580.1, torch 2.11.0, triton 3.6.0, 2026-01-02" in h100
        assert "| 4096, 16384 |" in h100
        assert "| 4096, 16384 |" in h200


def test_the_readme_has_six_columns_and_the_memory(folder):
    lines = [x for x in pages.readme(folder).splitlines() if x.startswith("|")]
    assert {line.count("|") for line in lines} == {7}
    assert "| 4096, 16384 | 520 us | 0.58x | 10x |  | 1.00x the input |" in lines
    assert not any("growth" in line or "1, 16384 | 20" in line for line in lines)


def test_the_details_name_what_failed_and_what_is_missed(folder):
    h200 = pages.details(folder).split("NVIDIA H200, driver")[1]
    assert "- headline, flux-256: FAILED: Wrong: gradient" in h200
    assert "ours/fft 1.73 (MISSED: <= 1)" in h200
    assert "| 1, 16384 | 2000x |  | 4x |" in h200
    assert "| 1, 16384 | graph wall | ours 12 us |" in h200


def test_measurements_stand_over_their_predictions(folder):
    h200 = pages.predicted(folder).split("NVIDIA H200, driver")[1]
    # 520 us / 4096 = 127 ns, predicted 98; the pair 73.2, predicted 75
    assert (
        "| 4096, 16384 | 73.2 (0.98) | 127 (1.30) | 1.73 (1.33) | 10 (1.08) | not measured |"
        in h200
    )
    assert "| 16384 | 60 (0.80) | 12 (0.40) |" in h200
    assert "| 256, 262144 | not measured |" in h200


def test_a_prediction_that_misses_its_target_is_marked():
    text = pages.predicted(record.Path("nowhere"))
    assert "| 4096, 16384 | 75 | 98 | 1.31, 1 (!) | 9.3, 12 (!) | 4.6, 4 |" in text


def test_a_rehearsal_is_no_measurement(tmp_path):
    content = run(record.REHEARSAL)
    record.Record(tmp_path / record.REHEARSAL / record.NAME, content).save()
    assert pages.readme(tmp_path) == pages.NOTHING


def test_a_run_in_parts_is_the_same(folder):
    """A stage that was not begun has no rows to show, and the page can still be written."""
    content = copy.deepcopy(run("NVIDIA H200"))
    content["stages"] = {"look": {"state": "interrupted", "seconds": 0.0, "rows": []}}
    record.Record(folder / "nvidia-h200" / record.NAME, content).save()
    assert "interrupted" in pages.details(folder)
    assert pages.predicted(folder).count("not measured") > 10
