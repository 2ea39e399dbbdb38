"""The specification in code: every loss of this package in plain torch.

Short, float64-capable and slow-but-sure; the `torch` backend is this file, and every
other backend is tested against it. Shapes: `x` is `(B, D)`, one flattened sample a row,
float32 or float64; `index` is `(D,)`, `(B, D)` or None for no permutation. Nothing is
validated here (`checks.py` does that) and nothing of this package is imported.

Sources: MPGR (arXiv 2509.07027), GPER (arXiv 2602.08646), PRNO (arXiv 2405.18881),
ReNO (arXiv 2406.04312).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

EPS = 1e-12
RAYLEIGH_MEAN = math.sqrt(math.pi) / 2  # E|y| for y ~ CN(0, 1)
RAYLEIGH_VAR = 1 - math.pi / 4  # Var|y|

# ---------------------------------------------------------------- moments


def target_moment(n: int) -> int:
    """E[z^n] for z ~ N(0, 1): 0 for odd n, (n - 1)!! for even n."""
    return 0 if n % 2 else math.prod(range(1, n, 2))


def moments(x: Tensor, orders: Sequence[int]) -> Tensor:
    """m_n = mean_i x_i^n -> (B, K)."""
    powers, out = x, {}
    for n in range(1, max(orders, default=0) + 1):
        powers = x if n == 1 else powers * x
        if n in orders:
            out[n] = powers.mean(-1)
    return torch.stack([out[n] for n in orders], -1) if out else x.new_empty((*x.shape[:-1], 0))


def moments_pullback(x: Tensor, orders: Sequence[int], grad_m: Tensor) -> Tensor:
    """sum_n grad_m[:, n] * n x^(n-1) / D, by Horner's rule."""
    coefficient = {n: grad_m[..., k, None] * (n / x.shape[-1]) for k, n in enumerate(orders)}
    grad: Tensor | None = None
    for n in range(max(orders), 0, -1):
        if grad is not None:
            grad = grad * x
        if n in coefficient:
            grad = coefficient[n] if grad is None else grad + coefficient[n]
    assert grad is not None
    return grad.expand_as(x)


def moment_terms(
    m: Tensor, orders: Sequence[int], form: str, dimension: int
) -> tuple[Tensor, Tensor]:
    """Loss (B,) of the moments m (B, K), and its gradient by m (B, K).

    `form`: "root", "absolute", "squared" (MPGR's loss of each order, summed), or one of the
    older regularisers, which are functions of the same moments: "kl" (orders 1, 2),
    "kurtosis" (2, 4), "norm" (2).
    """
    if form == "kl":
        m1, m2 = m.unbind(-1)
        raw = m2 - m1 * m1
        v = raw.clamp_min(EPS)
        slope = torch.where(raw > EPS, 1 - 1 / v, raw * 0)
        return 0.5 * (v + m1 * m1 - 1 - v.log()), torch.stack([m1 - m1 * slope, 0.5 * slope], -1)
    if form == "kurtosis":
        m2, m4 = m[..., 0].clamp_min(EPS), m[..., 1]
        gap = m4 / m2**2 - 3
        return gap**2, torch.stack([-4 * gap * m4 / m2**3, 2 * gap / m2**2], -1)
    if form == "norm":
        m2 = m[..., 0].clamp_min(EPS)
        loss = 0.5 * dimension * m2 - 0.5 * (dimension - 1) * (dimension * m2).log()
        return loss, 0.5 * (dimension - (dimension - 1) / m2)[..., None]
    terms = [order_term(mn, n, form) for mn, n in zip(m.unbind(-1), orders, strict=True)]
    if not terms:
        return m.sum(-1), m
    losses, grads = zip(*terms, strict=True)
    return torch.stack(losses, -1).sum(-1), torch.stack(grads, -1)


def order_term(m: Tensor, n: int, form: str) -> tuple[Tensor, Tensor]:
    """Loss (B,) of the moment of order n, and its derivative by m."""
    mu = float(target_moment(n))
    if form == "absolute":
        return (m - mu).abs(), (m - mu).sign()
    if form == "squared":
        return (m - mu) ** 2, 2 * (m - mu)
    gap = m.abs() ** (1 / n) - mu ** (1 / n)
    return gap.abs(), gap.sign() * m.sign() * m.abs().clamp_min(EPS) ** (1 / n - 1) / n


# ---------------------------------------------------------------- permutation v1

GOLDEN = 0x9E3779B97F4A7C15
STREAM = 0xD1B54A32D192ED03
MASK32 = 0xFFFFFFFF


def _signed(z: int) -> int:
    return (z + (1 << 63)) % (1 << 64) - (1 << 63)


def _mix64(z: Tensor) -> Tensor:
    """The finaliser of splitmix64, on int64 tensors that stand for 64 unsigned bits."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        z = (z ^ ((z >> shift) & ((1 << (64 - shift)) - 1))) * _signed(factor)
    return z


def permutation(
    seed: Tensor, size: int, *, samples: int | None = None, inverse: bool = False
) -> Tensor:
    """Permutation v1: a keyed bijection of 0..size-1, the same on every device, for ever.

    A Feistel network on max(2, ceil(log2 size)) bits, bits // 2 of them the low half, with 12
    rounds (24 below 6 bits) and cycle walking where `size` is not a power of two. A round xors
    into one half, the high one first, the uppermost bits of (other half * multiplier + addend)
    mod 2^32. Both come from a splitmix64 word of the seed and the sample's number: the
    multiplier is its high part made odd, the addend its low part.

    Args:
        seed: int64, one element.
        size: D, at most 2^31.
        samples: None for the one shared permutation, (D,); a number for one permutation per
            sample, (samples, D). Row 0 is the shared permutation.
        inverse: the inverse permutation(s) instead.
    """
    bits = max(2, (size - 1).bit_length())
    low = bits // 2
    high = bits - low
    rounds = 12 if bits > 5 else 24
    number = torch.arange(samples or 1, device=seed.device)
    state = _mix64(seed.reshape(()) + _signed(GOLDEN)) + number * _signed(STREAM)
    words = [_mix64(state + _signed((r + 1) * GOLDEN))[:, None] for r in range(rounds)]

    def network(value: Tensor) -> Tensor:
        left, right = value >> low, value & ((1 << low) - 1)
        for r in range(rounds)[:: -1 if inverse else 1]:
            factor, addend = ((words[r] >> 32) & MASK32) | 1, words[r] & MASK32
            if r % 2 == 0:
                left = left ^ (((right * factor + addend) & MASK32) >> (32 - high))
            else:
                right = right ^ (((left * factor + addend) & MASK32) >> (32 - low))
        return (left << low) | right

    value = network(torch.arange(size, device=seed.device).expand(len(number), size))
    if size != 1 << bits:
        while bool((outside := value >= size).any()):
            value = torch.where(outside, network(value), value)
    return value[0] if samples is None else value


def gather(x: Tensor, index: Tensor | None) -> Tensor:
    """xp[j] = x[index[j]]."""
    if index is None:
        return x
    return x.index_select(1, index) if index.dim() == 1 else x.gather(1, index)


def scatter(g: Tensor, index: Tensor | None) -> Tensor:
    """The transpose of `gather`: out[index[j]] = g[j]."""
    if index is None:
        return g
    return torch.empty_like(g).scatter_(1, index.expand_as(g), g)


# ---------------------------------------------------------------- compact spectrum


def compact_spectrum(xp: Tensor) -> Tensor:
    """D reals -> D // 2 complex numbers y, all CN(0, 1) when x is white noise (GPER).

    For even D the real DC and Nyquist bins share y_0; for odd D the DC bin is left out.
    """
    dimension = xp.shape[-1]
    spectrum = torch.fft.rfft(xp, norm="ortho")
    if dimension % 2:
        return spectrum[..., 1:]
    first = torch.complex(spectrum[..., :1].real, spectrum[..., -1:].real) / math.sqrt(2)
    return torch.cat([first, spectrum[..., 1:-1]], -1)


def compact_adjoint(v: Tensor, dimension: int) -> Tensor:
    """F^T: sum_k Re(conj(v_k) dy_k) as a gradient by x. Half the inverse map when D is even."""
    if dimension % 2:
        half = torch.cat([torch.zeros_like(v[..., :1]), v / 2], -1)
    else:
        # irfft counts each inner bin twice (with its mirror), DC and Nyquist once.
        ends = torch.stack([v[..., 0].real, v[..., 0].imag], -1) / math.sqrt(2)
        ends = torch.complex(ends, torch.zeros_like(ends))
        half = torch.cat([ends[..., :1], v[..., 1:] / 2, ends[..., 1:]], -1)
    return torch.fft.irfft(half, n=dimension, norm="ortho")


def block_sizes(bins: int, block_size: int, like: Tensor) -> Tensor:
    """n_p: block_size, except for a shorter last block -> (P,)."""
    blocks = -(-bins // block_size)
    sizes = like.new_full((blocks,), float(block_size))
    if bins % block_size:
        sizes[-1] = float(bins % block_size)
    return sizes


def block_means(a: Tensor, block_size: int) -> Tensor:
    """(B, bins) -> (B, P): mean over blocks of contiguous bins, a short last one over its own."""
    bins = a.shape[-1]
    padded = torch.nn.functional.pad(a, (0, -bins % block_size))
    sums = padded.unflatten(-1, (-1, block_size)).sum(-1)
    return sums / block_sizes(bins, block_size, a)


def block_target(target: str, statistic: str) -> float:
    """What a block mean ought to be: sqrt(pi)/2, the 0.875 MPGR prints, or 1 for the power."""
    if statistic == "power":
        return 1.0
    return 0.875 if target == "mpgr" else RAYLEIGH_MEAN


# ---------------------------------------------------------------- statistics and losses


def permuted_statistics(
    x: Tensor, index: Tensor | None, orders: Sequence[int], block_size: int, statistic: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Moments (B, K), block amplitudes (B, P) and the compact spectrum (B, D // 2) of them.

    `block_size` 0 leaves the spectrum out: P = 0.
    """
    if block_size == 0:
        empty = x.new_empty((x.shape[0], 0))
        return moments(x, orders), empty, torch.complex(empty, empty)
    y = compact_spectrum(gather(x, index))
    a = y.abs() if statistic == "amplitude" else y.real**2 + y.imag**2
    return moments(x, orders), block_means(a, block_size), y


def permuted_statistics_pullback(
    x: Tensor,
    y: Tensor,
    index: Tensor | None,
    orders: Sequence[int],
    block_size: int,
    statistic: str,
    grad_m: Tensor,
    grad_a: Tensor,
) -> Tensor:
    """The gradient by x (B, D) for upstream gradients (B, K) and (B, P), by hand."""
    grad = moments_pullback(x, orders, grad_m) if orders else None
    if block_size:
        bins = y.shape[-1]
        w = grad_a / block_sizes(bins, block_size, grad_a)
        w = w[..., None].expand(*w.shape, block_size).flatten(-2)[..., :bins]
        direction = torch.sgn(y) if statistic == "amplitude" else 2 * y
        spectral = scatter(compact_adjoint(w * direction, x.shape[-1]), index)
        grad = spectral if grad is None else grad + spectral
    return torch.zeros_like(x) if grad is None else grad


def loss_and_gradient(
    x: Tensor,
    index: Tensor | None,
    *,
    orders: Sequence[int] = (1, 2),
    form: str = "root",
    power_weight: float = 25.0,
    block_size: int = 16,
    target: float = RAYLEIGH_MEAN,
    statistic: str = "amplitude",
    with_gradient: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """L = sum_n L_n + power_weight * mean_p |A_p - target| -> (B,), and dL/dx (B, D).

    The one loss behind all the public ones: power_weight 0 leaves the spectrum out,
    no orders leave the moments out.
    """
    block_size = block_size if power_weight else 0
    m, a, y = permuted_statistics(x, index, orders, block_size, statistic)
    loss, grad_m = moment_terms(m, orders, form, x.shape[-1])
    grad_a = a
    if block_size:
        loss = loss + power_weight * (a - target).abs().mean(-1)
        grad_a = (a - target).sign() * (power_weight / a.shape[-1])
    loss = loss + 0 * x.sum(-1)  # NaN for a sample that holds inf, whatever the options
    if not with_gradient:
        return loss, None
    return loss, permuted_statistics_pullback(
        x, y, index, orders, block_size, statistic, grad_m, grad_a
    )


def full_power_spectrum_loss(
    x: Tensor, index: Tensor | None, block_size: int = 16, target: float = 0.875
) -> Tensor:
    """MPGR's text to the letter: blocks over all D mirrored bins, DC included -> (B,).

    Kept for comparison with the paper; the package's own loss uses the compact spectrum.
    """
    a = torch.fft.fft(gather(x, index), norm="ortho").abs()
    return (block_means(a, block_size) - target).abs().mean(-1)


# ---------------------------------------------------------------- the O(n^2) peers

LAGS_AT_ONCE = 128


def circular_windows(xp: Tensor, first: int, last: int) -> Tensor:
    """xp rolled by every lag in first..last-1, without a copy -> (B, last - first, D)."""
    doubled = torch.cat([xp, xp[..., : last - 1]], -1)
    return doubled.unfold(-1, xp.shape[-1], 1)[:, first:last]


def autocovariance(xp: Tensor) -> Tensor:
    """C(t) = mean_j xp_j xp_{j + t mod D} for t = 0..D // 2, directly -> (B, D // 2 + 1).

    The other lags are the same numbers: C(D - t) = C(t).
    """
    half = xp.shape[-1] // 2 + 1
    parts = [
        (circular_windows(xp, t, min(t + LAGS_AT_ONCE, half)) @ xp[..., None])[..., 0]
        for t in range(0, half, LAGS_AT_ONCE)
    ]
    return torch.cat(parts, -1) / xp.shape[-1]


def lag_weights(dimension: int, like: Tensor) -> Tensor:
    """How much of mean_{t > 0} |C(t)| each lag 0..D // 2 stands for."""
    weights = like.new_full((dimension // 2 + 1,), 2.0)
    weights[0] = 0.0
    if dimension % 2 == 0:
        weights[-1] = 1.0
    return weights / (dimension - 1)


def covariance_terms(c: Tensor, dimension: int) -> tuple[Tensor, Tensor]:
    """|C(0) - 1| + mean_{t > 0} |C(t)| -> (B,), and its gradient by c."""
    weights = lag_weights(dimension, c)
    gap = c[..., :1] - 1
    loss = gap.abs()[..., 0] + (weights * c.abs()).sum(-1)
    grad = weights * c.sign()
    return loss, torch.cat([gap.sign(), grad[..., 1:]], -1)


def autocovariance_pullback(xp: Tensor, grad_c: Tensor) -> Tensor:
    """sum_t grad_c[t] (xp_{j+t} + xp_{j-t}) / D -> (B, D)."""
    half = grad_c.shape[-1]
    mirrored = xp.flip(-1)
    forward = backward = torch.zeros_like(xp)
    for t in range(0, half, LAGS_AT_ONCE):
        last = min(t + LAGS_AT_ONCE, half)
        g = grad_c[:, None, t:last]
        forward = forward + (g @ circular_windows(xp, t, last))[:, 0]
        backward = backward + (g @ circular_windows(mirrored, t, last))[:, 0]
    return (forward + backward.flip(-1)) / xp.shape[-1]


def prno_log_probability(v: Tensor) -> Tensor:
    """PRNO's two concentration bounds for rows v (..., m, k), summed -> (...)."""
    m, k = v.shape[-2:]
    m1_squared = v.mean(-2).square().sum(-1)
    gram = v.mT @ v / m - torch.eye(k, dtype=v.dtype, device=v.device)
    # The eigenvalue solver fails as a whole on one NaN: keep it to its own sample.
    finite = gram.isfinite().all(-1).all(-1)
    eigenvalues = torch.linalg.eigvalsh(torch.where(finite[..., None, None], gram, 0))
    m2 = torch.where(finite, eigenvalues.abs().amax(-1), torch.nan)
    log_p1 = -m * m1_squared / (2 * k)
    excess = ((1 + m2).sqrt() - 1 - math.sqrt(k / m)).clamp_min(0)
    log_p2 = -m * excess**2 / 2
    return log_p1.clamp_max(-math.log(2)) + log_p2.clamp_max(-math.log(2))


def prno_loss(x: Tensor, shuffles: Tensor, factor: int) -> Tensor:
    """Minus the log-probability of x as it is, plus minus its mean over (S, D) shuffles -> (B,)."""
    plain = prno_log_probability(x.unflatten(-1, (-1, factor)))
    if len(shuffles) == 0:
        return -plain
    shuffled = prno_log_probability(x[:, shuffles].unflatten(-1, (-1, factor)))
    return -(plain + shuffled.mean(-1))


# ---------------------------------------------------------------- white-noise projection


def project_white_noise(x: Tensor, block_size: int = 16) -> Tensor:
    """The nearest x whose every block has ||y||_1 = sqrt(pi)/2 b and ||y||_2^2 = b (GPER).

    Within a block: y' ~ relu(|y| - lam) in the direction of y, scaled to the 1-norm. The
    result does not change when all magnitudes are shifted or scaled, so the threshold is
    solved for w = (|y| - max) / spread, which loses no digits to cancellation.
    """
    b, g = block_size, math.pi / 4
    y = compact_spectrum(x).unflatten(-1, (-1, b))
    magnitude = y.abs()
    tiny = torch.finfo(x.dtype).tiny
    # A zero has no direction: any will do, the constraints are on magnitudes only.
    direction = torch.where(magnitude > 0, torch.sgn(y), torch.ones_like(y))
    descending, order = torch.sort(magnitude, dim=-1, descending=True, stable=True)
    top = descending[..., :1]
    j_min = math.floor(g * b) + 1  # fewer than that cannot satisfy both norms
    spread = top - descending[..., j_min - 1 : j_min]
    floor = top * (16 * torch.finfo(x.dtype).eps)
    tied = spread <= floor
    w = (descending - top) / torch.where(tied, floor.clamp_min(tiny), spread)
    # Ties at the maximum have no unique nearest point; a ramp picks one.
    w = torch.where(tied, w - torch.arange(b, dtype=x.dtype, device=x.device) / j_min, w)

    j = torch.arange(1, b + 1, dtype=x.dtype, device=x.device)
    s1, s2 = w.cumsum(-1), (w * w).cumsum(-1)
    room = torch.where(j > g * b, j - g * b, torch.inf)
    lam = (s1 - (g * b * (j * s2 - s1 * s1).clamp_min(0) / room).sqrt()) / j
    below = torch.nn.functional.pad(w[..., 1:], (0, 1), value=-torch.inf)
    violation = (below - lam).clamp_min(0) + (lam - w).clamp_min(0)
    violation = torch.where(j > g * b, violation, torch.inf)
    k = violation.argmin(-1, keepdim=True)  # the unique valid one, whatever the rounding
    excess = (w - lam.gather(-1, k)).clamp_min(0)
    solved = math.sqrt(g) * b * excess / excess.sum(-1, keepdim=True)
    solved = torch.empty_like(solved).scatter_(-1, order, solved)
    return 2 * compact_adjoint((solved * direction).flatten(-2), x.shape[-1])
