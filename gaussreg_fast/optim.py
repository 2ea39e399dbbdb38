"""The white-noise projection in place of a gradient, in any optimiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from gaussreg_fast import checks
from gaussreg_fast.functional import project_white_noise

PROJECTS = ("gradient", "both")


class WhiteNoiseProjection(Optimizer):
    """An optimiser whose steps follow gradients projected to white noise (GPER, arXiv 2602.08646).

        adam = torch.optim.Adam([latents], lr=0.01)
        optimizer = WhiteNoiseProjection(adam, [latents])

    At each `step` the wrapped optimiser sees, in place of the gradient of every one of `params`,
    the nearest white noise of each sample's gradient (`project_white_noise`): of norm sqrt(D)
    whatever the size of the gradient. Samples whose gradient is exactly 0 keep it; one that holds
    NaN or inf becomes NaN and spoils no other. Parameters that are not in `params`, and those
    without a gradient, are stepped as ever. `.grad` is not written to: for the time of the step
    another tensor stands there, and afterwards it holds what `backward` has left, so that
    gradients can be accumulated, clipped and logged as usual. It costs one projection and the
    memory of one gradient.

    With `project="both"` the parameters are projected as well, in place, after each step.

    It is an Optimizer: learning-rate schedulers, `torch.amp.GradScaler` (which unscales before
    the step, also for fused optimisers) and closures work. Parameter groups, state, hooks and
    `state_dict` are those of the wrapped optimiser: either can load the other's checkpoint. Hooks
    run within the step and see projected gradients. LBFGS is refused: it fits curvature to
    gradients, and a projected gradient is that of no function.

    Args:
        optimizer: the optimiser to wrap, of whatever kind and with whatever flags.
        params: the tensors to project, batches `(B, *latent)` among those that the optimiser
            holds; D a multiple of 2 * block_size. The flattened latent must be in its own order,
            (C, H, W): see `project_white_noise`.
        project: "gradient", or "both" for gradients and parameters.
        block_size: bins per block of the spectrum.
        backend: see `backends`.

    Raises:
        TypeError: an optimiser that is none or is LBFGS, or params that are no float tensors.
        ValueError: params that are none, repeated, not held by the optimiser or of a size that
            cannot be projected; an unknown `project`, `block_size` or `backend`.
    """

    # A fused optimiser that unscales by itself would divide the projected gradient.
    _step_supports_amp_scaling = False

    def __init__(
        self,
        optimizer: Optimizer,
        params: Iterable[Tensor],
        project: str = "gradient",
        *,
        block_size: int = 16,
        backend: str = "auto",
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}"
            )
        if isinstance(optimizer, LBFGS):
            raise TypeError(
                "optimizer must be one that takes gradients as they come, got LBFGS: it fits "
                "curvature to them, and a projected gradient is that of no function"
            )
        self.optimizer = optimizer
        self.project = checks.one_of("project", project, PROJECTS)
        self.block_size = block_size
        self.backend = backend
        self.params = self._checked(params)

    def _checked(self, params: Iterable[Tensor]) -> list[Tensor]:
        if isinstance(params, Tensor):
            raise TypeError("params must be a sequence of tensors, got a tensor; write [x]")
        if not isinstance(params, Iterable):
            raise TypeError(f"params must be a sequence of tensors, got {type(params).__name__}")
        found = list(params)
        if not found:
            raise ValueError("params must be at least one tensor, got none")
        held = {id(p) for group in self.param_groups for p in group["params"]}
        for i, p in enumerate(found):
            checks.latents(p, f"params[{i}]")
            if id(p) not in held:
                raise ValueError(f"params[{i}] must be a parameter of optimizer, got another")
            if any(p is q for q in found[:i]):
                raise ValueError(f"params must be without repetition, got params[{i}] twice")
            try:  # the function's own checks, on no sample
                self._projection(p.detach()[:0])
            except ValueError as error:
                raise ValueError(f"params[{i}] cannot be projected: {error}") from None
        return found

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """A step of the wrapped optimiser, which sees projected gradients.

        Args:
            closure: computes a loss and its gradients and returns it, where the optimiser takes
                one. What it leaves in `.grad` is projected each time that it is called.

        Returns:
            What the wrapped optimiser returns: the closure's loss, or None.
        """
        exchange = _Exchange(self.params, self._projected)
        if closure is None:
            with exchange:
                loss = self.optimizer.step()
        else:
            with exchange:
                loss = self.optimizer.step(exchange.around(closure))
        if self.project == "both":
            with torch.no_grad():
                for p in self.params:
                    if p.grad is not None:
                        p.copy_(self._projection(p))
        return loss

    def _projection(self, x: Tensor) -> Tensor:
        return project_white_noise(x, block_size=self.block_size, backend=self.backend)

    def _projected(self, grad: Tensor) -> Tensor:
        """A new tensor: the projection of each sample that is not 0, laid out as `grad`."""
        with torch.no_grad():
            found = self._projection(grad.detach())
            some = grad.flatten(1).any(1).view(-1, *[1] * (grad.dim() - 1))
            found.mul_(some)
            # Fused optimisers read gradients in the order in which parameters lie in memory.
            same = found.stride() == grad.stride()
            return found if same else torch.empty_like(grad).copy_(found)

    # ------------------------------------------------------------ the rest is the wrapped one's

    def __getattr__(self, name: str) -> Any:
        """What this class does not have: the wrapped optimiser's."""
        if name == "optimizer":  # while it is unpickled there is none
            raise AttributeError(name)
        return getattr(self.optimizer, name)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Those of the wrapped optimiser."""
        return self.optimizer.param_groups

    @param_groups.setter
    def param_groups(self, value: list[dict[str, Any]]) -> None:
        self.optimizer.param_groups = value

    @property
    def state(self) -> Any:
        """That of the wrapped optimiser."""
        return self.optimizer.state

    @state.setter
    def state(self, value: Any) -> None:
        self.optimizer.state = value

    @property
    def defaults(self) -> dict[str, Any]:
        """Those of the wrapped optimiser."""
        return self.optimizer.defaults

    @defaults.setter
    def defaults(self, value: dict[str, Any]) -> None:
        self.optimizer.defaults = value

    def zero_grad(self, set_to_none: bool = True) -> None:
        """That of the wrapped optimiser."""
        self.optimizer.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """That of the wrapped optimiser; what is added is not projected."""
        self.optimizer.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """That of the wrapped optimiser: there is no state beside it."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """That of the wrapped optimiser."""
        self.optimizer.load_state_dict(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        names = ("optimizer", "params", "project", "block_size", "backend")
        return {name: self.__dict__[name] for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.optimizer!r}, project={self.project!r})"


class _Exchange:
    """While entered, projections stand in the place of gradients."""

    def __init__(self, params: list[Tensor], projected: Callable[[Tensor], Tensor]) -> None:
        self.params, self.projected = params, projected
        self.kept: list[tuple[Tensor, Tensor, Tensor]] = []  # parameter, gradient, projection

    def __enter__(self) -> None:
        pairs = [(p, p.grad) for p in self.params if p.grad is not None]
        found = [(p, grad, self.projected(grad)) for p, grad in pairs]
        for p, _, projection in found:
            p.grad = projection
        self.kept = found

    def __exit__(self, *_: Any) -> None:
        for p, grad, projection in self.kept:
            if p.grad is projection:  # whoever has put something else there knows why
                p.grad = grad
        self.kept = []

    def around(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        """A closure that sees, and leaves to us, gradients as they are."""

        def call() -> Any:
            self.__exit__()
            loss = closure()
            self.__enter__()
            return loss

        return call
