"""Comparisons of a backend with the float64 reference that the tests of several backends share."""

import torch

import gaussreg_fast as gf
from gaussreg_fast import reference
from gaussreg_fast.backends.triton import parameters

MEASURES = [("amplitude", "exact"), ("amplitude", "mpgr"), ("power", "exact")]
ORDERS = [(1, 2), (8,), (3, 5), (4, 1), (2, 6, 4), (1, 2, 3, 4, 5, 6, 7, 8)]
FORMS = ["root", "absolute", "squared"]
PERMUTATIONS = ["shared", "per_sample", "none", "index", "indices"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SPLITS_OF_2048 = {
    # One program: its edge is row N1 / 2.
    "32x64": parameters.Large((8, 4, 1), (4, 4, 4), 32, 1, 1, edge_radix=2),
    # A packed column per program: no groups of samples.
    "128x16": parameters.Large((8, 8, 2), (4, 1, 4), 1, 1, 1, edge_radix=4),
    "64x32": parameters.Large((4, 4, 4), (2, 8, 2), 8, 2, 2, edge_radix=4),
}


def rounding(dtype):
    """Return a half-precision gradient's relative rounding error; tolerances cover float32's."""
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


def per_bin(blocks, block_size, bins):
    """(B, P) -> (B, bins): what a block has, for each of its bins."""
    return blocks.repeat_interleave(block_size, -1)[..., :bins]


def undecided_bins(compare, x, index, block_size, mu=None):
    """Bins (B, D // 2) in which a gradient of amplitudes may have any direction, counted.

    A bin that is 0 in exact arithmetic comes out of a transform as some 1e-8 of the sample, and
    which way it points depends on the library and the processor. Every direction of length 1 at
    most is a subgradient of |y| at 0, so none is wrong. The same holds for the sign of
    A_p - mu where a block is within 1e-6 of a target mu.
    """
    rows = rows_of(x)
    _, means, y = reference.permuted_statistics(rows, index, [], block_size, "amplitude")
    eps = torch.finfo(torch.promote_types(x.dtype, torch.float32)).eps
    size = rows.square().mean(-1, keepdim=True).sqrt()
    undecided = y.abs() < 16 * eps * size  # not where all is 0: that has the direction 0
    compare.leave_out("bin that is rounding", int(undecided.sum()))
    if mu is not None:
        near = (means - mu).abs() <= 1e-6
        compare.leave_out("block within 1e-6 of its target", int(near.sum()))
        undecided |= per_bin(near, block_size, y.shape[-1])
    return undecided


def loss_slopes(x, block_size=16, power_weight=25.0):
    """Return the `slopes` of the loss of x: |dL/dA_p| (B, P)."""
    blocks = -(-(x[0].numel() // 2) // block_size)
    return torch.full((len(x), blocks), power_weight / blocks, dtype=torch.float64)


def check_gradient(compare, x, index, got, want, tolerance, *, slopes, block_size=16, mu=None):
    """Compare gradients of block amplitudes, and of moments, by x, except in undecided bins.

    In those both must be subgradients: `slopes` are |dL/dA_p|, of which a bin gets its share,
    in a direction of length 1 at most.
    """
    undecided = undecided_bins(compare, x, index, block_size, mu)
    if undecided.any():
        dtype, bins = got.dtype, undecided.shape[1]
        got, want = rows_of(got), rows_of(want)
        size = want.shape[1]
        parts = [reference.compact_spectrum(reference.gather(g, index)) for g in (got, want)]
        # Half of the product of directions and shares, because F F^T = I / 2.
        shares = per_bin(slopes / reference.block_sizes(bins, block_size, want), block_size, bins)
        limit = 1.01 * shares + tolerance * want.norm(dim=-1, keepdim=True)
        assert ((parts[0] - parts[1]).abs() <= limit)[undecided].all(), "no subgradient"
        got, want = (
            g - 2 * reference.scatter(reference.compact_adjoint(part * undecided, size), index)
            for g, part in zip((got, want), parts, strict=True)
        )
        got = got.to(dtype)
    compare.vectors(got.flatten(1), want.flatten(1), tolerance)


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
    if flags["power_weight"] and statistic == "power":
        _, a, _ = reference.permuted_statistics(rows, index, [], flags["block_size"], statistic)
        near = int(((a - mu).abs() <= 1e-6).sum())
        compare.leave_out("block within 1e-6 of its target", near)
    want, tolerance = grad * scale, 1e-4 + rounding(x.dtype)
    for value, got in results:
        assert (value.dtype, got.dtype, got.shape) == (torch.float32, x.dtype, x.shape)
        compare.values(value, loss, 1e-5)
        if flags["power_weight"] and statistic == "amplitude":
            check_gradient(
                compare, x, index, got, want, tolerance, block_size=flags["block_size"], mu=mu,
                slopes=loss_slopes(x, flags["block_size"], flags["power_weight"] * scale),
            )  # fmt: skip
        elif not near:  # the gradient jumps there
            compare.vectors(got.flatten(1), want, tolerance)


def exact_projection(x, **options):
    """Returns the white-noise projection of x by plain torch in float64, on the CPU."""
    return gf.project_white_noise(x.cpu().double(), backend="torch", **options)


def check_statistics(
    compare, x, backend, *, kind, orders, block_size, statistic, used="both", seed=7
):
    """Compare both statistics, and x's gradient for random upstream gradients of those used."""
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
    tolerance = 1e-4 + rounding(x.dtype)
    if statistic == "amplitude":
        check_gradient(
            compare, x, index, z.grad, want, tolerance, slopes=g_a.abs(), block_size=block_size
        )
    else:  # a power has no direction
        compare.vectors(z.grad.flatten(1), want, tolerance)
