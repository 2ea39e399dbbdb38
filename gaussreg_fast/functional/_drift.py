"""Parameter drift: how far a fine-tuned model is from its base."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from gaussreg_fast import _ambient, checks, ops, tensor_lists
from gaussreg_fast.backends import require_for_lists
from gaussreg_fast.spec import DriftTask

Tensors = nn.Module | Mapping[str, Tensor] | Iterable[Tensor] | Iterable[tuple[str, Tensor]]
Pairs = Mapping[str, tuple[Tensor, Tensor]] | Iterable[tuple[Tensor, Tensor]]


def parameter_drift(
    params: Tensors,
    base: Tensors,
    *,
    weight: float = 1.0,
    reduction: str = "sum",
    backend: str = "auto",
) -> Tensor:
    """Return the squared distance of a model's parameters from their base (P&P, arXiv 2505.19519).

    `weight * sum_i ||params_i - base_i||_2^2`, or, with `reduction="tensor_mean"`,
    `weight * sum_i mean((params_i - base_i)^2)`. The first is the paper's formula. The second is
    computed by its authors' code, and their weights (50 for SDXL, 175 for SD 1.5, 10.1 for SD 3)
    are meant for it.

    One pass reads all tensors and keeps only the value. `backward` is a second pass, which makes
    the gradients, `2 weight (params_i - base_i)` times the upstream gradient. If parameters have a
    gradient already, autograd adds to it from a temporary of the model's size;
    `accumulate_parameter_drift` needs no temporary. Double backward raises.

    Args:
        params: a module (all its parameters), a mapping or an iterable of names and tensors like
            `model.named_parameters()`, or an iterable of tensors. float32, float64, float16 or
            bfloat16, of any shapes, on one device. Of DTensors (`fully_shard`) local shards are
            read, and the value is summed over their mesh: see docs/guide/several-gpus.md.
        base: the same, of the same shapes, without gradient; its types may differ from those of
            `params` (bfloat16 halves its memory). It may be on the CPU if `params` are on a GPU,
            and is then streamed there in pieces. If both lists have names, tensors are paired by
            name, in any order, and the names must be the same; else they are paired by position.
        weight: finite, at least 0.
        reduction: "sum" or "tensor_mean". A tensor without elements counts as 0.
        backend: "auto", "triton", "native" or "torch"; see `backends`. Of float64 tensors, in
            params or base, "auto" leaves the arithmetic to torch; "triton" and "native" raise.

    Returns:
        The value, shape (), float32 (float64 if any tensor is float64), on the device of `params`.
        It is computed in float32; float64 tensors, and sums of more than some hundred numbers, are
        computed in float64.

    Raises:
        TypeError: a tensor is not dense and floating-point.
        ValueError: lists are empty or do not match (the error names the first tensor that
            differs), the base requires grad or shares the parameters' memory, tensors are on
            different devices, or an option is out of range.
        RuntimeError: the backend cannot run here.
    """
    pair = _pair_with_base(params, base)
    scales = _scales(pair.params, weight, reduction)
    _check_backend(backend, pair)
    if not pair.uniform and ops.sharded((*pair.params, *pair.base)):
        return ops.sharded_drift(*pair[:3], scales, backend)
    return ops.drift(pair.params, pair.base, scales, backend, pair.uniform)


def parameter_drift_value_and_grad(
    params: Tensors,
    base: Tensors,
    *,
    weight: float = 1.0,
    reduction: str = "sum",
    backend: str = "auto",
) -> tuple[Tensor, list[Tensor]]:
    """Return `parameter_drift` and its gradients by params, in one pass and without autograd.

    Arguments and errors are those of `parameter_drift`.

    Returns:
        The value, and a list of gradients in the order of params, each of its parameter's shape,
        type and layout.
    """
    pair = _pair_with_base(params, base)
    scales = _scales(pair.params, weight, reduction)
    _check_backend(backend, pair)
    _require_eager(pair, "parameter_drift_value_and_grad")
    with torch.no_grad():
        grads = ops.new_like(pair.params)
        shards = ops.shards(*pair)
        written = grads if pair.uniform else [ops.local(g) for g in grads]
        return shards.run([DriftTask.GRADIENT] * len(grads), written, scales, 2.0, backend), grads


def accumulate_parameter_drift(
    params: Tensors,
    base: Tensors,
    *,
    weight: float = 1.0,
    reduction: str = "sum",
    backend: str = "auto",
) -> Tensor:
    """Add the gradient of `parameter_drift` to `.grad` of the parameters that require grad.

    Call it after `backward` of the other losses and before the optimiser's step. One pass reads
    parameters, base and gradients and writes the gradients, without a temporary and without a
    graph. If `.grad` is None, it is made. Arguments and errors are those of `parameter_drift`.

    Returns:
        The value of `parameter_drift` over all of params, shape ().
    """
    pair = _pair_with_base(params, base)
    scales = _scales(pair.params, weight, reduction)
    _check_backend(backend, pair)
    _require_eager(pair, "accumulate_parameter_drift")
    tensor_lists.check_distinct(pair)
    grads = tensor_lists.gradients(pair)
    with torch.no_grad():
        shards = ops.shards(*pair)
        tasks = []
        for i, p in enumerate(pair.params):
            if not p.requires_grad:
                tasks.append(DriftTask.VALUE)
            elif grads[i] is None:
                tasks.append(DriftTask.GRADIENT)
                with _ambient.recordable():  # it will be added to by autograd
                    grads[i] = torch.empty_like(p)
            else:
                tasks.append(DriftTask.ACCUMULATE)
        written = grads
        if not pair.uniform:
            written = [None if g is None else ops.local(g) for g in grads]
        value = shards.run(tasks, written, scales, 2.0, backend)
    for p, task, grad in zip(pair.params, tasks, grads, strict=True):
        if task is DriftTask.GRADIENT:
            p.grad = grad
    return value


def parameter_drift_decay_(
    params: Tensors,
    base: Tensors,
    *,
    rate: float | Sequence[float],
    weight: float = 1.0,
    reduction: str = "sum",
    backend: str = "auto",
) -> None:
    """Move parameters towards their base, in place: drift as decoupled decay.

    `params <- base + (params - base) exp(-2 rate weight)` (with `reduction="tensor_mean"`, weight
    divided by the tensor's number of elements). This is the result of gradient flow on
    `parameter_drift` alone for the time `rate`, the learning rate. To first order it is
    `params -= rate * 2 weight (params - base)`, the form of AdamW's decay; but it never oversteps
    the base, however large the product of rate and weight. `DriftDecay` does it after every step of
    an optimiser.

    Args:
        params: see `parameter_drift`; changed in place, whether they require grad or not.
        base: see `parameter_drift`.
        rate: finite, at least 0; one for all tensors, or one for each.
        weight: see `parameter_drift`.
        reduction: see `parameter_drift`.
        backend: checked like elsewhere, see `backends`; the decay is always computed by torch, in
            one pass.

    Raises:
        TypeError, ValueError, RuntimeError: see `parameter_drift`.
    """
    pair = _pair_with_base(params, base)
    scales = _scales(pair.params, weight, reduction)
    _check_backend(backend, pair)
    rates = _rates(rate, len(scales))
    _require_eager(pair, "parameter_drift_decay_")
    tensor_lists.check_distinct(pair)
    both = list(zip(rates, scales, strict=True))
    share = {(r, s): -math.expm1(-2 * r * s) for r, s in set(both)}
    shares = [share[each] for each in both]
    with torch.no_grad():
        shards = ops.shards(*pair)
        ops.move_towards(shards.params, shards.base, shares)


def lora_drift(
    pairs: Pairs, *, weight: float = 1.0, form: str = "factors", backend: str = "auto"
) -> Tensor:
    """Return the drift of LoRA updates B A: how far adapters move a model from its base.

    `form="factors"` is the form of P&P's authors, `weight * sum(||A||^2 + ||B||^2)` (weights 1e-7
    for SD 1.5, 1e-6 for SDXL, 15 for SD 3). `form="product"` is the drift of the weights
    themselves, `weight * sum ||B A||_F^2`, computed from r x r matrices as
    trace((B^T B)(A A^T)). Both leave out the adapter's scale (alpha / r): for "product", multiply
    `weight` by its square.

    Args:
        pairs: pairs (A, B), A of shape (r, n, ...) and B (m, r, ...), whose further dimensions are
            flattened, as for convolutions whose B is 1 x 1; or a mapping to pairs. On one device.
            DTensors are allowed for "factors" only; see `parameter_drift`.
        weight: finite, at least 0.
        form: "factors" or "product".
        backend: see `backends`; "product", a few small matrix products, is always computed by
            torch.

    Returns:
        The value, shape (), float32 (float64 if a factor is float64), differentiable by all
        factors; "factors" has no double backward. Autograd differentiates "product": call
        backward outside of autocast, which would round its products of matrices.

    Raises:
        TypeError: a factor is not a dense floating-point tensor, or pairs are not pairs.
        ValueError: there are no pairs, shapes or devices do not match, or an option is out of
            range.
        RuntimeError: the backend cannot run here.
    """
    left, right = tensor_lists.lora_pairs(pairs)
    checks.one_of("form", form, tensor_lists.LORA_FORMS)
    weight = checks.weight("weight", weight)
    factors = [t for pair in zip(left, right, strict=True) for t in pair]
    checks.one_of("backend", backend, checks.BACKENDS)
    require_for_lists(backend, factors, [], lambda _, i: f"{'AB'[i % 2]} of pairs[{i // 2}]")
    scales = [weight] * len(factors)
    if ops.sharded(factors):
        if form == "product":
            raise ValueError(
                "pairs must be whole tensors for form='product', got DTensors: pass their "
                "full_tensor()"
            )
        names = [f"{name} of pairs[{i}]" for i in range(len(left)) for name in "AB"]
        return ops.sharded_drift(names, factors, [], scales, backend)
    if form == "factors":
        return ops.drift(factors, [], scales, backend)
    return weight * ops.lora_product(left, right)


def _pair_with_base(params: Tensors, base: Tensors) -> tensor_lists.Paired:
    """Check both lists and pair them, and check that the base is no alias of the parameters.

    Of the aliases only the first trained parameter is looked at: a base made by `detach` or
    `state_dict` shares all of its memory.
    """
    pair = tensor_lists.pair_with_base(params, base, ops.uniform)
    if pair.uniform and ops.eager(pair.params, True):
        i = next((i for i, p in enumerate(pair.params) if p.requires_grad and p.numel()), None)
        if i is not None and pair.params[i].data_ptr() == pair.base[i].data_ptr():
            name = tensor_lists.label("params", i, pair.names)
            raise ValueError(
                f"base must be a copy of params, but {name} and its base share their memory: "
                f"`state_dict()` and `detach()` copy nothing, `ParameterDrift` and `clone()` do"
            )
    return pair


def _scales(params: list[Tensor], weight: float, reduction: str) -> list[float]:
    """Return the factor of each tensor's squared drift."""
    checks.one_of("reduction", reduction, tensor_lists.DRIFT_REDUCTIONS)
    weight = checks.weight("weight", weight)
    if reduction == "sum":
        return [weight] * len(params)
    return [weight / max(1, p.numel()) for p in params]


def _rates(rate: Any, count: int) -> list[float]:
    """Check the rates, and return one for each of `count` tensors."""
    if isinstance(rate, Real):
        return [checks.weight("rate", rate)] * count
    allowed = f"rate must be one number, or one for each of {count} tensors"
    if not checks.iterable(rate) or isinstance(rate, (str, Tensor)):
        raise ValueError(f"{allowed}, got {rate!r}")
    rates = list(rate)
    if len(rates) != count:
        raise ValueError(f"{allowed}, got {len(rates)}")
    return [checks.weight("rate", r) for r in rates]


def _check_backend(backend: str, pair: tensor_lists.Paired) -> None:
    """Check a backend's name, and that the backend can run on params and base."""
    checks.one_of("backend", backend, checks.BACKENDS)
    base = [] if pair.uniform else pair.base  # uniform lists are on one device, without float64
    names = pair.names
    require_for_lists(backend, pair.params, base, lambda n, i: tensor_lists.label(n, i, names))


def _require_eager(pair: tensor_lists.Paired, name: str) -> None:
    """Check that memory of the tensors can be written to."""
    if torch.compiler.is_compiling() or not ops.eager((*pair.params, *pair.base), pair.uniform):
        raise RuntimeError(
            f"{name} writes to memory, which tracers and transforms cannot record: call it in "
            f"eager code, on ordinary tensors, or use parameter_drift"
        )
