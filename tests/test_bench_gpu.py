"""The GPU benchmark's logic, without a GPU: its gate, its rows, its exit codes."""

import dataclasses
import json
import statistics
import sys
import time
from pathlib import Path

import pytest
import torch

from gaussreg_fast import config

BENCH = Path(__file__).resolve().parent.parent / "bench"


@pytest.fixture(scope="module")
def bench():
    """The benchmark's modules: scripts that find each other beside themselves."""
    sys.path.insert(0, str(BENCH))
    try:
        import gpu
        import gpu_cases
        import gpu_timing
        import gpu_tune
    finally:
        sys.path.remove(str(BENCH))
    return {"gpu": gpu, "cases": gpu_cases, "timing": gpu_timing, "tune": gpu_tune}


TIMES = {
    "value_and_grad": 10.0,
    "loss_backward": 20.0,
    "value": 5.0,
    "fft": 8.0,
    "naive": 130.0,
    "compile": 30.0,
    "copy": 4.0,
    "ours": 2.0,
    "ours backward": 3.0,
}


class FakeClock:
    """Runs every call once, and then says what it was told to."""

    device = "cpu"

    @classmethod
    def wall(cls, calls):
        for call in calls.values():
            call(0)
        return {name: [0.9 * TIMES[name], TIMES[name], 1.2 * TIMES[name]] for name in calls}

    @classmethod
    def events(cls, calls, buffers, **_):
        for call in calls.values():
            call(buffers - 1)
        return cls.wall(calls), dict.fromkeys(calls, 3.0), {}

    @staticmethod
    def captured(call):
        return call

    @staticmethod
    def extra_memory(call):
        call(0)
        return 2**20

    @staticmethod
    def cache_bytes():
        return 0


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch):
    monkeypatch.setattr(torch.compiler, "reset", lambda: None)


@pytest.fixture
def plain_compile(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda call, **_: call)


@pytest.mark.parametrize("permutation", ["shared", "per_sample"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gate_lets_right_results_through(bench, dtype, permutation):
    torch.manual_seed(0)
    case = bench["cases"].Case(5, 256, dtype=dtype, permutation=permutation)
    errors = bench["cases"].check(case, "cpu", "auto")
    assert {"value", "gradient", "mean gradient", "backward", "value only", "naive"} <= set(errors)
    assert errors["value"] < 1e-6


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda loss, grad: (loss * (1 + 3e-5), grad), "value"),
        (lambda loss, grad: (loss, grad * (1 + 3e-4)), "gradient"),
        (lambda loss, grad: (loss, grad.index_fill(-1, torch.tensor([7]), torch.nan)), "gradient"),
    ],
)
def test_a_wrong_result_is_not_timed(bench, spoil, what, monkeypatch):
    right = bench["cases"].gaussianity_value_and_grad
    monkeypatch.setattr(
        bench["cases"], "gaussianity_value_and_grad", lambda x, **o: spoil(*right(x, **o))
    )
    row = bench["gpu"].run_case(bench["cases"].Case(4, 128), FakeClock, "auto")
    assert row["status"] == "FAILED"
    assert f"Wrong: {what}: relative error" in row["reason"]
    assert "device_us" not in row
    assert "FAILED" in bench["gpu"].lines(row)[0]


def test_a_backend_that_cannot_run_is_a_failure(bench):
    row = bench["gpu"].run_case(
        bench["cases"].Case(4, 48, dtype=torch.float64), FakeClock, "triton"
    )
    assert row["status"] == "FAILED"
    assert row["reason"].startswith("RuntimeError")


def test_a_row(bench, plain_compile):
    case = bench["cases"].Case(4, 128, bench["cases"].goals(1.5, 12, 4))
    row = bench["gpu"].run_case(case, FakeClock, "auto")
    assert row["status"] == "ok"
    assert row["device_us"]["naive"] == [0.9 * 130, 130, 1.2 * 130]
    assert row["summary_us"]["naive"]["median"] == 130
    assert row["ns_per_sample"] == 2500
    assert row["ratios"]["ours/fft"] == 1.25
    assert row["ratios"]["naive/ours"] == 13
    assert row["targets"] == {
        "ours/fft": "1.25 (met: <= 1.5)",
        "naive/ours": "13 (met: >= 12)",
        "compile/ours": "3 (MISSED: >= 4)",
    }
    assert row["extra_memory_bytes"]["value_and_grad"] == 2**20
    assert "graph_wall_us" not in row
    text = "\n".join(bench["gpu"].lines(row))
    assert "target compile/ours: 3 (MISSED: >= 4)" in text
    assert "(4, 128): 2500.0 ns/sample" in text
    json.dumps(row)


def test_one_latent_is_a_matter_of_waiting(bench, plain_compile):
    case = bench["cases"].Case(1, 128, bench["cases"].waits(60, 1.5))
    row = bench["gpu"].run_case(case, FakeClock, "auto")
    assert set(row["graph_wall_us"]) == {"ours", "ours backward", "naive", "compile"}
    assert row["ratios"]["naive/ours graph"] == 65
    assert row["targets"]["eager us"] == "10 (met: <= 60)"
    assert row["targets"]["graph us"] == "2 (MISSED: <= 1.5)"
    assert "graph wall us: ours 2.0" in "\n".join(bench["gpu"].lines(row))


def test_what_cannot_be_compiled_or_captured_is_not_measured(bench, monkeypatch):
    def broken(*_, **__):
        raise TypeError("no compiler")

    class NoCapture(FakeClock):
        left = 1

        @classmethod
        def captured(cls, call):
            cls.left -= 1
            return call if cls.left >= 0 else broken()

    monkeypatch.setattr(torch, "compile", broken)
    case = bench["cases"].Case(1, 128, bench["cases"].waits(60, 15))
    row = bench["gpu"].run_case(case, NoCapture, "auto")
    assert row["status"] == "ok"
    missing = ("compile", "ours backward graph", "naive graph")
    assert row["not_measured"] == dict.fromkeys(missing, "TypeError: no compiler")
    assert row["targets"]["compile/ours"] == "not measured (target >= 3)"


def test_a_compilation_that_takes_too_long_is_given_up(bench, monkeypatch):
    def slow(call, **_):
        def compiled(x):
            while True:
                try:
                    time.sleep(1)
                except Exception:  # as a compiler does that falls back to something else
                    continue

        return compiled

    monkeypatch.setattr(torch, "compile", slow)
    xs = bench["cases"].inputs(bench["cases"].Case(2, 64), "cpu", 1)
    with pytest.raises(TimeoutError, match="stopped after 0 s"):
        bench["cases"].compiled(bench["cases"].Case(2, 64), xs, 0.05)


def test_results_outlive_the_turns_of_other_buffers(bench):
    made = []
    turns = bench["timing"].Turns(lambda slot: made.append(slot) or len(made), 3)
    turns(7)
    assert made == [0, 1, 2, 0, 1, 2, 0]
    assert turns.kept == [7, 5, 6]


class Device:
    """What `events` uses of torch.cuda; time passes as calls are queued."""

    def __init__(self, slow):
        self.now, self.slow, self.log = 0.0, slow, []

    def _sleep(self, cycles):
        self.log.append("spin")

    def synchronize(self):
        pass

    def Event(self, enable_timing):
        return Event(self)


class Event:
    def __init__(self, device):
        self.device, self.at = device, None

    def record(self):
        self.at = self.device.now

    def query(self):
        return self.device.slow

    def synchronize(self):
        pass

    def elapsed_time(self, end):
        return end.at - self.at


@pytest.mark.parametrize("slow", [False, True])
def test_calls_take_turns(bench, monkeypatch, slow):
    device = Device(slow)
    monkeypatch.setattr(torch, "cuda", device)

    def call(name, milliseconds):
        def run(slot):
            device.log.append((name, slot))
            device.now += milliseconds

        return run

    calls = {"a": call("a", 0.25), "b": call("b", 2)}
    samples, queue, late = bench["timing"].events(calls, 3, rounds=2, repeats=2)
    assert set(queue) == {"a", "b"}
    assert samples == {"a": [250, 250], "b": [2000, 2000]}
    assert late == ({"a": 2, "b": 2} if slow else {})
    timed = device.log[device.log.index("spin") :]
    assert [entry if entry == "spin" else entry[0] for entry in timed] == 2 * [
        "spin", "a", "a", "spin", "b", "b",
    ]  # fmt: skip
    assert [slot for name, slot in (e for e in timed if e != "spin") if name == "a"] == [2, 0, 1, 2]


def test_buffers_do_not_fit_in_the_cache(bench):
    for nbytes in (1000, 10**6, 10**9):
        count = bench["timing"].buffers(nbytes, 10**6)
        assert count >= 2
        assert count * nbytes >= 4 * 10**6 or count == 2


def test_summary(bench):
    samples = [float(n) for n in range(1, 12)]
    assert bench["timing"].summary(samples) == {"median": 6, "p10": 2, "p90": 10}
    assert bench["timing"].summary([3.0]) == {"median": 3, "p10": 3, "p90": 3}
    assert statistics.median(samples) == 6


@pytest.mark.parametrize("arguments", [[], ["--tune"]])
def test_without_a_gpu_it_says_so(bench, tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    out = tmp_path / "gpu.json"
    monkeypatch.setattr(sys, "argv", ["gpu.py", *arguments, "--out", str(out)])
    assert bench["gpu"].main() == 2
    assert "torch.cuda.is_available() is False" in capsys.readouterr().err
    assert not out.exists()


# ---------------------------------------------------------------- the sweep


@pytest.mark.parametrize("dimension", [1024, 4096, 16384, 32768])
def test_candidates(bench, dimension):
    found = bench["tune"].candidates(dimension)
    assert found[0] == config.FUSED[dimension]
    assert len(set(found)) == len(found) <= 36
    for fused in found:
        r1, r2, r3 = fused.radices
        assert 2 * r1 * r2 * r3 == dimension
        assert r1 % 4 == 0  # a thread reads VECTOR neighbouring entries of the table
        assert fused.num_warps in (1, 2, 4, 8, 16)


def test_a_sweep(bench, monkeypatch):
    tune = bench["tune"]
    monkeypatch.setattr(tune, "NUMBERS", 4 * 1024)
    names = [tune.label(1024, fused) for fused in tune.candidates(1024)]
    seen = []

    class Clock(FakeClock):
        @staticmethod
        def events(calls, buffers, **_):
            for call in calls.values():
                call(0)
            return {name: [20.0 - k, 22.0 - k] for k, name in enumerate(calls)}, {}, {}

    right = tune.gaussianity_value_and_grad

    def spy(x, **options):
        fused = config.fused(1024, "cpu")
        seen.append(tune.label(1024, fused))
        loss, grad = right(x, **options)
        return loss, grad * 2 if seen[-1] == names[2] else grad

    monkeypatch.setattr(tune, "gaussianity_value_and_grad", spy)
    ready = dict.fromkeys(names[:4], "") | {names[3]: "OutOfResources: shared memory"}
    rows = tune.sweep(1024, ready, "cpu", Clock, "cpu", "auto")
    assert [row["name"] for row in rows[:2]] == [names[1], names[0]]
    assert rows[0]["median"] == 20
    assert rows[0]["ns_per_sample"] == 5000
    assert rows[1]["in_use"]
    reasons = {row["name"]: row.get("reason") for row in rows}
    assert reasons[names[2]].startswith("Wrong: gradient")
    assert reasons[names[3]] == "OutOfResources: shared memory"
    assert reasons[names[4]] == "not compiled in time"
    assert set(seen) == set(names[:3])
    assert config.fused(1024, "cpu") == config.FUSED[1024]


def test_the_cases_are_the_ones_promised(bench):
    cases = {case.name: case for case in bench["cases"].CASES}
    assert len(cases) == 13
    assert cases["(4096, 4096)"].targets["ours/fft"] == ("<=", 0.8)
    assert cases["(4096, 16384) bfloat16"].dtype == torch.bfloat16
    assert cases["(4096, 16384) per_sample"].permutation == "per_sample"
    assert {case.dimension for case in cases.values() if case.batch == 1} == {16384, 65536, 262144}
    assert all(dataclasses.is_dataclass(case) for case in cases.values())
