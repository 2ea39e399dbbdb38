"""Parameter drift of DTensors, by two processes on the CPU that talk over gloo."""

import math
import os
import socket
import tempfile
import traceback
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import gaussreg_fast as gf

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="torch without gloo"
)


def full(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sharded_lists(rank):
    """Sharded evenly, unevenly and not at all, an ordinary tensor, one that rank 1 has none of."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (2,))
    layouts = [Shard(0), Shard(1), Replicate(), Shard(0), None, Shard(0)]
    shapes = [(6, 4), (3, 7), (5,), (7, 2), (4, 4), (1, 3)]
    lists = []
    for seed in (0, 100):
        whole = [full(shape, seed + i) for i, shape in enumerate(shapes)]
        placed = [
            t.clone() if layout is None else distribute_tensor(t, mesh, [layout])
            for t, layout in zip(whole, layouts, strict=True)
        ]
        lists += [whole, placed]
    whole, params, whole_base, base = lists
    return (
        [t.requires_grad_() for t in whole],
        [p.requires_grad_() for p in params],
        whole_base,
        base,
    )


def same(got, want):
    got = got.full_tensor() if hasattr(got, "full_tensor") else got
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-7)


def check_lists(rank):
    whole, params, whole_base, base = sharded_lists(rank)
    for options in ({"weight": 0.5}, {"weight": 2.0, "reduction": "tensor_mean"}):
        want, grads = gf.parameter_drift_value_and_grad(whole, whole_base, **options)
        for backend in ("auto", "torch"):
            value = gf.parameter_drift(params, base, backend=backend, **options)
            same(value, want)
            for p in params:
                p.grad = None
            (3 * value).backward()
            for p, g in zip(params, grads, strict=True):
                same(p.grad, 3 * g)
            same(gf.accumulate_parameter_drift(params, base, backend=backend, **options), want)
            for p, g in zip(params, grads, strict=True):
                same(p.grad, 4 * g)
            value, found = gf.parameter_drift_value_and_grad(params, base, **options)
            same(value, want)
            for f, p, g in zip(found, params, grads, strict=True):
                assert getattr(f, "placements", None) == getattr(p, "placements", None)
                same(f, g)
    for p in params:
        p.grad = None
    gf.accumulate_parameter_drift(params, base, weight=2.0, reduction="tensor_mean")
    for p, g in zip(params, grads, strict=True):
        same(p.grad, g)
    gf.parameter_drift_decay_(params, base, rate=0.2)
    gf.parameter_drift_decay_(whole, whole_base, rate=0.2)
    for p, w in zip(params, whole, strict=True):
        same(p.detach(), w.detach())
    half = [b.bfloat16() for b in base]
    same(
        gf.parameter_drift(params, half).detach(),
        gf.parameter_drift(whole, [b.bfloat16() for b in whole_base]).detach(),
    )


def check_refusals(rank):
    whole, params, whole_base, base = sharded_lists(rank)
    with pytest.raises(
        ValueError, match=r"params\[0\] must be sharded like its base, got .*ordinary"
    ):
        gf.parameter_drift(params, whole_base)
    with pytest.raises(ValueError, match="params 'a' must be sharded like its base"):
        gf.parameter_drift({"a": whole[0]}, {"a": base[0]})
    with pytest.raises(ValueError, match="pairs must be whole tensors for form='product'"):
        gf.lora_drift([(params[0].T, params[0])], form="product")
    from torch.distributed.tensor import DTensor, Partial

    partial = DTensor.from_local(torch.ones(3), base[0].device_mesh, [Partial()])
    with pytest.raises(ValueError, match="must not be partial sums"):
        gf.parameter_drift([partial], [partial])
    with pytest.raises(ValueError, match=r"A of pairs\[0\].* must not be partial sums"):
        gf.lora_drift([(partial.view(1, 3), partial.view(3, 1))])


def check_lora(rank):
    """Factors sharded evenly, unevenly and not at all, one of them without gradient."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (2,))
    shapes, layouts = [(3, 8), (5, 3), (2, 4), (6, 2)], [Shard(0), Shard(0), Replicate(), None]
    whole = [full(shape, i).requires_grad_(i != 2) for i, shape in enumerate(shapes)]
    placed = [
        (w.detach().clone() if layout is None else distribute_tensor(w.detach(), mesh, [layout]))
        for w, layout in zip(whole, layouts, strict=True)
    ]
    for i, p in enumerate(placed):
        p.requires_grad_(i != 2)
    for backend in ("auto", "torch"):
        value = gf.lora_drift([placed[:2], placed[2:]], weight=0.5, backend=backend)
        same(value, 0.5 * sum(w.detach().square().sum() for w in whole))
        for p in placed:
            p.grad = None
        (3 * value).backward()
        for i, (p, w) in enumerate(zip(placed, whole, strict=True)):
            if i == 2:
                assert p.grad is None
            else:
                same(p.grad, 3 * w.detach())


def check_two_dimensions(rank):
    """Replicated along one dimension of the mesh, sharded along the other."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    for sizes in ((2, 1), (1, 2)):
        mesh = init_device_mesh("cpu", sizes)
        p, b = (distribute_tensor(full((6, 3), i), mesh, [Replicate(), Shard(0)]) for i in (1, 2))
        gap = full((6, 3), 1) - full((6, 3), 2)
        value = gf.parameter_drift([p.requires_grad_()], [b])
        same(value, gap.square().sum())
        value.backward()
        same(p.grad, 2 * gap)
        same(gf.accumulate_parameter_drift([p], [b]), gap.square().sum())
        same(p.grad, 4 * gap)
        gf.parameter_drift_decay_([p], [b], rate=0.5)
        same(p.detach() - b, gap * math.exp(-1))


def check_fully_shard(rank):
    """A model under FSDP2: the same training, step by step, as one that is whole."""
    from torch.distributed.fsdp import fully_shard

    def build():
        torch.manual_seed(3)
        return torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.Tanh(), torch.nn.Linear(9, 3))

    whole, net = build(), build()
    fully_shard(net[0])
    fully_shard(net)
    drifts = [gf.ParameterDrift(m, weight=0.3) for m in (whole, net)]
    opts = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (whole, net)]
    decays = [
        gf.DriftDecay(o, m, d.base, weight=0.2)
        for o, m, d in zip(opts, (whole, net), drifts, strict=True)
    ]
    lists = [dict(m.named_parameters()) for m in (whole, net)]  # while they are sharded
    data = full((8, 6), 9)
    for turn in range(3):
        values = []
        mine = data[4 * rank : 4 * rank + 4]
        for i, (m, x) in enumerate(((whole, data), (net, mine))):
            opts[i].zero_grad()
            task = m(x).square().mean()
            if turn % 2:
                value = drifts[i](lists[i])
                (task + value).backward()
            else:
                task.backward()
                value = drifts[i].accumulate(m)
            values.append(value.detach())
            opts[i].step()
        same(values[1], values[0])
    for p, w in zip(net.parameters(), whole.parameters(), strict=True):
        same(p.detach(), w.detach())
    assert len(decays) == 2
    net(data)
    with pytest.raises(ValueError, match="while they are sharded"):
        drifts[1](net)


CHECKS = (check_lists, check_refusals, check_lora, check_two_dimensions, check_fully_shard)


def work(rank, port, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    for check in CHECKS:
        try:
            check(rank)
            outcome = ""
        except BaseException:
            outcome = traceback.format_exc()
        Path(folder, f"{check.__name__}-{rank}").write_text(outcome)
        if outcome:
            break
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def outcomes():
    """The errors of each check on each rank, all from one pair of processes."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        context = mp.get_context("spawn")
        processes = [context.Process(target=work, args=(rank, port, folder)) for rank in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(180)
        for process in processes:
            if process.is_alive():
                process.kill()
        yield {path.name: path.read_text() for path in Path(folder).iterdir()}


@pytest.mark.parametrize("check", [check.__name__ for check in CHECKS])
def test_two_processes(outcomes, check):
    for rank in range(2):
        outcome = outcomes.get(f"{check}-{rank}", "it never came to this check")
        assert not outcome, f"rank {rank}:\n{outcome}"
