"""The sweep over launch parameters, without a GPU."""

import pytest

from bench.gpu import tuning
from bench.harness.samples import Timed
from bench.subjects.cases import Case
from gaussreg_fast.backends.triton import parameters


class FakeClock:
    """Runs every call once; each is faster than the one before."""

    @staticmethod
    def timed(calls, buffers, seconds, rounds):
        for call in calls.values():
            call(0)
        return Timed({name: [20.0 - k, 22.0 - k] for k, name in enumerate(calls)})


@pytest.mark.parametrize("dimension", [1024, 4096, 16384, 32768])
def test_candidates_of_one_launch(dimension):
    found = tuning.candidates(dimension)
    assert found[0] == parameters.FUSED[dimension]
    assert len(set(found)) == len(found) <= 36
    for fused in found:
        r1, r2, r3 = fused.radices
        assert 2 * r1 * r2 * r3 == dimension
        assert r1 % 4 == 0  # a thread reads VECTOR neighbouring entries of the table
        assert fused.num_warps in (1, 2, 4, 8, 16)


@pytest.mark.parametrize("dimension", [65536, 262144])
def test_candidates_of_three_launches(dimension):
    found = tuning.candidates(dimension)
    assert found[0] == parameters.LARGE[dimension]
    assert len(set(found)) == len(found) >= 8
    for large in found:
        assert large.n1 * large.n2 == dimension
        assert large.n1 % 32 == 0  # rows come in groups of 32
        assert min(large.width, large.column_warps, large.row_warps) >= 1
    labels = [tuning.label(dimension, large) for large in found]
    assert len(set(labels)) == len(labels)


def test_a_sweep(monkeypatch):
    tried = tuning.candidates(1024)
    names = [tuning.label(1024, fused) for fused in tried]
    seen = []
    right = tuning.gaussianity_value_and_grad

    def spy(x, **options):
        seen.append(tuning.label(1024, parameters.fused(1024, "cpu")))
        loss, grad = right(x, **options)
        return loss, grad * 2 if seen[-1] == names[2] else grad

    monkeypatch.setattr(tuning, "gaussianity_value_and_grad", spy)
    ready = dict.fromkeys(names[:4], "") | {names[3]: "OutOfResources: shared memory"}
    rows = tuning.sweep(
        Case("d1024", 4), tried, "cpu", ready=ready, clock=FakeClock, device="cpu", backend="auto"
    )
    assert [row["name"] for row in rows[:2]] == [names[1], names[0]]
    assert rows[0]["median"] == 20
    assert rows[0]["ns_per_sample"] == 5000
    assert rows[1]["in_use"]
    reasons = {row["name"]: row.get("reason") for row in rows}
    assert reasons[names[2]].startswith("Wrong: gradient")
    assert reasons[names[3]] == "OutOfResources: shared memory"
    assert reasons[names[4]] == "not compiled in time"
    assert set(seen) == set(names[:3])
    assert parameters.fused(1024, "cpu") == parameters.FUSED[1024]
