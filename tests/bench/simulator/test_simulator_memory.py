"""The memory that the simulator treats as written, and that a kernel may touch."""

import numpy as np
import pytest
import torch
from small_ptx import needs_compiler

from bench.simulator.memory import RED_ZONE, Memory

pytestmark = needs_compiler


def unwritten(memory, x):
    """Return the number of unwritten bytes of x."""
    [region] = memory.regions([x])
    assert (region.address, region.size) == (x.data_ptr(), x.numel() * x.element_size())
    return int(region.unwritten.sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64, torch.uint8])
def test_new_tensors_are_unwritten_until_the_host_writes(dtype):
    memory = Memory()
    with memory.watched():
        made = [torch.empty(5, 4, dtype=dtype), torch.empty((5, 4), dtype=dtype)]
        made += [torch.empty_like(made[0]), torch.empty_like(input=made[0], dtype=dtype)]
        made += [made[0].new_empty(5, 4), torch.empty(np.int64(20), dtype=dtype)]
    for x in made:
        assert x.dtype == dtype
        assert unwritten(memory, x) == 20 * dtype.itemsize
    made[0].zero_()
    assert unwritten(memory, made[0]) == 0
    made[1].fill_(-1 if dtype.is_signed else 255)
    assert unwritten(memory, made[1]) == 0
    made[2][1:3].zero_()
    assert unwritten(memory, made[2]) == (0 if dtype.itemsize == 1 else 12 * dtype.itemsize)


def test_random_numbers_are_written_whole():
    """One in 256 of their bytes looks like the poison."""
    memory = Memory()
    with memory.watched():
        x, layer = torch.empty(10000).normal_(), torch.nn.Linear(100, 100)
    assert unwritten(memory, x) == 0
    assert unwritten(memory, layer.weight) == 0


def test_copies_lie_between_red_zones_and_hold_their_numbers():
    memory = Memory()
    x, y = torch.randn(7), torch.arange(3)
    placed, other = memory.place(x), memory.place(y)
    assert torch.equal(placed, x)
    assert placed.data_ptr() % 256 == 0
    assert abs(placed.data_ptr() - other.data_ptr()) >= RED_ZONE
    assert [region.unwritten for region in memory.regions([placed, other])] == [None, None]


def test_regions_are_those_of_the_views_that_are_passed():
    memory = Memory()
    x = torch.zeros(8, 10)
    [region] = memory.regions([x[2:4, 3:5], 3, None, 0.5])
    assert (region.address, region.size) == (x.data_ptr() + 4 * 23, 4 * 12)
    [whole] = memory.regions([x[:5], x[3:]])  # they overlap
    assert (whole.address, whole.size) == (x.data_ptr(), 320)
    assert memory.regions([x[:0]]) == []
    memory.place(x)
    assert memory.regions([]) == []
    memory.indirect = True  # a table of addresses: anything of this memory
    assert len(memory.regions([])) == 1
