"""Any dimension: torch's FFTs with fused passes around them, a chunk of the batch at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gaussreg_fast import config
from gaussreg_fast.kernels.general import finish, gather, moments_only, spectrum
from gaussreg_fast.launch._device import compiler, on
from gaussreg_fast.launch._permutation import Permutation, source_of


@dataclass(frozen=True)
class _Job:
    """A task on rows x (B, D), the first of which is number `first` of the batch.

    The rows' permutations: `mode`, `table` and its row stride as `source_of` gives them, `seed`.
    """

    x: Tensor
    outputs: dict[str, Tensor]
    mode: str
    table: Tensor
    table_stride: int
    seed: Tensor
    task: str
    orders: int
    form: str
    power: bool
    block_size: int
    power_weight: float
    target: float
    scale: float
    first: int = 0

    def rows(self, start: int, stop: int) -> _Job:
        """The same for some of the rows."""
        return replace(
            self,
            x=self.x[start:stop],
            outputs={name: out[start:stop] for name, out in self.outputs.items()},
            table=self.table[start:stop] if self.table_stride else self.table,
            first=start,
        )

    @property
    def differentiates(self) -> bool:
        """Whether the task writes a gradient."""
        return self.task in ("gradient", "pullback")

    def output(self, name: str) -> Tensor:
        """An output, or a stand-in that no kernel touches."""
        return self.outputs.get(name, self.x)


def launch(
    x: Tensor,
    permutation: Permutation,
    *,
    task: str,
    outputs: dict[str, Tensor],
    orders: int,
    form: str,
    power: bool,
    block_size: int,
    power_weight: float = 0.0,
    target: float = 0.0,
    scale: float = 1.0,
) -> None:
    """Runs a task of `kernels.fused` on rows x (B, D) of any length into (or from) `outputs`.

    `block_size` 0 leaves the spectrum out.
    """
    batch, dimension = x.shape
    with on(x.device, f"general {task}"):
        mode, table, stride = source_of(permutation if block_size else Permutation(), x)
        seed = x if permutation.seed is None else permutation.seed
        job = _Job(
            x, outputs, mode, table, stride, seed, task, orders, form, power, block_size,
            power_weight, target, scale,
        )  # fmt: skip
        if block_size:
            rows = config.chunk(dimension, batch)
            for start in range(0, batch, rows):
                _chunk(job if rows == batch else job.rows(start, start + rows))
        elif task in ("value", "gradient") and dimension <= config.MOMENTS_IN_ONE_LAUNCH:
            _moments_only(job)
        else:
            _chunk(job)


def _chunk(job: _Job) -> None:
    """All passes over samples whose workspace is there at once."""
    job, permuted, sums = _gathered(job)
    if not job.block_size:
        _finish(job, permuted, permuted, sums, sums)
        return
    half = torch.fft.rfft(permuted)
    gaps = _spectrum(job, half)
    spectral = gaps
    if job.differentiates:
        # Unscaled ("forward" scales the other way): `spectrum` has done that.
        spectral = torch.fft.irfft(half, n=job.x.shape[1], norm="forward")
    _finish(job, permuted, spectral, sums, gaps)


def _summed_orders(job: _Job) -> int:
    """Whose power sums a task needs: a loss also of order 1, see `finish`."""
    return {"pullback": 0, "statistics": job.orders}.get(job.task, job.orders | 2)


def _gathered(job: _Job) -> tuple[_Job, Tensor, Tensor]:
    """The job with its table, the permuted samples (float32 if for an FFT), their power sums."""
    x, (batch, dimension) = job.x, job.x.shape
    split = config.general(dimension)
    orders = _summed_orders(job)
    sums = _workspace(x, batch, orders.bit_count(), split.parts)
    # cuFFT wants real numbers where complex ones could be.
    as_it_is = x.dtype == torch.float32 and x.is_contiguous() and x.data_ptr() % 8 == 0
    copy = job.block_size > 0 and not (as_it_is and job.mode == "none")
    permuted = _workspace(x, batch, dimension) if copy else x
    if job.mode == "seed":
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
            PERMUTATION=job.mode,
            COPY=copy,
            SUMS=orders,
            D=dimension,
            BITS=config.permutation_bits(dimension),
            TILE=split.tile,
            PARTS=split.parts,
            STEPS=split.steps,
            **compiler(split.num_warps),
        )
    return job, permuted, sums


def _spectrum(job: _Job, half: Tensor) -> Tensor:
    """Runs the pass over half spectra (B, D // 2 + 1); the sums of the blocks' losses."""
    batch, dimension = job.x.shape
    split, width = config.general_blocks(dimension // 2, job.block_size)
    gaps = _workspace(job.x, batch, split.parts)
    spectrum[(batch * split.parts,)](
        half=half.view(torch.int64),
        blocks=job.output("blocks"),
        gaps=gaps,
        power_weight=job.power_weight,
        target=job.target,
        TASK=job.task,
        POWER=job.power,
        BLOCK=job.block_size,
        D=dimension,
        ROWS=split.tile,
        WIDTH=width,
        PARTS=split.parts,
        STEPS=split.steps,
        **compiler(split.num_warps),
    )
    return gaps


def _finish(job: _Job, permuted: Tensor, spectral: Tensor, sums: Tensor, gaps: Tensor) -> None:
    """Runs the last pass; where there is no gradient, with one program per sample."""
    batch, dimension = job.x.shape
    split = config.general(dimension)
    blocks = -(-(dimension // 2) // job.block_size) if job.block_size else 0
    parts = split.parts if job.differentiates else 1
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
        power_weight=job.power_weight,
        scale=job.scale,
        TASK=job.task,
        SPECTRUM=blocks > 0,
        INDEXED=job.mode != "none",
        ORDERS=job.orders,
        SUMS=_summed_orders(job),
        FORM=job.form,
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
    """Runs the one launch for losses without a spectrum."""
    split = config.moments(job.x.shape[1])
    moments_only[(len(job.x),)](
        x=job.x,
        loss=job.output("loss"),
        grad=job.output("grad"),
        x_stride=job.x.stride(0),
        scale=job.scale,
        TASK=job.task,
        ORDERS=job.orders,
        FORM=job.form,
        D=job.x.shape[1],
        TILE=split.tile,
        **compiler(split.num_warps),
    )


def _workspace(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=like.device)
