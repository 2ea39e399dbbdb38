"""Parameter drift over DTensors: each rank computes its shards, values are summed over meshes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from gaussreg_fast._torch_internals import writable
from gaussreg_fast.ops._drift import ordinary
from gaussreg_fast.ops._drift_run import drift_in_place, new_like
from gaussreg_fast.ops._operator import first_order
from gaussreg_fast.spec import DriftTask


def is_sharded(x: Any) -> bool:
    """Return whether x is a DTensor, without importing torch.distributed.tensor."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(x, module.DTensor)


def sharded(tensors: Sequence[Tensor]) -> bool:
    """Return whether there are DTensors among the tensors."""
    return not torch.compiler.is_compiling() and any(map(is_sharded, tensors))


def eager(tensors: Sequence[Tensor], checked: bool) -> bool:
    """Return whether memory of the tensors can be written to: see `writable`.

    `checked` says that their types are known to be ordinary.
    """
    if checked:
        return writable(tensors[0])
    local_tensors = [t for t in tensors if not is_sharded(t)]
    return (
        ordinary(local_tensors)
        if local_tensors
        else writable(torch.empty(0, dtype=torch.float32, device="cpu"))
    )


@dataclass
class Shards:
    """A rank's local shards of parameters and base, and the meshes to sum values over."""

    params: list[Tensor]
    base: list[Tensor]  # empty for zeros
    meshes: list[Any]  # a mesh per tensor; None for an ordinary tensor, which every rank has
    counted: list[bool]  # of the copies of a shard on several ranks, only one counts
    uniform: bool = False  # see `drift_in_place`

    def run(
        self,
        tasks: Sequence[DriftTask],
        grads: Sequence[Tensor | None],
        scales: Sequence[float],
        step: float,
        backend: str,
    ) -> Tensor:
        """Run `drift_in_place` with a task for each tensor; return one value for all ranks."""
        if self.uniform and len(set(tasks)) == 1:
            written = [g for g in grads if g is not None]
            lists = self.params, self.base, written
            return drift_in_place(tasks[0], *lists, scales, step, backend, True)
        total = None
        for mesh in dict.fromkeys(self.meshes):
            part = self._on_mesh(mesh, tasks, grads, scales, step, backend)
            part = part if mesh is None else _all_reduced(part, mesh)
            total = part if total is None else total + part
        assert total is not None  # there is a tensor
        return total

    def _on_mesh(
        self,
        mesh: Any,
        tasks: Sequence[DriftTask],
        grads: Sequence[Tensor | None],
        scales: Sequence[float],
        step: float,
        backend: str,
    ) -> Tensor:
        """Run the tensors of one mesh; return this rank's part of their value."""
        kinds: dict[tuple[DriftTask, bool], list[int]] = {}
        double = False
        for i, task in enumerate(tasks):
            if self.meshes[i] is mesh or self.meshes[i] == mesh:
                double |= torch.float64 in (
                    self.params[i].dtype,
                    (self.base or self.params)[i].dtype,
                )
                if self.counted[i] or task is not DriftTask.VALUE:
                    kinds.setdefault((task, self.counted[i]), []).append(i)
        dtype = torch.float64 if double else torch.float32
        part = None
        for (task, counted), chosen in kinds.items():
            params, base = ([t[i] for i in chosen] if t else [] for t in (self.params, self.base))
            written = [g for i in chosen if (g := grads[i]) is not None] if grads else []
            factors = [scales[i] for i in chosen]
            value = drift_in_place(
                task, params, base, written, factors, step, backend, self.uniform
            )
            if counted:
                part = value if part is None else part + value
        return torch.zeros((), device=self.params[0].device, dtype=dtype) if part is None else part


def _all_reduced(part: Tensor, mesh: Any) -> Tensor:
    """Return the sum of a part over the mesh, on every rank of it."""
    import torch.distributed as dist

    total = part.to(mesh.device_type, copy=True)
    for dimension in range(mesh.ndim):
        dist.all_reduce(total, group=mesh.get_group(dimension))
    return total.to(part.device)


def shards(
    names: list[str] | None, params: Sequence[Tensor], base: Sequence[Tensor], uniform: bool = False
) -> Shards:
    """Return the local shards of DTensors, and ordinary tensors as they are.

    Raises:
        ValueError: a parameter and its base are not sharded alike, or hold partial sums.
    """
    count = len(params)
    if uniform or not sharded((*params, *base)):
        return Shards(list(params), list(base), [None] * count, [True] * count, uniform)
    meshes, counted = [], []
    for i, (p, b) in enumerate(zip(params, base or params, strict=True)):
        mesh, counts = _placement(f"params[{i}]" if names is None else f"params {names[i]!r}", p, b)
        meshes.append(mesh)
        counted.append(counts)
    return Shards([local(p) for p in params], [local(b) for b in base], meshes, counted)


def _placement(name: str, param: Any, base: Any) -> tuple[Any, bool]:
    """Return the mesh of a parameter, and whether this rank's copy of its shard counts."""
    if not is_sharded(param) and not is_sharded(base):
        return None, True
    placed = [
        (t.device_mesh, tuple(t.placements)) if is_sharded(t) else None for t in (param, base)
    ]
    if placed[0] != placed[1]:
        shown = [p[1] if p else "an ordinary tensor" for p in placed]
        raise ValueError(
            f"{name} must be sharded like its base, got {shown[0]} and {shown[1]}; copy the base "
            f"from the sharded model, and list its parameters while they are sharded: fully_shard "
            f"may gather them between forward and backward"
        )
    if any(placement.is_partial() for placement in param.placements):
        raise ValueError(f"{name} must not be partial sums, got {tuple(param.placements)}")
    coordinates = param.device_mesh.get_coordinate()
    if coordinates is None:  # this rank is not in the mesh
        return param.device_mesh, False
    copies = zip(param.placements, coordinates, strict=True)
    return param.device_mesh, all(c == 0 for p, c in copies if p.is_replicate())


def local(x: Any) -> Tensor:
    """Return this rank's part of x; autograd records the step if it is on."""
    return x.to_local() if is_sharded(x) else x


class _ShardedDrift(Function):
    """The drift of shards. All ranks have the same value, and so the same upstream gradient."""

    @staticmethod
    def forward(
        ctx: Any, local_shards: Shards, scales: list[float], backend: str, *params: Tensor
    ) -> Tensor:
        ctx.options = len(params), scales, backend
        ctx.save_for_backward(*params, *local_shards.base)
        return local_shards.run([DriftTask.VALUE] * len(params), [], scales, 0.0, backend)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        count, scales, backend = ctx.options
        params, base = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        grads: list[Tensor | None] = [None] * (3 + count)
        wanted = [i for i in range(count) if ctx.needs_input_grad[3 + i]]
        if wanted:
            lists = [[t[i] for i in wanted] if t else [] for t in (params, base, scales)]
            new = new_like(lists[0])
            step = 2 * upstream[0]
            drift_in_place(DriftTask.GRADIENT, lists[0], lists[1], new, lists[2], step, backend)
            for i, grad in zip(wanted, new, strict=True):
                grads[3 + i] = first_order(grad, params[i])
        return tuple(grads)


def sharded_drift(
    names: list[str] | None,
    params: Sequence[Tensor],
    base: Sequence[Tensor],
    scales: list[float],
    backend: str,
) -> Tensor:
    """Return `drift` of lists with DTensors, on every rank, differentiable by params."""
    with torch.no_grad():
        local_shards = shards(names, params, base)
    return _ShardedDrift.apply(local_shards, scales, backend, *[local(p) for p in params])
