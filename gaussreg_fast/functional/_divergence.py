"""f-divergences from log-ratios, and the surrogate rewards of regularisation by them."""

from __future__ import annotations

import torch
from torch import Tensor

from gaussreg_fast import checks, ops, reference
from gaussreg_fast.functional._common import reduce


def f_divergence(
    log_ratio: Tensor,
    kind: str,
    *,
    gamma: float = 0.5,
    samples: str = "p",
    reduction: str = "mean",
) -> Tensor:
    """`D_f(q || p) = E_p[f(q / p)]`, estimated without bias from samples (arXiv 2403.06279).

    | kind | f(t) |
    | --- | --- |
    | "kl" | t log t |
    | "forward_kl" | -log t |
    | "gamma" | (t^(1-g) - (1-g) t - g) / (g (g-1)), 0 < g < 1 |
    | "chi2" | (t - 1)^2 |
    | "js" | t log t - (1 + t) log((1 + t) / 2) |
    | "tv" | abs(t - 1) / 2 |

    The mean of f(q/p) over samples of p (`samples="p"`, the pretrained model), or of
    f(q/p) p/q over samples of q (`samples="q"`, the fine-tuned one). Either is unbiased where both
    densities are normalised and positive at the same places; a single term may be negative for
    "kl" and "forward_kl". With samples of p, which do not depend on what is trained, the
    gradient is unbiased as well. With samples of q only the value is: E_q also depends on q through
    the samples (for "kl" the mean of the log-ratio's gradients has expectation 0), so train with
    `path_kl`, a score-function estimator, or samples of p.

    Args:
        log_ratio: log q/p of samples, any shape. Computed in float64, in logarithms: values of
            +-500 lose no digits, and a result beyond the dtype's range is inf. -inf, a sample that
            q never gives, has its limit.
        kind: see above.
        gamma: g, of kind "gamma"; to 0 it becomes "kl" (t log t - t + 1 term by term), to 1
            "forward_kl" (t - 1 - log t).
        samples: "p" or "q", whom the samples come from.
        reduction: "mean", the estimate; "sum"; or "none", the terms in log_ratio's shape.

    Returns:
        In nats, float32 (float64 for float64), 0 for the mean of none; differentiable.

    Raises:
        TypeError: log_ratio is not a dense floating-point tensor.
        ValueError: any other argument out of range.
    """
    checks.floating("log_ratio", log_ratio)
    checks.one_of("kind", kind, checks.KINDS)
    checks.one_of("samples", samples, checks.SAMPLES)
    checks.one_of("reduction", reduction, checks.REDUCTIONS)
    gamma = checks.strictly_between("gamma", gamma, 0, 1)
    log_t = log_ratio.double()
    if samples == "q":
        kind, gamma = reference.dual(kind, gamma)
        log_t = -log_t
    terms = reference.f_of_log(log_t, kind, gamma)
    result = terms if reduction == "none" else reduce(terms.flatten(), reduction)
    return result.to(torch.float64 if log_ratio.dtype == torch.float64 else torch.float32)


def surrogate_reward(
    reward: Tensor,
    kind: str,
    *,
    alpha: float,
    gamma: float = 0.5,
    group: Tensor | None = None,
) -> Tensor:
    """The reward whose KL-regularised optimum is the f-regularised one of `reward`.

    `max_q E_q[r] - alpha D_f(q || p)` is solved by `q/p = w = (f')^{-1}((r - lambda) / alpha)`,
    with lambda such that q is normalised, and so is `max_q E_q[rt] - alpha KL(q || p)` with the
    surrogate reward `rt = alpha log w`, which this returns (Tang and Zhou, arXiv 2403.06279). The
    samples of a group stand for p: lambda makes the mean of w = exp(rt / alpha) over each group 1.

    | kind | rt | lambda |
    | --- | --- | --- |
    | "kl" | r - lambda - alpha | any does; normalised like the others |
    | "forward_kl" | -alpha log((lambda - r) / alpha) | above the largest r |
    | "gamma" | -(alpha/g) log(1 - g (r - lambda) / alpha) | above the largest r minus alpha/g |
    | "chi2" | alpha log(1 + (r - lambda) / (2 alpha)), -inf where clipped | |
    | "js" | (r - lambda) - alpha log(2 - exp((r - lambda) / alpha)) | r - lambda < alpha log 2 |

    "gamma" leads from "kl" (g to 0) to "forward_kl" (g to 1): the larger g, the heavier the
    weights of poor samples, the more of the pretrained model's diversity stays. There is no "tv":
    its f' takes three values and has no inverse.

    It is a handful of operations on N numbers, so there is one implementation, in torch, for all
    devices; it asks the device when the roots are found and cannot be captured in a CUDA graph.

    Args:
        reward: `(N,)`, rewards of samples drawn from p, the pretrained model. Computed in float64.
            One that is not finite makes its group NaN.
        kind: see above.
        alpha: temperature, above 0.
        gamma: g, of kind "gamma".
        group: int tensor `(N,)`, a number for each prompt, in any order; lambda is solved for each
            by itself. None: all samples are of one prompt.

    Returns:
        `(N,)` in reward's dtype, increasing in the reward within a group. Differentiable, twice
        too; the dependence of lambda on the group's rewards is included (a clipped sample has
        gradient 0). `(rt / alpha).exp() / n` are the weights of the tilted distribution.

    Raises:
        TypeError: reward is not a dense floating-point tensor, or group not an integer one.
        ValueError: any other argument out of range, kind "tv" among them.
    """
    if kind == "tv":
        raise ValueError(
            "kind must have a surrogate reward, got 'tv': total variation's f(t) = |t - 1| / 2 has "
            "a derivative of three values, which cannot be inverted; f_divergence has its value"
        )
    checks.rewards(reward, group)
    checks.one_of("kind", kind, checks.KINDS[:-1])
    alpha = checks.strictly_between("alpha", alpha, 0, float("inf"))
    gamma = checks.strictly_between("gamma", gamma, 0, 1)
    return (alpha * ops.tilt(reward, group, kind, alpha, gamma)).to(reward.dtype)
