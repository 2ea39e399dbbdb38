"""f-divergences from log-ratios, and the surrogate rewards of regularisation by them."""

from __future__ import annotations

from torch import Tensor

from gaussreg_fast import _path_checks, _precision, checks, ops, reference
from gaussreg_fast.functional._common import reduce


def f_divergence(
    log_ratio: Tensor,
    kind: str,
    *,
    gamma: float = 0.5,
    samples: str = "p",
    reduction: str = "mean",
) -> Tensor:
    """Return an unbiased estimate of `D_f(q || p) = E_p[f(q / p)]` (arXiv 2403.06279).

    | kind | f(t) |
    | --- | --- |
    | "kl" | t log t |
    | "forward_kl" | -log t |
    | "gamma" | (t^(1-g) - (1-g) t - g) / (g (g-1)), 0 < g < 1 |
    | "chi2" | (t - 1)^2 |
    | "js" | t log t - (1 + t) log((1 + t) / 2) |
    | "tv" | abs(t - 1) / 2 |

    The estimate is the mean of f(q/p) over samples of p (`samples="p"`, the pretrained model), or
    of f(q/p) p/q over samples of q (`samples="q"`, the fine-tuned model). Both are unbiased if both
    densities are normalised and positive at the same places; a single term may be negative for
    "kl" and "forward_kl". With samples of p, which do not depend on the trained q, the gradient is
    unbiased as well. With samples of q only the value is: E_q also depends on q through the
    samples (for "kl" the mean of the log-ratio's gradients has expectation 0), so train with
    `path_kl`, a score-function estimator, or samples of p.

    Args:
        log_ratio: log q/p of samples, any shape. It is computed in float64 and in logarithms:
            values of +-500 lose no digits, and a result beyond the dtype's range is inf. For -inf,
            a sample of probability 0 under q, the term is its limit. A device without float64
            computes in float32, with fewer digits near 0, where terms cancel.
        kind: a kind of the table above.
        gamma: g of the kind "gamma". For g -> 0 it becomes "kl" (t log t - t + 1 term by term),
            for g -> 1 "forward_kl" (t - 1 - log t).
        samples: "p" or "q": the distribution that the samples come from.
        reduction: "mean", the estimate; "sum"; or "none", the terms in log_ratio's shape.

    Returns:
        The estimate in nats, float32 (float64 for float64), 0 for the mean of no samples;
        differentiable.

    Raises:
        TypeError: log_ratio is not a dense floating-point tensor.
        ValueError: any other argument is out of range.
    """
    checks.floating("log_ratio", log_ratio)
    checks.one_of("kind", kind, checks.KINDS)
    checks.one_of("samples", samples, checks.SAMPLES)
    checks.one_of("reduction", reduction, checks.REDUCTIONS)
    gamma = checks.strictly_between("gamma", gamma, 0, 1)
    log_t = log_ratio.to(_precision.exact_dtype(log_ratio.device))
    if samples == "q":
        kind, gamma = reference.dual(kind, gamma)
        log_t = -log_t
    terms = reference.f_of_log(log_t, kind, gamma)
    result = terms if reduction == "none" else reduce(terms.flatten(), reduction)
    return result.to(checks.result_dtype(log_ratio))


def surrogate_reward(
    reward: Tensor,
    kind: str,
    *,
    alpha: float,
    gamma: float = 0.5,
    group: Tensor | None = None,
) -> Tensor:
    """Return the reward whose KL-regularised optimum is the f-regularised optimum of `reward`.

    `max_q E_q[r] - alpha D_f(q || p)` is solved by `q/p = w = (f')^{-1}((r - lambda) / alpha)`,
    where lambda normalises q. The same q solves `max_q E_q[rt] - alpha KL(q || p)` with the
    surrogate reward `rt = alpha log w`, the result (Tang and Zhou, arXiv 2403.06279). The samples
    of a group stand for p: lambda makes the mean of w = exp(rt / alpha) over each group 1.

    | kind | rt | lambda |
    | --- | --- | --- |
    | "kl" | r - lambda - alpha | any; normalised like the other kinds |
    | "forward_kl" | -alpha log((lambda - r) / alpha) | above the largest r |
    | "gamma" | -(alpha/g) log(1 - g (r - lambda) / alpha) | above the largest r minus alpha/g |
    | "chi2" | alpha log(1 + (r - lambda) / (2 alpha)), -inf where clipped | |
    | "js" | (r - lambda) - alpha log(2 - exp((r - lambda) / alpha)) | r - lambda < alpha log 2 |

    "gamma" leads from "kl" (g -> 0) to "forward_kl" (g -> 1): a larger g gives poor samples more
    weight and keeps more of the pretrained model's diversity. There is no "tv", because its f'
    takes three values and has no inverse.

    The reward takes a handful of operations on N numbers, so all devices share one implementation,
    in torch. It waits for the device to learn whether the roots are found, so it cannot be captured
    in a CUDA graph.

    Args:
        reward: `(N,)`, rewards of samples drawn from p, the pretrained model. They are computed in
            float64, or in float32 on a device without float64. A reward that is not finite makes
            its group NaN.
        kind: a kind of the table above.
        alpha: temperature, above 0.
        gamma: g of the kind "gamma".
        group: int tensor `(N,)`, the number of each sample's prompt, in any order; lambda is solved
            for each group by itself. None if all samples are of one prompt.

    Returns:
        `(N,)` in reward's dtype, increasing in the reward within a group. Differentiable, also
        twice; the gradient includes how lambda depends on the group's rewards (a clipped sample has
        gradient 0). `(rt / alpha).exp() / n` are the weights of the tilted distribution.

    Raises:
        TypeError: reward is not a dense floating-point tensor, or group not an integer one.
        ValueError: any other argument is out of range, or kind is "tv".
    """
    checks.one_of("kind", kind, checks.KINDS)
    if kind == "tv":
        raise ValueError(
            "kind must have a surrogate reward, got 'tv': total variation's f(t) = |t - 1| / 2 has "
            "a derivative of three values, which cannot be inverted; f_divergence has its value"
        )
    _path_checks.rewards(reward, group)
    alpha = checks.strictly_between("alpha", alpha, 0, float("inf"))
    gamma = checks.strictly_between("gamma", gamma, 0, 1)
    exact = reward.to(_precision.exact_dtype(reward.device))
    return (alpha * ops.tilt(exact, group, kind, alpha, gamma)).to(reward.dtype)
