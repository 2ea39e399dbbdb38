"""The benchmark's clocks: turns, buffers, and dropped calls."""

import time

import pytest
import torch

from bench.harness import cpu_clocks, interlude, timing
from bench.harness.cpu_clocks import ColdClock, CpuClock
from bench.harness.samples import in_turns, summary


def test_every_call_has_its_turn_in_every_round():
    log = []

    def sampler(name):
        return lambda: log.append(name) or float(len(log))

    samples = in_turns({name: sampler(name) for name in "ab"}, 3)
    assert log == list("ababab")
    assert samples == {"a": [1, 3, 5], "b": [2, 4, 6]}


def test_fewer_rounds_are_spread_evenly():
    log = []
    samplers = {name: lambda name=name: log.append(name) or 0.0 for name in "ab"}
    samples = in_turns(samplers, {"a": 9, "b": 3})
    assert {name: len(found) for name, found in samples.items()} == {"a": 9, "b": 3}
    assert "".join(log).split("b") == ["a", "aaa", "aaa", "aa"]


def test_the_cpu_clock_times_what_it_says():
    def pause(seconds):
        return lambda _: time.sleep(seconds)

    timed = CpuClock.timed({"short": pause(1e-3), "long": pause(4e-3)}, 1, 0.2)
    assert 1000 <= min(timed.samples["short"]) < 3000
    assert 4000 <= min(timed.samples["long"]) < 8000
    assert min(map(len, timed.samples.values())) >= 3
    pairs = CpuClock.even({"short": pause(1e-3), "long": pause(4e-3)}, 0.1)
    assert len(pairs["short"]) == len(pairs["long"]) >= 5


def test_a_call_that_takes_too_long_is_dropped_with_a_reason():
    calls = {"quick": lambda _: None, "endless": lambda _: time.sleep(0.2)}
    timed = CpuClock.timed(calls, 1, 0.02)
    assert list(timed.samples) == ["quick"]
    assert list(timed.dropped) == ["endless"]
    assert timed.dropped["endless"].startswith("one call takes 0.")


# ---------------------------------------------------------------- cold calls


class Host:
    """A host whose time passes only in calls and interludes, and which keeps a log of them."""

    def __init__(self, monkeypatch):
        self.now, self.log = 0.0, []
        monkeypatch.setattr(cpu_clocks.time, "perf_counter", self.look)
        monkeypatch.setattr(cpu_clocks, "interlude", lambda: self.work("interlude", 2e-3))

    def look(self):
        self.log.append("look")
        return self.now

    def work(self, name, seconds):
        def run(*_):
            self.log.append(name)
            self.now += seconds

        return run


@pytest.fixture
def host(monkeypatch):
    return Host(monkeypatch)


@pytest.mark.parametrize("take", ["timed", "even"])
def test_a_cold_sample_is_one_call_after_an_interlude_that_is_not_timed(host, take):
    calls = {"a": host.work("a", 1e-4), "b": host.work("b", 3e-4)}
    samples = getattr(ColdClock, take)(calls, seconds=1.0)
    samples = samples.samples if take == "timed" else samples
    assert samples["a"] == pytest.approx([100] * len(samples["a"]))
    assert samples["b"] == pytest.approx([300] * len(samples["b"]))
    one_round = ["interlude", "look", "a", "look", "interlude", "look", "b", "look"]
    rounds = len(samples["a"])
    assert rounds == len(samples["b"]) >= 5
    assert host.log[-len(one_round) * rounds :] == one_round * rounds


def test_cold_calls_of_unequal_length_have_equal_interludes(host):
    calls = {"short": host.work("short", 1e-5), "long": host.work("long", 2e-2)}
    samples = ColdClock.timed(calls, 1, 0.5).samples
    measured = sum(map(len, samples.values()))
    assert host.log.count("interlude") == measured + len(calls)  # and one each, for its length
    assert len(samples["short"]) == cpu_clocks.COLD_ROUNDS
    assert 3 <= len(samples["long"]) < len(samples["short"])


def test_hot_calls_have_no_interludes(host):
    samples = CpuClock.even({"a": host.work("a", 1e-4)}, 0.05)
    assert "interlude" not in host.log
    assert samples["a"] == pytest.approx([100] * len(samples["a"]))


@pytest.mark.parametrize("clock", [ColdClock, CpuClock])
def test_what_a_call_needs_done_before_is_done_before_each_sample_and_untimed(host, clock):
    calls = {"a": host.work("a", 1e-3), "b": host.work("b", 1e-3)}
    samples = clock.timed(calls, 1, 0.1, before={"b": host.work("before b", 0.5)}).samples
    assert samples["b"] == pytest.approx([1000] * len(samples["b"]))
    assert host.log.count("before b") == len(samples["b"])
    following = host.log[host.log.index("before b") + 1]
    assert following == ("interlude" if clock is ColdClock else "look")


def test_a_cold_call_that_takes_too_long_is_dropped(host):
    calls = {"quick": host.work("quick", 1e-4), "endless": host.work("endless", 1.0)}
    timed = ColdClock.timed(calls, 1, 0.1)
    assert list(timed.samples) == ["quick"]
    assert timed.dropped == {"endless": "one call takes 1.0 s"}


def test_an_interlude_touches_all_of_its_memory_and_takes_its_time():
    between = interlude.Interlude()
    before = [part.clone() for part in between.parts]
    begin = time.perf_counter()
    between()
    assert time.perf_counter() - begin >= interlude.LEAST
    assert sum(part.nbytes for part in between.parts) == interlude.TOUCHED
    for part, old in zip(between.parts, before, strict=True):
        assert torch.all(part != old)


def test_an_interlude_works_in_any_state_of_autograd():
    with torch.no_grad():
        interlude.interlude()()
    assert interlude.interlude() is interlude.interlude()


# ---------------------------------------------------------------- memory and buffers


def test_memory_of_a_call_is_seen():
    size = 2**24
    found = CpuClock.extra_memory(lambda _: torch.ones(size))
    if found is None:
        pytest.skip("this system's high-water mark cannot be reset")
    assert 4 * size * 0.9 < found < 4 * size * 1.2


def test_results_outlive_the_turns_of_other_buffers():
    made = []
    turns = timing.Turns(lambda slot: made.append(slot) or len(made), 3)
    turns(7)
    assert made == [0, 1, 2, 0, 1, 2, 0]
    assert turns.kept == [7, 5, 6]


class Device:
    """The part of torch.cuda that `events` uses; time passes as calls are queued."""

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
def test_calls_take_turns(monkeypatch, slow):
    device = Device(slow)
    monkeypatch.setattr(torch, "cuda", device)

    def call(name, milliseconds):
        def run(slot):
            device.log.append((name, slot))
            device.now += milliseconds

        return run

    calls = {"a": call("a", 0.25), "b": call("b", 2)}
    timed = timing.GpuClock.timed(calls, 3, seconds=100.0, rounds=3, repeats=2)
    assert set(timed.queue_us) == {"a", "b"}
    assert timed.samples == {"a": [250] * 3, "b": [2000] * 3}
    assert timed.late == ({"a": 3, "b": 3} if slow else {})
    assert timed.waiting == []
    sampled = device.log[-18:]
    assert [entry if entry == "spin" else entry[0] for entry in sampled] == 3 * [
        "spin", "a", "a", "spin", "b", "b",
    ]  # fmt: skip
    for name in "ab":
        slots = [entry[1] for entry in device.log if entry[0] == name]
        assert slots == [turn % 3 for turn in range(len(slots))]
        assert len(slots) >= 3 + 2 + 1 + 6  # all buffers, the estimate, the question, the samples


def test_a_call_that_waits_for_the_device_is_told_apart(monkeypatch):
    device = Device(False)
    monkeypatch.setattr(torch, "cuda", device)

    def waits(slot):
        if device.log[-1:] == ["spin"]:
            time.sleep(0.005)
        device.log.append("call")

    timed = timing.GpuClock.timed({"waits": waits}, 2, seconds=100.0, rounds=3, repeats=1)
    assert timed.waiting == ["waits"]
    assert device.log.count("spin") == 1


def test_buffers_do_not_fit_in_the_cache():
    for nbytes in (1000, 10**6, 10**9):
        count = timing.rotated(nbytes, 10**6)
        assert count >= 2
        assert count * nbytes >= 4 * 10**6 or count == 2


def test_summary():
    samples = [float(n) for n in range(1, 12)]
    assert summary(samples) == {"median": 6, "p25": 3.5, "p10": 2, "p90": 10}
    assert summary([3.0]) == {"median": 3, "p25": 3, "p10": 3, "p90": 3}
