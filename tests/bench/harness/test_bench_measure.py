"""The benchmark's measuring, without a GPU: its gate, its rows, its clocks."""

import json
import time

import pytest
import torch

from bench.gpu import headline
from bench.harness import machine, timing
from bench.harness.samples import Timed, summary
from bench.report import measure
from bench.subjects import cases, correctness, peers
from bench.subjects.cases import Case

TIMES = {
    "value_and_grad": 10.0,
    "loss_backward": 20.0,
    "value": 5.0,
    "fft": 8.0,
    "naive": 130.0,
    "compile": 30.0,
    "hand": 20.0,
    "copy": 4.0,
    "ours": 2.0,
    "ours backward": 3.0,
    **dict.fromkeys(peers.GUARDS, 50.0),
}


class FakeClock:
    """Runs every call once, and then says what it was told to."""

    device = "cpu"
    name = "device"

    @classmethod
    def wait_times(cls, calls):
        for call in calls.values():
            call(0)
        return {name: [0.9 * TIMES[name], TIMES[name], 1.2 * TIMES[name]] for name in calls}

    @classmethod
    def timed(cls, calls, buffers=1, seconds=1.0, **_):
        for call in calls.values():
            call(buffers - 1)
        return Timed(cls.wait_times(calls), dict.fromkeys(calls, 3.0), {})

    @staticmethod
    def captured(call):
        return call

    @staticmethod
    def recover():
        pass

    @staticmethod
    def extra_memory(call):
        call(0)
        return 2**20

    @staticmethod
    def buffers(nbytes):
        return 2


class FakeGpu(FakeClock):
    """A clock on the CPU that is asked for waits and graphs, like a GPU's."""

    device = "cuda"


@pytest.fixture
def gpu(monkeypatch):
    """Cases whose device is the GPU have their tensors on the CPU."""
    inputs, check, guard = peers.inputs, correctness.check, correctness.check_guard
    monkeypatch.setattr(peers, "inputs", lambda case, device, count: inputs(case, "cpu", count))
    monkeypatch.setattr(correctness, "check", lambda case, device, *rest: check(case, "cpu", *rest))
    monkeypatch.setattr(
        correctness, "check_guard", lambda *known_and_device: guard(*known_and_device[:-1], "cpu")
    )
    monkeypatch.setattr(measure.machine, "free_memory", lambda device: 2**40)
    return FakeGpu


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch):
    monkeypatch.setattr(torch.compiler, "reset", lambda: None)


@pytest.fixture
def plain_compile(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda call, **_: call)


@pytest.mark.parametrize("permutation", ["shared", "per_sample"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gate_lets_right_results_through(dtype, permutation):
    torch.manual_seed(0)
    errors = correctness.check(Case("d256", 5, dtype=dtype, permutation=permutation), "cpu")
    assert {"value", "gradient", "mean gradient", "backward", "value only", "naive"} <= set(errors)
    assert {"hand", "hand gradient", "naive gradient"} <= set(errors)
    assert errors["value"] < 1e-6


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda loss, grad: (loss * (1 + 3e-5), grad), "value"),
        (lambda loss, grad: (loss, grad * (1 + 3e-4)), "gradient"),
        (lambda loss, grad: (loss, grad.index_fill(-1, torch.tensor([7]), torch.nan)), "gradient"),
    ],
)
def test_a_wrong_result_is_not_timed(spoil, what, monkeypatch):
    right = correctness.gaussianity_value_and_grad
    monkeypatch.setattr(
        correctness, "gaussianity_value_and_grad", lambda x, **o: spoil(*right(x, **o))
    )
    row = measure.run_case(Case("d128", 4), FakeClock)
    assert row["status"] == "FAILED"
    assert f"Wrong: {what}: relative error" in row["reason"]
    assert "us" not in row


@pytest.mark.parametrize("name", ["naive", "by_hand"])
def test_a_wrong_peer_is_not_timed_either(name, monkeypatch):
    right = getattr(correctness, name)

    def wrong(*arguments):
        result = right(*arguments)
        return result * 1.001 if name == "naive" else (result[0], result[1] * 1.01)

    monkeypatch.setattr(correctness, name, wrong)
    row = measure.run_case(Case("d128", 4), FakeClock)
    assert row["status"] == "FAILED"
    assert row["reason"].startswith("Wrong: naive" if name == "naive" else "Wrong: hand gradient")


@pytest.mark.parametrize("name", list(peers.GUARDS))
def test_every_regulariser_is_compared_with_float64(name, monkeypatch):
    case = Case("d256", 1, topic="guards")
    assert f"{name} gradient" in measure.checked(case, "cpu", "auto")
    guard = peers.GUARDS[name]
    wrong = peers.Guard(lambda x, **o: 1.001 * guard.loss(x, **o), guard.reference, guard.random)
    monkeypatch.setitem(peers.GUARDS, name, wrong)
    row = measure.run_case(case, FakeClock)
    assert row["status"] == "FAILED"
    assert row["reason"].startswith(f"Wrong: {name}")


def test_a_wrong_compiled_peer_fails_the_case(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda call, **_: lambda x: call(x * 1.01))
    row = measure.run_case(Case("d128", 4), FakeClock, compile_seconds=5)
    assert row["status"] == "FAILED"
    assert row["reason"].startswith("Wrong: compile")


def test_a_backend_that_cannot_run_is_a_failure(monkeypatch):
    monkeypatch.setitem(cases.DTYPES, "float64", torch.float64)
    case = Case("d48", 4, dtype=torch.float64)
    row = measure.run_case(case, FakeClock, backend="triton")
    assert row["status"] == "FAILED"
    assert row["reason"].startswith("RuntimeError")


def test_a_batch_that_does_not_fit_is_left_out(monkeypatch):
    monkeypatch.setattr(measure.machine, "free_memory", lambda device: 2**20)
    row = measure.run_case(cases.parse("sd-4096"), FakeClock)
    assert row["status"] == "not measured"
    assert row["reason"] == "needs about 4 GiB, 0 GiB are free"


def test_a_row(plain_compile, gpu, monkeypatch):
    monkeypatch.setitem(cases.TARGETS, "d128-4", cases._goals(1.5, 12, 4))
    row = measure.run_case(Case("d128", 4), gpu, compile_seconds=5)
    assert row["status"] == "ok", row
    assert row["us"]["device"]["naive"] == [0.9 * 130, 130, 1.2 * 130]
    assert row["summary_us"]["device"]["naive"]["median"] == 130
    assert row["ns_per_sample"] == 2500
    assert row["ratios"]["ours/fft"] == 1.25
    assert row["ratios"]["naive/ours"] == 13
    assert row["ratios"]["hand/ours"] == 2
    assert row["targets"] == {
        "ours/fft": "1.25 (met: <= 1.5)",
        "naive/ours": "13 (met: >= 12)",
        "compile/ours": "3 (MISSED: >= 4)",
        "memory/input": "512 (MISSED: <= 1.1)",
    }
    assert row["extra_memory_bytes"]["value_and_grad"] == 2**20
    assert list(row["us"]) == ["device"]
    json.dumps(row)


def test_one_latent_is_a_matter_of_waiting(plain_compile, gpu, monkeypatch):
    monkeypatch.setitem(cases.TARGETS, "d128-1", cases._waits(60, 1.5))
    row = measure.run_case(Case("d128", 1), gpu, compile_seconds=5)
    assert row["status"] == "ok", row
    assert set(row["us"]) == {"device", "wall", "graph wall", "graph device"}
    assert set(row["us"]["graph wall"]) == {"ours", "ours backward", "naive", "compile"}
    assert row["clock"] == "wall"
    assert "copy" not in row["us"]["wall"]
    assert row["ratios"]["naive/ours graph"] == 65
    assert row["targets"]["eager us"] == "10 (met: <= 60)"
    assert row["targets"]["graph us"] == "2 (MISSED: <= 1.5)"


def test_every_clock_has_its_samples_and_the_first_leads():
    class Slower(FakeClock):
        name = "slower"

        @classmethod
        def timed(cls, calls, buffers=1, seconds=1.0):
            times = FakeClock.timed(calls, buffers, seconds).samples
            return Timed({call: [2 * t for t in each] for call, each in times.items()})

    row = measure.run_case(Case("d128", 4), Slower, FakeClock)
    assert row["status"] == "ok", row
    assert list(row["us"]) == list(row["summary_us"]) == ["slower", "device"]
    assert row["clock"] == "slower"
    assert row["ns_per_sample"] == 5000
    assert measure.typical(row)["naive"] == 260
    assert measure.typical(row, "device")["naive"] == 130


def test_a_cold_time_is_the_lower_quartile_and_a_hot_one_the_tenth_percentile():
    found = summary([float(n) for n in range(1, 102)])
    row = {"clock": "cold", "summary_us": {"cold": {"a": found}, "host": {"a": found}}}
    assert measure.typical(row) == {"a": 26}
    assert measure.typical(row, "host") == {"a": 11}


@pytest.mark.parametrize("topic", ["growth", "guards"])
def test_growth_and_regularisers_are_a_matter_of_the_device(gpu, topic):
    """One sample of them is compared with larger ones, and with the O(n^2) loss."""
    row = measure.run_case(Case("d1024", 1, topic=topic), gpu)
    assert row["status"] == "ok", row
    assert row["clock"] == "device"
    assert {"covariance", "prno"} <= set(measure.typical(row))
    assert row["extra_memory_bytes"]["covariance"] is not None


@pytest.mark.slow
@pytest.mark.parametrize("permutation", ["shared", "per_sample"])
def test_compiled_peers_are_compared_with_eager_ones(permutation):
    row = measure.run_case(
        Case("d64", 4, permutation=permutation),
        *timing.clocks("cpu"),
        seconds=0.1,
        compile_seconds=120,
    )
    assert row["status"] == "ok", row
    assert {"compile", "hand"} <= set(row["extra_memory_bytes"]) & set(measure.typical(row))


def test_memory_that_is_not_there_is_no_wrong_result(gpu, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("tried to allocate 20 GiB")

    monkeypatch.setattr(measure, "checked", full)
    row = measure.run_case(Case("d128", 2), gpu)
    assert (row["status"], row["reason"]) == ("not measured", "tried to allocate 20 GiB")


def test_what_cannot_be_compiled_or_captured_is_not_measured(monkeypatch, gpu):
    def broken(*_, **__):
        raise TypeError("no compiler")

    class NoCapture(gpu):
        left = 1

        @classmethod
        def captured(cls, call):
            cls.left -= 1
            return call if cls.left >= 0 else broken()

    monkeypatch.setattr(torch, "compile", broken)
    row = measure.run_case(Case("d128", 1), NoCapture, compile_seconds=5)
    assert row["status"] == "ok", row
    missing = ("compile", "hand", "ours backward graph", "naive graph")
    assert row["not_measured"] == dict.fromkeys(missing, "TypeError: no compiler")
    monkeypatch.setitem(cases.TARGETS, "d128-1", cases._waits(60, 15))
    said = measure.verdicts(Case("d128", 1), row["ratios"])
    assert said["compile/ours"] == "not measured (target >= 3)"


def test_a_compilation_that_takes_too_long_is_given_up(monkeypatch):
    def slow(call, **_):
        def compiled(x):
            while True:
                try:
                    time.sleep(1)
                except Exception:  # as a compiler does that falls back to something else
                    continue

        return compiled

    monkeypatch.setattr(torch, "compile", slow)
    case = Case("d64", 2)
    calls, reasons = peers.compiled(case, peers.inputs(case, "cpu", 1), 0.05)
    assert not calls
    assert reasons == dict.fromkeys(("compile", "hand"), "compiling: stopped after 0 s")


def test_peers_that_do_not_compile_in_time_leave_the_rest(monkeypatch, gpu):
    """A row of the GPU run lacks only the peers that are still compiling."""
    monkeypatch.setattr(torch, "compile", lambda call, **_: lambda *_: time.sleep(30))
    monkeypatch.setattr(timing, "GpuClock", gpu)
    monkeypatch.setattr(machine, "clocks", lambda device: None)
    begin = time.monotonic()
    with timing.limit(headline.REST + 4):
        row = headline._row(Case("d128", 4), True, 0.1, headline.REST + 3)
    assert time.monotonic() - begin < headline.REST
    assert row["status"] == "ok"
    assert set(row["not_measured"]) == {"compile", "hand"}
    assert {"value_and_grad", "naive", "fft"} <= set(measure.typical(row))
