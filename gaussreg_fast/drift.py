"""Parameter drift as a module that holds the frozen base, and as a decay for optimisers.

    drift = ParameterDrift(model, weight=175, reduction="tensor_mean", dtype=torch.bfloat16)
    loss = loss_of(model) + drift(model)

or, as a decay instead of a loss, without a gradient,

    DriftDecay(optimizer, model, drift.base, weight=175, reduction="tensor_mean")
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gaussreg_fast import _ambient, _wrappers, checks, functional, tensor_lists
from gaussreg_fast.functional import Pairs, Tensors


class ParameterDrift(nn.Module):
    """`parameter_drift` from a frozen copy of parameters, made at construction.

    The copy is kept in buffers: `.to()` moves it, and `state_dict` holds it by the parameters'
    names (`base/0/weight` for 0.weight). So a state is loaded by name whatever the order of the
    parameters, and a model with other names or shapes is refused. The parts that wrappers like
    torch.compile and DDP add to names are left out. Parameters without names are saved by position
    (`base_0`), and then only shapes are compared.

    Args:
        params: see `parameter_drift`; the base is a copy of them. Calls must pass the same list of
            parameters: for a part of a model, pass that part here too, as in
            `[(n, p) for n, p in model.named_parameters() if p.requires_grad]`.
        dtype: dtype of the copy; None keeps that of the parameters. bfloat16 halves the memory of
            float32, but rounds the base: the drift of unchanged parameters is then not 0 but some
            2^-18 of the sum of their squares.
        device: device of the copy; None keeps that of the parameters, "cpu" streams it to a GPU.
        persistent: whether `state_dict` holds the copy.
        weight: see `parameter_drift`.
        reduction: see `parameter_drift`.
        backend: see `parameter_drift`.

    Raises:
        TypeError, ValueError: see `parameter_drift`; TypeError also for another `dtype`.
        RuntimeError: `device` cannot be used here.
    """

    def __init__(
        self,
        params: Tensors,
        *,
        weight: float = 1.0,
        reduction: str = "sum",
        backend: str = "auto",
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        persistent: bool = True,
    ) -> None:
        super().__init__()
        self.weight = checks.weight("weight", weight)
        self.reduction = checks.one_of("reduction", reduction, tensor_lists.DRIFT_REDUCTIONS)
        self.backend = checks.one_of("backend", backend, checks.BACKENDS)
        if dtype is not None:
            checks.dtype("dtype", dtype)
        if device is not None:
            device = checks.device("device", device)
        names, listed = tensor_lists.tensors("params", params)
        self.names = None if names is None else tuple(names)
        self.count = len(listed)
        self._buffer_names = _buffer_names(names, self.count)
        for i, p in enumerate(listed):
            checks.floating(f"params[{i}]", p)
            with _ambient.recordable():
                copy = p.detach().to(device=device, dtype=dtype, copy=True)
            if p.device.type == "cuda" and copy.device.type == "cpu":
                copy = copy.pin_memory()  # a GPU copies pinned memory without the host
            self.register_buffer(self._buffer_names[i], copy, persistent=persistent)

    @property
    def base(self) -> dict[str, Tensor] | list[Tensor]:
        """The base: a mapping by name if the parameters had names, else a list."""
        listed = list(map(self.get_buffer, self._buffer_names))
        return listed if self.names is None else dict(zip(self.names, listed, strict=True))

    def forward(self, params: Tensors) -> Tensor:
        """Return the drift of params from the base, shape ()."""
        return functional.parameter_drift(params, self.base, **self._options())

    def value_and_grad(self, params: Tensors) -> tuple[Tensor, list[Tensor]]:
        """Return the value and the gradients: see `parameter_drift_value_and_grad`."""
        return functional.parameter_drift_value_and_grad(params, self.base, **self._options())

    def accumulate(self, params: Tensors) -> Tensor:
        """Add the gradients to `.grad` and return the value: see `accumulate_parameter_drift`."""
        return functional.accumulate_parameter_drift(params, self.base, **self._options())

    def _options(self) -> dict[str, Any]:
        return {"weight": self.weight, "reduction": self.reduction, "backend": self.backend}

    def extra_repr(self) -> str:
        """Return the options and the number of tensors."""
        options = ", ".join(f"{name}={value!r}" for name, value in self._options().items())
        return f"{self.count} tensors, {options}"


def _buffer_names(names: list[str] | None, count: int) -> list[str]:
    """Return names of buffers, which may hold no dot: JSON pointers (RFC 6901) made of the names.

    Without names, or if they would not be unique, return positions.
    """
    plain = [str(name) for name in _wrappers.unwrapped(names or ())]
    pointers = [n.replace("~", "~0").replace("/", "~1").replace(".", "/") for n in plain]
    if len(set(pointers)) != count:
        return [f"base_{i}" for i in range(count)]
    return [f"base/{pointer}" for pointer in pointers]


class LoraDrift(nn.Module):
    """`lora_drift` with its options; calls pass the pairs.

    Args:
        weight: see `lora_drift`.
        form: see `lora_drift`.
        backend: see `lora_drift`.
    """

    def __init__(
        self, *, weight: float = 1.0, form: str = "factors", backend: str = "auto"
    ) -> None:
        super().__init__()
        self.weight = checks.weight("weight", weight)
        self.form = checks.one_of("form", form, tensor_lists.LORA_FORMS)
        self.backend = checks.one_of("backend", backend, checks.BACKENDS)

    def forward(self, pairs: Pairs) -> Tensor:
        """Return the drift of the pairs (A, B), shape ()."""
        return functional.lora_drift(
            pairs, weight=self.weight, form=self.form, backend=self.backend
        )

    def extra_repr(self) -> str:
        """Return the options."""
        return f"weight={self.weight!r}, form={self.form!r}, backend={self.backend!r}"


class DriftDecay:
    """Decays parameters towards their base after every step of an optimiser, decoupled from it.

    `params <- base + (params - base) exp(-2 lr weight)`, where lr is the learning rate of the
    parameter's group at that step: see `parameter_drift_decay_`. Adaptive optimisers rescale
    gradients element by element, and the gradient of a penalty with them, so its weight has another
    effect on each element. A decoupled decay pulls all elements alike: AdamW's towards 0, this one
    towards the base. It runs after the step (a proximal step), and is skipped if the step is: by a
    gradient scaler, or while a wrapper like accelerate's accumulates gradients.

    The optimiser is used as before: a hook is added to its `step`, until `remove()` or the end of
    a `with` block. It keeps references to the tensors, no copies.

    Args:
        optimizer: any `torch.optim.Optimizer`, or a wrapper that has one as its `optimizer`, such
            as those of `Accelerator.prepare` and `WhiteNoiseProjection`. Make DriftDecay after
            `prepare`, which may replace the parameters.
        params: see `parameter_drift`; the parameters to decay, all of them in the optimiser.
        base: see `parameter_drift`.
        weight: see `parameter_drift`.
        reduction: see `parameter_drift`.
        backend: see `parameter_drift`.

    Raises:
        TypeError: `optimizer` is no `torch.optim.Optimizer` with step hooks, or see
            `parameter_drift`.
        ValueError: a parameter is not in the optimiser, or see `parameter_drift`.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        params: Tensors,
        base: Tensors,
        *,
        weight: float = 1.0,
        reduction: str = "sum",
        backend: str = "auto",
    ) -> None:
        inner = _wrappers.innermost(optimizer)
        if not isinstance(inner, torch.optim.Optimizer):
            kind = type(optimizer).__name__
            raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {kind}")
        self.weight = checks.weight("weight", weight)
        self.reduction = checks.one_of("reduction", reduction, tensor_lists.DRIFT_REDUCTIONS)
        self.backend = checks.one_of("backend", backend, checks.BACKENDS)
        self._names, self.params, self.base, _ = tensor_lists.pair_with_base(params, base)
        if (i := _wrappers.not_held(inner, self.params)) is not None:
            raise ValueError(
                f"{self._label(i)} must be a parameter of the optimiser, got a tensor that is in "
                f"none of its groups"
            )
        try:
            self._hook = inner.register_step_post_hook(self._decay)
        except AttributeError:  # its class has not called the constructor of Optimizer
            raise TypeError(
                f"optimizer must have step hooks, got {type(inner).__name__} without; pass the "
                f"optimiser that it wraps"
            ) from None

    def _label(self, i: int) -> str:
        return tensor_lists.label("params", i, self._names)

    def _decay(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if _wrappers.step_is_skipped(optimizer):
            return
        rates: dict[int, float] = {}
        for group in optimizer.param_groups:
            rates.update(dict.fromkeys(map(id, group["params"]), float(group["lr"])))
        for i, p in enumerate(self.params):
            if id(p) not in rates:
                raise RuntimeError(
                    f"{self._label(i)} is no longer a parameter of the optimiser, so that its "
                    f"decay would do nothing: make DriftDecay after calls that replace parameters, "
                    f"such as accelerate's prepare"
                )
        functional.parameter_drift_decay_(
            self.params,
            self.base,
            rate=[rates[id(p)] for p in self.params],
            weight=self.weight,
            reduction=self.reduction,
            backend=self.backend,
        )

    def remove(self) -> None:
        """Remove the hook: the optimiser is as before."""
        self._hook.remove()

    def __enter__(self) -> DriftDecay:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()
