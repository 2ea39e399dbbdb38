"""Comparisons of a backend with the float64 reference that the tests of several backends share."""

import math

import numpy as np
import torch

import gaussreg_fast as gf
from gaussreg_fast import config, reference

MEASURES = [("amplitude", "exact"), ("amplitude", "mpgr"), ("power", "exact")]
ORDERS = [(1, 2), (8,), (3, 5), (4, 1), (2, 6, 4), (1, 2, 3, 4, 5, 6, 7, 8)]
FORMS = ["root", "absolute", "squared"]
PERMUTATIONS = ["shared", "per_sample", "none", "index", "indices"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SPLITS_OF_2048 = {
    "32x64": config.Large((8, 4, 1), (4, 4, 4), 32, 1, 1),  # one program: its edge is row N1 / 2
    "128x16": config.Large((8, 8, 2), (4, 1, 4), 1, 1, 1),  # a packed column per program
    "64x32": config.Large((4, 4, 4), (2, 8, 2), 8, 2, 2),
}


def noise(*shape, seed=0, dtype=torch.float32):
    """Off its mean and scale: no loss is near its minimum, no odd moment near 0."""
    z = np.random.default_rng(seed + 1000 * math.prod(shape[1:])).standard_normal(shape)
    # High powers of heavy tails have gradients that float16 does not hold.
    z = z + 0.2 * z**3 + 0.4 if dtype == torch.float32 else 0.6 * z + 0.4
    return torch.from_numpy(z).to(dtype)


def rounding(dtype):
    """Of a gradient in half precision, relative; float32's is within every tolerance."""
    return 0.0 if dtype == torch.float32 else torch.finfo(dtype).eps


def rows_of(x):
    """Flat samples in float64, on the CPU."""
    return x.detach().cpu().double().flatten(1)


def permutation_of(kind, x, seed):
    """The argument of a call, and the index (B, D) that it stands for."""
    batch, size = len(x), x[0].numel()
    if kind == "none":
        return kind, None
    samples = batch if kind in ("per_sample", "indices") else 1
    rows = reference.permutation(torch.tensor([seed]), size, samples=samples).expand(batch, size)
    if kind == "index":
        return rows[0].int().to(x.device), rows
    return (rows.to(x.device), rows) if kind == "indices" else (kind, rows)


def check_loss(
    compare, x, backend, *, kind="shared", measure=MEASURES[0], reduction="none", call="both",
    seed=5, **options,
):  # fmt: skip
    """The loss and its gradient: by autograd ("loss"), without ("value_and_grad"), or both."""
    argument, index = permutation_of(kind, x, seed)
    statistic, target = measure
    mu = reference.block_target(target, statistic)
    flags = {"orders": (1, 2), "form": "root", "power_weight": 25.0, "block_size": 16, **options}
    rows = rows_of(x)
    loss, grad = reference.loss_and_gradient(rows, index, target=mu, statistic=statistic, **flags)
    scale = 1 / len(x) if reduction == "mean" else 1.0
    loss = loss if reduction == "none" else loss.sum() * scale
    public = {
        "statistic": statistic, "target": target, "permutation": argument, "seed": seed,
        "reduction": reduction, "backend": backend, **flags,
    }  # fmt: skip
    results = []
    if call in ("loss", "both"):
        z = x.detach().requires_grad_()
        value = gf.gaussianity_loss(z, **public)
        value.sum().backward()
        results.append((value.detach(), z.grad))
    if call in ("value_and_grad", "both"):
        results.append(gf.gaussianity_value_and_grad(x, **public))
    if call == "both":
        assert torch.equal(results[0][0], results[1][0])
        assert torch.equal(gf.gaussianity_loss(x, **public), value)  # without gradient: the same
        tolerance = {"rtol": 2e-7 + 2 * rounding(x.dtype), "atol": 1e-7}
        torch.testing.assert_close(results[0][1], results[1][1], **tolerance)
    near = 0
    if flags["power_weight"]:
        _, a, _ = reference.permuted_statistics(rows, index, [], flags["block_size"], statistic)
        near = int(((a - mu).abs() <= 1e-6).sum())
        compare.leave_out("block within 1e-6 of its target", near)
    for value, got in results:
        assert (value.dtype, got.dtype, got.shape) == (torch.float32, x.dtype, x.shape)
        compare.values(value, loss, 1e-5)
        if not near:  # the gradient jumps there
            compare.vectors(got, (grad * scale).reshape(x.shape), 1e-4 + rounding(x.dtype))


def check_statistics(
    compare, x, backend, *, kind, orders, block_size, statistic, used="both", seed=7
):
    """Both statistics, and the gradient by x for random upstream gradients of those used."""
    argument, index = permutation_of(kind, x, seed)
    rows = rows_of(x)
    m, a, y = reference.permuted_statistics(rows, index, orders, block_size, statistic)
    z = x.detach().requires_grad_()
    outputs = gf.permuted_statistics(
        z, orders=orders, block_size=block_size, statistic=statistic, permutation=argument,
        seed=seed, backend=backend,
    )  # fmt: skip
    for got, want in zip(outputs, (m, a), strict=True):
        assert got.dtype == torch.float32
        compare.vectors(got, want, 1e-5, "value")
    generator = torch.Generator().manual_seed(1)
    upstream = [torch.randn(t.shape, generator=generator).to(x.device) for t in (m, a)]
    chosen = {"both": (0, 1), "moments": (0,), "amplitudes": (1,)}[used]
    before = [g.clone() for g in upstream]
    torch.autograd.backward([outputs[i] for i in chosen], [upstream[i] for i in chosen])
    assert all(torch.equal(g, b) for g, b in zip(upstream, before, strict=True))
    g_m, g_a = (g.cpu().double() * (i in chosen) for i, g in enumerate(upstream))
    want = reference.permuted_statistics_pullback(
        rows, y, index, orders, block_size, statistic, g_m, g_a
    )
    compare.vectors(z.grad, want.reshape(x.shape), 1e-4 + rounding(x.dtype))
