"""A wrapper that gives any optimiser white-noise projections in place of gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from gaussreg_fast import _wrappers, checks
from gaussreg_fast.functional import project_white_noise

PROJECTS = ("gradient", "both")


class WhiteNoiseProjection(Optimizer):
    """An optimiser whose steps follow gradients projected to white noise (GPER, arXiv 2602.08646).

        adam = torch.optim.Adam([latents], lr=0.01)
        optimizer = WhiteNoiseProjection(adam, [latents])

    At each `step` the wrapped optimiser sees, in place of each sample's gradient of `params`, the
    white noise nearest to it (`project_white_noise`), which has the norm sqrt(D) whatever the size
    of the gradient. A gradient that is exactly 0 stays 0, because it has no direction. A sample
    whose gradient holds NaN or inf becomes NaN and leaves the other samples as they are.
    Parameters that are not in `params`, and those without a gradient, are stepped as usual. The
    gradient's memory is not written to: during the step `.grad` is another tensor, and afterwards
    it is the one that `backward` left, so gradients can be accumulated, clipped and logged as
    usual. A step costs one projection and the memory of one gradient more.

    With `project="both"` the parameters are projected as well, in place, after each step.

    It is an Optimizer: learning-rate schedulers, `torch.amp.GradScaler` (which unscales before
    the step, also for fused optimisers) and closures work. Parameter groups, state, hooks and
    `state_dict` are those of the wrapped optimiser: either can load the other's checkpoint. Hooks
    run within the step and see projected gradients. LBFGS is refused, because it fits curvature to
    gradients, and a projected gradient is not the gradient of any function.

    `Accelerator.prepare` may come before or after. An optimiser that it has prepared is projected
    only when it really makes a step, not while gradients accumulate or after an overflow; hooks
    that were registered on the optimiser inside it then see gradients before their projection.

    Args:
        optimizer: the optimiser to wrap, of any kind but LBFGS and with any flags.
        params: the tensors to project, batches `(B, *latent)` that are parameters of `optimizer`;
            D must be a multiple of 2 * block_size. The flattened latent must be in its own order,
            (C, H, W): see `project_white_noise`.
        project: "gradient", or "both" for gradients and parameters.
        block_size: bins per block of the spectrum.
        backend: "auto", "triton", "native" or "torch"; see `backends`.

    Raises:
        TypeError: `optimizer` is no Optimizer or is LBFGS, or params are not float tensors.
        ValueError: params are empty, repeated, not in the optimiser or of a size that cannot be
            projected; `project`, `block_size` or `backend` is not an allowed value.
        RuntimeError: at a step, `params` have been replaced in the optimiser.
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
        if isinstance(_wrappers.innermost(optimizer), LBFGS):
            raise TypeError(
                "optimizer must not be LBFGS, got one: it fits curvature to gradients, and a "
                "projected gradient is not the gradient of any function"
            )
        self.optimizer = optimizer
        self.project = checks.one_of("project", project, PROJECTS)
        self.block_size = block_size
        self.backend = backend
        self.params = self._check(params)

    def _check(self, params: Iterable[Tensor]) -> list[Tensor]:
        if isinstance(params, Tensor):
            raise TypeError("params must be a sequence of tensors, got a tensor; write [x]")
        if not checks.iterable(params):
            raise TypeError(f"params must be a sequence of tensors, got {type(params).__name__}")
        found = list(params)
        if not found:
            raise ValueError("params must hold at least one tensor, got none")
        not_held = _wrappers.not_held(self, found)
        for i, p in enumerate(found):
            checks.latents(p, f"params[{i}]")
            if i == not_held:
                raise ValueError(
                    f"params[{i}] must be a parameter of optimizer, got another tensor"
                )
            if any(p is q for q in found[:i]):
                raise ValueError(f"params must be without repetition, got params[{i}] twice")
            try:  # the checks of the function, on an empty batch
                self._projection(p.detach()[:0])
            except ValueError as error:
                raise ValueError(f"params[{i}] cannot be projected: {error}") from None
        return found

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make a step of the wrapped optimiser, which sees projected gradients.

        Args:
            closure: computes a loss and its gradients and returns the loss, for optimisers that
                take one. The gradients are projected after each call of it.

        Returns:
            The result of the wrapped optimiser's step: the closure's loss, or None.
        """
        if (i := _wrappers.not_held(self, self.params)) is not None:
            raise RuntimeError(
                f"params[{i}] is no longer a parameter of the optimiser: make WhiteNoiseProjection "
                f"after calls that replace parameters, such as accelerate's prepare"
            )
        exchange = _Exchange(self.params, self._project_gradient)
        with self._steps(exchange):
            if closure is None:
                return self.optimizer.step()
            return self.optimizer.step(exchange.around(closure))

    @contextmanager
    def _steps(self, exchange: _Exchange) -> Iterator[None]:
        """Exchange gradients, and project parameters afterwards, for the steps made inside."""
        inner = _wrappers.innermost(self.optimizer)
        if inner is self.optimizer:
            with exchange:
                yield
            self._project_parameters(inner)
            return

        def after(*_: Any) -> None:
            self._project_parameters(inner)
            exchange.__exit__()

        # The wrapper between may unscale gradients before a step, leave it out, or make several.
        hooks = (
            inner.register_step_pre_hook(lambda *_: exchange.__enter__()),
            inner.register_step_post_hook(after),
        )
        try:
            yield
        finally:
            exchange.__exit__()
            for hook in hooks:
                hook.remove()

    def _project_parameters(self, inner: Optimizer) -> None:
        """Project the parameters if they are to be projected and have made a step."""
        if self.project != "both" or _wrappers.step_is_skipped(inner):
            return
        with torch.no_grad():
            for p in self.params:
                if p.grad is not None:
                    p.copy_(self._projection(p))

    def _projection(self, x: Tensor) -> Tensor:
        return project_white_noise(x, block_size=self.block_size, backend=self.backend)

    def _project_gradient(self, grad: Tensor) -> Tensor:
        """Return a new tensor, in grad's layout: projections, and 0 for samples that are 0."""
        with torch.no_grad():
            projection = self._projection(grad.detach())
            nonzero = grad.flatten(1).any(1).view(-1, *[1] * (grad.dim() - 1))
            projection.mul_(nonzero)  # a zero gradient has no direction: the step must not have one
            scale = getattr(_wrappers.innermost(self.optimizer), "grad_scale", None)
            if scale is not None:  # a fused optimiser divides by it what it takes for a gradient
                projection.mul_(scale)
            # Fused optimisers read gradients in the order in which parameters lie in memory.
            same_layout = projection.stride() == grad.stride()
            return projection if same_layout else torch.empty_like(grad).copy_(projection)

    # ------------------------------------------------------------ passed to the wrapped optimiser

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the wrapped optimiser, if this class has none of that name."""
        if name == "optimizer":  # missing during unpickling: do not look for it in itself
            raise AttributeError(name)
        return getattr(self.optimizer, name)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The parameter groups of the wrapped optimiser."""
        return self.optimizer.param_groups

    @param_groups.setter
    def param_groups(self, value: list[dict[str, Any]]) -> None:
        self.optimizer.param_groups = value

    @property
    def state(self) -> Any:
        """The state of the wrapped optimiser."""
        return self.optimizer.state

    @state.setter
    def state(self, value: Any) -> None:
        self.optimizer.state = value

    @property
    def defaults(self) -> dict[str, Any]:
        """The default options of the wrapped optimiser."""
        return self.optimizer.defaults

    @defaults.setter
    def defaults(self, value: dict[str, Any]) -> None:
        self.optimizer.defaults = value

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients, by the wrapped optimiser."""
        self.optimizer.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the wrapped optimiser. Its parameters are not projected."""
        self.optimizer.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the wrapped optimiser: the wrapper has none of its own."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state into the wrapped optimiser."""
        self.optimizer.load_state_dict(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        names = ("optimizer", "params", "project", "block_size", "backend")
        return {name: self.__dict__[name] for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.optimizer!r}, project={self.project!r})"


class _Exchange:
    """A context in which `.grad` of parameters is the projection of their gradient."""

    def __init__(self, params: list[Tensor], project: Callable[[Tensor], Tensor]) -> None:
        self.params, self.project = params, project
        self.swapped: list[tuple[Tensor, Tensor, Tensor]] = []  # parameter, gradient, projection

    def __enter__(self) -> None:
        pairs = [(p, p.grad) for p in self.params if p.grad is not None]
        swapped = [(p, grad, self.project(grad)) for p, grad in pairs]
        for p, _, projection in swapped:
            p.grad = projection
        self.swapped = swapped

    def __exit__(self, *_: Any) -> None:
        for p, grad, projection in self.swapped:
            if p.grad is projection:  # a hook or a closure may have replaced it on purpose
                p.grad = grad
        self.swapped = []

    def around(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        """Return a closure that reads and writes the gradients themselves, not projections."""

        def call() -> Any:
            self.__exit__()
            loss = closure()
            self.__enter__()
            return loss

        return call
