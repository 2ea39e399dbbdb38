"""The white-noise projection (GPER) in one launch, for samples that fit on the chip.

The transforms are those of `fused`, without a permutation, so samples are read in the packed order
and need no exchange. Between the transforms lengths are gathered by block for `nearest`, so that
one thread holds those of a block.
"""

import math

import triton
import triton.language as tl

from .metadata import by_part, transform, work
from .mirrors import (
    bins,
    bins_adjoint,
    by_block,
    fourier_paired,
    fourier_paired_back,
    to_bins,
)
from .nearest import directed, nearest, peak_of, unit_scale
from .shuffle import unshuffled
from .spectrum import amplitudes, bin_roots
from .workspace import load_complex, store_complex

HALF_ROOT = tl.constexpr(math.sqrt(0.5))


def _project_work(args):
    dimension = args["D"]
    moved = args["x"].element_size() + args["out"].element_size()
    return dimension * moved, 2 * transform(dimension // 2) + 60 * dimension


@triton.jit(launch_metadata=work(by_part, _project_work))
def project(
    x, out, roots, x_stride, BLOCK: tl.constexpr, D: tl.constexpr,
    R1: tl.constexpr, R2: tl.constexpr, R3: tl.constexpr,
):  # fmt: skip
    """Project one sample of x (B, D) per program, D = 64 to 32768, into a row of out."""
    M: tl.constexpr = D // 2
    T: tl.constexpr = M // R1
    H: tl.constexpr = R1 * R2 // 2
    P: tl.constexpr = M // BLOCK
    sample = tl.program_id(0).to(tl.int64)
    n = tl.expand_dims(tl.arange(0, R1), 1) * T + tl.expand_dims(tl.arange(0, T), 0)
    re, im = load_complex(x + sample * x_stride, n)
    re, im = re.to(tl.float32), im.to(tl.float32)
    scale = unit_scale(tl.maximum(peak_of(re), peak_of(im)))
    re, im = fourier_paired(re * scale, im * scale, roots, D, R1, R2, R3)
    w_re, w_im = bin_roots(roots, tl.arange(0, H), D, R3, "")
    low_re, low_im, high_re, high_im = bins(re, im, w_re, w_im, H)
    low, low_inverse = amplitudes(low_re, low_im, "amplitude", 1.0)
    high, high_inverse = amplitudes(high_re, high_im, "amplitude", 1.0)

    place = tl.expand_dims(tl.arange(0, BLOCK), 1)
    block = tl.expand_dims(tl.arange(0, P), 0)
    # In `high` bins ascend where places descend.
    place = tl.where((block < P // 2) | (BLOCK > H), place, BLOCK - 1 - place)
    a = nearest(unshuffled(by_block(low, high, BLOCK)), place >= 0, place, BLOCK)
    low, high = to_bins(tl.reshape(tl.trans(a), (M,)) * (1 / D**0.5), BLOCK, R3, H)
    # The direction 1, of y_0 before the rotation that `bins` leaves out.
    first = (tl.expand_dims(tl.arange(0, R3), 1) == 0) & (tl.expand_dims(tl.arange(0, H), 0) == 0)
    one_re, one_im = tl.where(first, HALF_ROOT, 1.0), tl.where(first, HALF_ROOT, 0.0)
    low_re, low_im = directed(low_re, low_im, low_inverse, low, one_re, one_im)
    high_re, high_im = directed(high_re, high_im, high_inverse, high, 1.0, 0.0)

    w_re, w_im = bin_roots(roots, tl.arange(0, H), D, R3, ".cg")
    re, im = bins_adjoint(low_re, low_im, high_re, high_im, w_re, w_im)
    re, im = fourier_paired_back(re, im, roots, D, R1, R2, R3)
    element = out.dtype.element_ty
    store_complex(out + sample * D, n, re.to(element), im.to(element))
