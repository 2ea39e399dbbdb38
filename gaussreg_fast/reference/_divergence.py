"""f-divergences as functions of log-ratios, and the tilted distributions that they lead to.

Source: Tang, Zhou, arXiv 2403.06279. Ratios t = q/p are kept as logarithms, since t itself may
overflow, and differences of nearly equal numbers are written with expm1 and log1p.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import softplus

LOG_2 = math.log(2)
_ZERO = -1e4  # a finite stand-in for log 0: its exponential is 0, and 0 times it is 0, not NaN
_STEPS = 200  # far more than bisection needs for 53 bits of float64


def f_of_log(log_t: Tensor, kind: str, gamma: float) -> Tensor:
    """Return f(t) for each log t, with its limits at t = 0 and infinity; best in float64."""
    if kind == "forward_kl":
        return -log_t
    # The other kinds grow at least like t, some of them as a difference that would be inf - inf.
    beyond = log_t > 0.986 * math.log(torch.finfo(log_t.dtype).max)  # 700 for float64
    value = _FUNCTIONS[kind](torch.where(beyond, 0, log_t), gamma)
    # exp(2 log t) is inf there. Elsewhere it is exp(0): a gradient of 0 times inf would be NaN.
    return torch.where(beyond, (torch.where(beyond, log_t, 0) * 2).exp(), value)


def dual(kind: str, gamma: float) -> tuple[str, float]:
    """Return kind and gamma of the divergence with p and q exchanged: its f is t f(1 / t)."""
    names = {"kl": "forward_kl", "forward_kl": "kl", "chi2": "neyman"}
    return names.get(kind, kind), 1 - gamma


def _kl(log_t: Tensor, gamma: float) -> Tensor:
    return log_t.exp() * log_t.clamp_min(_ZERO)


def _gamma(log_t: Tensor, gamma: float) -> Tensor:
    """Return (t^(1-g) - (1-g) t - g) / (g (g-1)): a form for each half of 0 < g < 1.

    Each keeps its digits where g (or 1 - g) tends to 0.
    """
    h = 1 - gamma
    if gamma <= 0.5:
        grown = (h * log_t).exp() * torch.expm1(gamma * log_t) / gamma
        return (grown - torch.expm1(log_t)) / h
    return (torch.expm1(log_t) - torch.expm1(h * log_t) / h) / gamma


def _js(log_t: Tensor, gamma: float) -> Tensor:
    """Return t log(2 t / (1 + t)) - log((1 + t) / 2)."""
    x = log_t.clamp_min(_ZERO)
    return -x.exp() * _log_mean(-x) - _log_mean(x)


def _log_mean(x: Tensor) -> Tensor:
    """Return log((1 + e^x) / 2), with all its digits near 0."""
    small = x.clamp_max(1)
    return torch.where(x > 1, softplus(x) - LOG_2, torch.log1p(torch.expm1(small) / 2))


_FUNCTIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "kl": _kl,
    "gamma": _gamma,
    "chi2": lambda log_t, _: torch.expm1(log_t).square(),
    "neyman": lambda log_t, _: 4 * torch.sinh(log_t / 2).square(),
    "js": _js,
    "tv": lambda log_t, _: 0.5 * torch.expm1(log_t).abs(),
}


# ---------------------------------------------------------------- tilted distributions
#
# s <= 0 is a sample's reward minus the best reward of its group, divided by alpha; v >= 0 is the
# logarithm of the best sample's weight. For every kind lambda is then a function of v, and each
# sample's weight relative to the best, q in [0, 1], is a function of s and v that cannot overflow.
# The mean of the weights, e^v mean(q), is at most 1 at v = 0 and at least 1 at v = log n.


def _relative(s: Tensor, v: Tensor, kind: str, gamma: float) -> tuple[Tensor, Tensor]:
    """Return log q, and q times the derivative of v + log q by v."""
    if kind == "chi2":
        log_q = torch.log1p((0.5 * s * (-v).exp()).clamp_min(-1))
        return log_q, (log_q > -torch.inf).to(s.dtype)
    if kind == "js":
        inner = torch.log1p(-v.exp() * torch.expm1(s))
        return s - inner, (s - 2 * inner).exp()
    gamma = {"kl": 0.0, "forward_kl": 1.0}.get(kind, gamma)
    if gamma == 0:
        return s, s.exp()
    log_q = -torch.log1p(-gamma * s * (gamma * v).exp()) / gamma
    return log_q, ((1 + gamma) * log_q).exp()


def tilt(reward: Tensor, groups: Groups, kind: str, alpha: float, gamma: float) -> Tensor:
    """Return the logarithms (N,) of weights whose mean over each group is 1.

    Args:
        reward: (N,), best in float64; a reward that is not finite makes its group NaN.
        groups: the groups of the samples.
        kind: "kl", "forward_kl", "gamma", "chi2" or "js".
        alpha: temperature.
        gamma: g of the kind "gamma".
    """
    r = groups.sort(reward)
    s = (r - groups.spread(groups.reduce(r, "max"))) / alpha
    v = groups.spread(_best(s, groups, kind, gamma))
    broken = groups.spread(groups.reduce(r * 0, "sum"))
    return groups.unsort(v + _relative(s, v, kind, gamma)[0] + broken)


def _best(s: Tensor, groups: Groups, kind: str, gamma: float) -> Tensor:
    """Return v of each group, by Newton's steps on the log of the mean weight, or bisection."""
    log_n = groups.lengths.to(s.dtype).log()
    low, high = torch.zeros_like(log_n), log_n
    v, last = 0.5 * high, high
    tolerance = 4 * torch.finfo(s.dtype).eps * (1 + log_n)  # sums near log n round by as much
    for _ in range(_STEPS):
        log_q, slope = _relative(s, groups.spread(v), kind, gamma)
        total = groups.reduce(log_q.exp(), "sum")
        excess = v + total.log() - log_n
        done = ~(excess.abs() > tolerance) | ~(high - low > tolerance)  # NaN is done, too
        if bool(done.all()):
            break
        low, high = torch.where(excess < 0, v, low), torch.where(excess > 0, v, high)
        step = excess * total / groups.reduce(slope, "sum")
        newton = v - step
        # A step that leaves the bracket, or is not half the last one, is replaced by bisection.
        good = (newton >= low) & (newton <= high) & (2 * step.abs() <= last)
        following = torch.where(good, newton, 0.5 * (low + high))
        following = torch.where(done, v, following)
        last, v = (following - v).abs(), following
    return v


def weight_slope(weight: Tensor, kind: str, gamma: float) -> Tensor:
    """Return d log(weight) / d (r / alpha) at fixed lambda."""
    if kind == "kl":
        return torch.ones_like(weight)
    if kind == "forward_kl":
        return weight
    if kind == "gamma":
        return weight**gamma
    if kind == "js":
        return 1 + weight
    alive = weight > 0
    return torch.where(alive, 0.5 / torch.where(alive, weight, 1), 0)


class Groups:
    """The groups of samples, sorted so that sums have a fixed order and need no atomics."""

    def __init__(self, group: Tensor | None, samples: int, device: torch.device) -> None:
        self.order: Tensor | None = None
        if group is None:
            self.lengths = torch.tensor([samples], dtype=torch.int64, device=device)
        else:
            ordered, self.order = torch.sort(group, stable=True)
            self.lengths = torch.unique_consecutive(ordered, return_counts=True)[1]
        self.samples = samples

    def sort(self, x: Tensor) -> Tensor:
        """Sort samples by group."""
        return x if self.order is None else x[self.order]

    def unsort(self, x: Tensor) -> Tensor:
        """Undo `sort`."""
        return x if self.order is None else torch.empty_like(x).index_copy_(0, self.order, x)

    def reduce(self, x: Tensor, how: str) -> Tensor:
        """Return the "sum" or "max" of each group: (N,), sorted -> (G,)."""
        return torch.segment_reduce(x, how, lengths=self.lengths, unsafe=True)

    def spread(self, x: Tensor) -> Tensor:
        """Repeat a number per group for its samples: (G,) -> (N,), sorted."""
        return x.repeat_interleave(self.lengths, output_size=self.samples)
