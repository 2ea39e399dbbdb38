"""Random shapes, options, seeds and memory layouts, in float32, against the float64 reference."""

import math

import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import gaussreg_fast as gf
from gaussreg_fast import reference

SETTINGS = settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
LAYOUTS = ("contiguous", "transposed", "strided", "expanded", "channels_last")


@st.composite
def latents(draw):
    """A batch of float32 samples in some layout: skewed, with heavy tails."""
    batch = draw(st.integers(1, 4))
    latent = draw(
        st.one_of(
            st.tuples(st.integers(32, 200)),
            st.tuples(st.integers(2, 8), st.integers(16, 40)),
            st.tuples(st.integers(1, 4), st.integers(6, 9), st.integers(6, 9)),
        )
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    z = torch.randn(batch, *latent, generator=generator)
    x = draw(st.sampled_from((0.5, 1.0, 2.0))) * (z + 0.2 * z**3 + 0.4)
    layout = draw(st.sampled_from(LAYOUTS))
    if layout == "transposed":
        x = x.transpose(0, -1).contiguous().transpose(0, -1)
    elif layout == "strided":
        x = torch.stack([x, -x], -1)[..., 0]
    elif layout == "expanded":
        x = x[:1].expand(batch, *latent)
    elif layout == "channels_last" and x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    assume(math.prod(latent) >= 32)
    return x


@st.composite
def options(draw):
    statistic = draw(st.sampled_from(("amplitude", "amplitude", "power")))
    orders = draw(st.lists(st.integers(1, 8), min_size=1, max_size=4, unique=True))
    return {
        "orders": tuple(orders),
        "form": draw(st.sampled_from(("root", "absolute", "squared"))),
        "power_weight": draw(st.sampled_from((0.0, 1.0, 25.0))),
        "block_size": draw(st.integers(1, 16)),
        "statistic": statistic,
        "target": draw(st.sampled_from(("exact", "mpgr"))) if statistic == "amplitude" else "exact",
        "permutation": draw(st.sampled_from(("shared", "per_sample", "none", "rows"))),
        "seed": draw(st.integers(-(2**63), 2**63 - 1)),
    }


def table(mode, seed, x):
    """The permutation a call must have used, one row per sample."""
    size, batch = x[0].numel(), len(x)
    if mode == "none":
        return torch.arange(size).expand(batch, size)
    samples = batch if mode in ("per_sample", "rows") else 1
    rows = reference.permutation(torch.tensor([seed]), size, samples=samples)
    return rows.expand(batch, size)


def absolute_moments(rows, orders):
    """E|x|^n: the rounding of m_n is relative to this, not to m_n."""
    return torch.stack([rows.abs().pow(n).mean(-1) for n in orders], -1)


def conditioning(rows, m, orders, form):
    """How far rounding of the moments' terms is carried into the loss: sum_n E|x|^n |dL/dm_n|."""
    absolute = absolute_moments(rows, orders)
    mu = m.new_tensor([float(math.prod(range(1, n, 2)) * (n % 2 == 0)) for n in orders])
    if form == "root":
        n = m.new_tensor([float(n) for n in orders])
        return (absolute / m.abs() * m.abs() ** (1 / n) + mu ** (1 / n)).sum(-1)
    size = absolute + mu
    return (size * (2 * (m - mu).abs() if form == "squared" else 1)).sum(-1)


@SETTINGS
@given(latents(), options(), st.sampled_from(("none", "mean", "sum")))
def test_gaussianity_loss(compare, x, opts, reduction):
    index = table(opts["permutation"], opts["seed"], x)
    mu = reference.block_target(opts["target"], opts["statistic"])
    rows = x.reshape(len(x), -1).double()
    flags = {k: v for k, v in opts.items() if k not in ("permutation", "seed")}
    want, want_grad = reference.loss_and_gradient(rows, index, **{**flags, "target": mu})
    statistics = (opts["orders"], opts["block_size"], opts["statistic"])
    m, a, _ = reference.permuted_statistics(rows, index, *statistics)
    # Where a block meets its target the gradient jumps, and an odd root is infinitely steep.
    near = int(((a - mu).abs() <= 1e-6).sum())
    compare.leave_out("block within 1e-6 of its target", near)
    assume(near == 0)
    small = int((m.abs() <= 1e-2).sum())
    compare.leave_out("moment within 1e-2 of 0", small)
    assume(small == 0)
    # Where a loss is a small difference of large numbers, its relative error means nothing.
    magnitude = conditioning(rows, m, opts["orders"], opts["form"]) + opts["power_weight"] * mu
    cancelled = int((magnitude > 30 * want).sum())
    compare.leave_out("loss below 1/30 of its terms", cancelled)
    assume(cancelled == 0)

    given_permutation = index if opts["permutation"] == "rows" else opts["permutation"]
    call = {**opts, "permutation": given_permutation, "reduction": reduction}
    if opts["permutation"] == "rows":
        call["seed"] = None
    before = x.clone()
    z = x.detach().requires_grad_()
    value = gf.gaussianity_loss(z, **call)
    value.sum().backward()
    scale = 1.0
    if reduction != "none":
        want = want.mean() if reduction == "mean" else want.sum()
        scale = 1 / len(x) if reduction == "mean" else 1.0
    compare.values(value, want, 1e-5)
    compare.vectors(z.grad, (want_grad * scale).reshape(x.shape), 1e-4)
    assert torch.equal(x, before)

    again, grad = gf.gaussianity_value_and_grad(x, **call)
    assert torch.equal(again, value)
    torch.testing.assert_close(grad, z.grad, rtol=1e-6, atol=1e-9)


@SETTINGS
@given(latents(), options())
def test_permuted_statistics(compare, x, opts):
    names = ("orders", "block_size", "statistic", "permutation", "seed")
    call = {name: opts[name] for name in names}
    index = table(opts["permutation"], opts["seed"], x)
    if opts["permutation"] == "rows":
        call.update(permutation=index, seed=None)
    rows = x.reshape(len(x), -1).double()
    m, a, y = reference.permuted_statistics(
        rows, index, opts["orders"], opts["block_size"], opts["statistic"]
    )
    z = x.detach().requires_grad_()
    moments, amplitudes = gf.permuted_statistics(z, **call)
    scale = absolute_moments(rows, opts["orders"])
    torch.testing.assert_close(moments.double() / scale, m / scale, rtol=0, atol=1e-5)
    compare.vectors(amplitudes, a, 1e-5, "value")

    generator = torch.Generator().manual_seed(1)
    g_m, g_a = (torch.randn(t.shape, generator=generator) for t in (m, a))
    torch.autograd.backward((moments, amplitudes), (g_m, g_a))
    want = reference.permuted_statistics_pullback(
        rows, y, index, opts["orders"], opts["block_size"], opts["statistic"], g_m.double(),
        g_a.double(),
    )  # fmt: skip
    compare.vectors(z.grad, want.reshape(x.shape), 1e-4)


@SETTINGS
@given(st.integers(1, 3), st.integers(1, 12), st.integers(2, 16), st.integers(0, 2**31))
def test_projection_reaches_the_set(batch, blocks, block_size, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, 2 * blocks * block_size, generator=generator).double() ** 3
    projected = gf.project_white_noise(x, block_size=block_size)
    y = reference.compact_spectrum(projected).abs().unflatten(-1, (-1, block_size))
    ones = torch.full(y.shape[:2], block_size, dtype=torch.float64)
    torch.testing.assert_close(y.sum(-1), ones * reference.RAYLEIGH_MEAN, rtol=1e-8, atol=0)
    torch.testing.assert_close(y.square().sum(-1), ones, rtol=1e-8, atol=0)
    assert ((projected * x).sum(-1) > 0).all()
