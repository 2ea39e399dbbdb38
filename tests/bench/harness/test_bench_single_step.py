"""Instructions counted one by one: the same in each run, and growing with the work."""

import platform

import pytest
from backends_here import needs_native

from bench.harness import single_step
from bench.harness.errors import BadInput
from bench.report import roofline
from bench.studies import cpu_limits

pytestmark = needs_native

NAMES = (*roofline.CPU_STAGES, roofline.CYCLE)


@pytest.fixture(scope="module")
def counts():
    try:
        return {size: [cpu_limits.count(size, NAMES) for _ in range(2)] for size in (512, 1024)}
    except BadInput as error:
        pytest.skip(str(error))


def test_counts_do_not_change_from_run_to_run(counts):
    for first, second in counts.values():
        assert first == second


def test_twice_the_numbers_take_nearly_twice_the_instructions(counts):
    """A few are executed once, whatever the size."""
    for stage in ("bare gather", "bare scatter", "bare copy"):
        small, large = (sum(counts[size][0][stage].values()) for size in (512, 1024))
        assert 1.5 * small < large <= 2 * small


def test_a_part_is_all_that_its_body_executes(counts):
    for stage in ("bare gather", "bare scatter"):
        n = counts[512][0][stage]
        assert n["vector"] + n["scalar"] >= 3 * 512  # a place, a load and a store for each number


def test_another_system_is_refused(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(BadInput, match="needs Linux on x86-64"):
        single_step.between_clocks(lambda: None)


def test_a_call_that_reads_no_clock_is_refused(monkeypatch):
    monkeypatch.setattr(single_step, "between_clocks", lambda call: [])
    with pytest.raises(BadInput, match=f"read {2 * len(NAMES)} times, got 0"):
        cpu_limits.count(256, NAMES)
