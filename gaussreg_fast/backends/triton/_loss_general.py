"""Launches for any dimension: passes around torch's FFTs, a chunk of the batch at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gaussreg_fast.backends.triton import parameters
from gaussreg_fast.backends.triton._call import Call
from gaussreg_fast.backends.triton._device import compiler, launching
from gaussreg_fast.backends.triton._permutation import Mode, Permutation, order_mask, source_of
from gaussreg_fast.kernels.loss_general import finish, gather, moments_only, spectrum
from gaussreg_fast.spec import LossSpec, Task


@dataclass(frozen=True)
class _Job:
    """A task on rows x (B, D), the first of which is number `first` of the batch.

    `mode`, `table`, `table_stride` (all from `source_of`) and `seed` are the rows' permutations.
    """

    x: Tensor
    outputs: dict[str, Tensor]
    mode: Mode
    table: Tensor
    table_stride: int
    seed: Tensor
    task: Task
    spec: LossSpec
    scale: float
    first: int = 0

    def rows(self, start: int, stop: int) -> _Job:
        """Return the job for some of the rows."""
        return replace(
            self,
            x=self.x[start:stop],
            outputs={name: out[start:stop] for name, out in self.outputs.items()},
            table=self.table[start:stop] if self.table_stride else self.table,
            first=start,
        )

    def output(self, name: str) -> Tensor:
        """Return an output, or a stand-in that no kernel touches."""
        return self.outputs.get(name, self.x)


def launch(call: Call) -> None:
    """Run a call on samples of any length; a block size of 0 leaves the spectrum out."""
    x, permutation, task, spec = call.x, call.permutation, call.task, call.spec
    batch, dimension = x.shape
    block_size = spec.block_size
    with launching(x.device, f"general {task.value}"):
        mode, table, stride = source_of(permutation if block_size else Permutation(), x)
        seed = x if permutation.seed is None else permutation.seed
        job = _Job(x, call.outputs, mode, table, stride, seed, task, spec, call.scale)
        if block_size:
            rows = parameters.chunk(dimension, batch)
            for start in range(0, batch, rows):
                _chunk(job if rows == batch else job.rows(start, start + rows))
        elif "loss" in call.outputs and dimension <= parameters.MOMENTS_IN_ONE_LAUNCH:
            _moments_only(job)
        else:
            _chunk(job)


def _chunk(job: _Job) -> None:
    """Run all passes over samples whose workspaces fit into memory together."""
    job, permuted, sums = _gather(job)
    if not job.spec.block_size:
        _finish(job, permuted, permuted, sums, sums)
        return
    half = torch.fft.rfft(permuted)
    gaps = _spectrum(job, half)
    spectral = gaps
    if job.task.differentiates:
        # norm="forward" does not scale the inverse: `spectrum` has scaled already.
        spectral = torch.fft.irfft(half, n=job.x.shape[1], norm="forward")
    _finish(job, permuted, spectral, sums, gaps)


def _summed_orders(job: _Job) -> int:
    """Return the orders whose power sums a task needs: a loss needs order 1, too, see `finish`."""
    orders = order_mask(job.spec.orders)
    return {Task.PULLBACK: 0, Task.STATISTICS: orders}.get(job.task, orders | 2)


def _gather(job: _Job) -> tuple[_Job, Tensor, Tensor]:
    """Run the first pass: return the job with its table, permuted samples, and power sums.

    Permuted samples are float32 if an FFT reads them.
    """
    x, (batch, dimension) = job.x, job.x.shape
    split = parameters.general(dimension)
    orders = _summed_orders(job)
    sums = _workspace(x, batch, orders.bit_count(), split.parts)
    # cuFFT reads real numbers from addresses that are aligned for complex ones.
    readable = x.dtype == torch.float32 and x.is_contiguous() and x.data_ptr() % 8 == 0
    copy = job.spec.block_size > 0 and not (readable and job.mode is Mode.NONE)
    permuted = _workspace(x, batch, dimension) if copy else x
    if job.mode is Mode.SEED:
        table = torch.empty((batch, dimension), dtype=torch.int32, device=x.device)
        job = replace(job, table=table, table_stride=dimension)
    if copy or orders:
        gather[(batch * split.parts,)](
            x=x,
            permuted_x=permuted,
            sums=sums,
            table=job.table,
            seed=job.seed,
            x_stride=x.stride(0),
            table_stride=job.table_stride,
            first_sample=job.first,
            PERMUTATION=job.mode.value,
            COPY=copy,
            SUMS=orders,
            D=dimension,
            BITS=parameters.permutation_bits(dimension),
            TILE=split.tile,
            PARTS=split.parts,
            STEPS=split.steps,
            **compiler(split.num_warps),
        )
    return job, permuted, sums


def _spectrum(job: _Job, half: Tensor) -> Tensor:
    """Run the pass over half spectra (B, D // 2 + 1); return the sums of the blocks' losses."""
    batch, dimension = job.x.shape
    split, width = parameters.general_blocks(dimension // 2, job.spec.block_size)
    gaps = _workspace(job.x, batch, split.parts)
    spectrum[(batch * split.parts,)](
        half=half.view(torch.int64),
        blocks=job.output("blocks"),
        gaps=gaps,
        power_weight=job.spec.power_weight,
        target=job.spec.target,
        TASK=job.task.value,
        STATISTIC=job.spec.statistic,
        BLOCK=job.spec.block_size,
        D=dimension,
        ROWS=split.tile,
        WIDTH=width,
        PARTS=split.parts,
        STEPS=split.steps,
        **compiler(split.num_warps),
    )
    return gaps


def _finish(job: _Job, permuted: Tensor, spectral: Tensor, sums: Tensor, gaps: Tensor) -> None:
    """Run the last pass; if there is no gradient, with one program per sample."""
    batch, dimension = job.x.shape
    split = parameters.general(dimension)
    blocks = -(-(dimension // 2) // job.spec.block_size) if job.spec.block_size else 0
    parts = split.parts if job.task.differentiates else 1
    finish[(batch * parts,)](
        v=permuted,
        spectral=spectral,
        loss=job.output("loss"),
        grad=job.output("grad"),
        moments=job.output("moments"),
        table=job.table,
        sums=sums,
        gaps=gaps,
        v_stride=permuted.stride(0),
        table_stride=job.table_stride,
        power_weight=job.spec.power_weight,
        scale=job.scale,
        TASK=job.task.value,
        SPECTRUM=blocks > 0,
        INDEXED=job.mode is not Mode.NONE,
        ORDERS=order_mask(job.spec.orders),
        SUMS=_summed_orders(job),
        FORM=job.spec.form,
        D=dimension,
        BLOCKS=blocks,
        SUM_PARTS=split.parts,
        GAP_PARTS=gaps.shape[-1],
        TILE=split.tile,
        PARTS=parts,
        STEPS=split.steps,
        **compiler(split.num_warps),
    )


def _moments_only(job: _Job) -> None:
    """Run the one launch of a loss without a spectrum."""
    split = parameters.moments(job.x.shape[1])
    moments_only[(len(job.x),)](
        x=job.x,
        loss=job.output("loss"),
        grad=job.output("grad"),
        x_stride=job.x.stride(0),
        scale=job.scale,
        TASK=job.task.value,
        ORDERS=order_mask(job.spec.orders),
        FORM=job.spec.form,
        D=job.x.shape[1],
        TILE=split.tile,
        **compiler(split.num_warps),
    )


def _workspace(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=like.device)
