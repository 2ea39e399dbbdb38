"""Path KL one step at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from gaussreg_fast import _path_checks, _precision, checks
from gaussreg_fast.functional import path_kl


class PathKL:
    """Adds up `path_kl` while a sampler runs, in O(B) memory.

        kl = PathKL()
        for ...:
            kl.add(*ddim_step_kl_terms(eps - eps_base, ...))
        loss = alpha * kl.value.mean() - reward

    The sum is kept in float64 if the device has it. Autograd keeps every step's dmu until
    backward, as for any loss. To hold no graph longer than a step, use `keep_graph=False` and call
    `backward` on each result of `add`.

    Args:
        keep_graph: whether `value` is differentiable. If not, only the results of `add` are.
        backend: "auto", "triton", "native" or "torch"; see `backends`.
    """

    def __init__(self, *, keep_graph: bool = True, backend: str = "auto") -> None:
        checks.one_of("backend", backend, checks.BACKENDS)
        self.keep_graph = keep_graph
        self.backend = backend
        self.reset()

    def reset(self) -> None:
        """Forget all steps."""
        self.steps = 0
        self._total: Tensor | None = None
        self._dtype = torch.float32

    def add(self, dmu: Tensor, sigma: Tensor | float) -> Tensor:
        """Add one step of B trajectories.

        Args:
            dmu: `(B, *shape)`, difference of the means.
            sigma: standard deviation of the noise: a number, or a tensor () or (B,).

        Returns:
            The step's cost, `(B,)`, differentiable.

        Raises:
            TypeError: dmu is not a dense floating-point tensor.
            ValueError: shapes or devices do not match, B differs from that of earlier steps, or
                sigma is not above 0.
        """
        checks.floating("dmu", dmu)
        if dmu.dim() == 0:
            raise ValueError(
                "dmu must have shape (B, *shape) with at least one dimension, got shape ()"
            )
        if not isinstance(sigma, Tensor):
            _path_checks.schedule("sigma", sigma, 0, float("inf"))
            dtype = checks.result_dtype(dmu)
            sigma = torch.tensor(float(sigma), dtype=dtype, device=dmu.device)
        if sigma.dim() and tuple(sigma.shape) != (dmu.shape[0],):
            raise ValueError(
                f"sigma must be a number or have shape () or ({dmu.shape[0]},), got "
                f"{tuple(sigma.shape)} for dmu of shape {tuple(dmu.shape)}"
            )
        if self._total is not None and dmu.shape[0] != len(self._total):
            raise ValueError(
                f"dmu must have B = {len(self._total)} trajectories as in earlier steps, got shape "
                f"{tuple(dmu.shape)}"
            )
        cost = path_kl(dmu.unsqueeze(0), sigma.unsqueeze(0), backend=self.backend)
        added = cost if self.keep_graph else cost.detach()
        added = added.to(_precision.exact_dtype(cost.device))
        self._total = added if self._total is None else self._total + added
        self._dtype = cost.dtype
        self.steps += 1
        return cost

    @property
    def value(self) -> Tensor:
        """The path KL so far, `(B,)`, float32 (float64 for float64 dmu)."""
        if self._total is None:
            raise RuntimeError(
                "PathKL has no step yet, so the number of trajectories is not known: call add first"
            )
        return self._total.to(self._dtype)
