"""Path KL one step at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from gaussreg_fast import checks
from gaussreg_fast.functional import path_kl


class PathKL:
    """Adds up `path_kl` while a sampler runs, in O(B) memory.

        kl = PathKL()
        for ...:
            kl.add(*ddim_step_kl_terms(eps - eps_base, ...))
        loss = alpha * kl.value.mean() - reward

    The sum is kept in float64 where the device has it. What autograd keeps for the gradient by
    every step's dmu (dmu itself, as for any loss) is there until backward. To hold no
    graph longer than a step, take `add`'s result backward at once, with `keep_graph=False`.

    Args:
        keep_graph: whether `value` is differentiable. Without, it is a number to look at, and only
            the results of `add` are.
        backend: of `path_kl`.
    """

    def __init__(self, *, keep_graph: bool = True, backend: str = "auto") -> None:
        checks.one_of("backend", backend, checks.BACKENDS)
        self.keep_graph = keep_graph
        self.backend = backend
        self.reset()

    def reset(self) -> None:
        """Forgets all steps."""
        self.steps = 0
        self._total: Tensor | None = None
        self._dtype = torch.float32

    def add(self, dmu: Tensor, sigma: Tensor | float) -> Tensor:
        """Adds one step of B trajectories.

        Args:
            dmu: `(B, *shape)`, difference of the means.
            sigma: deviation of the noise: a number, or a tensor () or (B,).

        Returns:
            The step's cost, `(B,)`, differentiable.

        Raises:
            TypeError: dmu is not a dense floating-point tensor.
            ValueError: shapes or devices that do not fit (the earlier steps' batch too), or a
                step without noise.
        """
        checks.floating("dmu", dmu)
        if dmu.dim() == 0:
            raise ValueError("dmu must have shape (B, *shape), got ()")
        if not isinstance(sigma, Tensor):
            checks.schedule("sigma", sigma, 0, float("inf"))
            dtype = torch.float64 if dmu.dtype == torch.float64 else torch.float32
            sigma = torch.tensor(float(sigma), dtype=dtype, device=dmu.device)
        if sigma.dim() and tuple(sigma.shape) != (dmu.shape[0],):
            raise ValueError(
                f"sigma must be a number or have shape () or ({dmu.shape[0]},), got "
                f"{tuple(sigma.shape)}"
            )
        if self._total is not None and dmu.shape[0] != len(self._total):
            raise ValueError(f"dmu must have B = {len(self._total)}, got {tuple(dmu.shape)}")
        cost = path_kl(dmu.unsqueeze(0), sigma.unsqueeze(0), backend=self.backend)
        added = cost if self.keep_graph else cost.detach()
        if cost.device.type != "mps":
            added = added.double()
        self._total = added if self._total is None else self._total + added
        self._dtype = cost.dtype
        self.steps += 1
        return cost

    @property
    def value(self) -> Tensor:
        """The path KL so far, `(B,)`, float32 (float64 for float64 dmu)."""
        if self._total is None:
            raise RuntimeError("no step was added, so the number of trajectories is not known")
        return self._total.to(self._dtype)
