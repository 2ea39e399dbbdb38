"""The white-noise projection (GPER) in one launch, for samples that fit on the chip.

The transforms are those of `fused`, without a permutation, so samples are read in the packed order
and need no exchange. Between the transforms lengths are transposed for `nearest`, so that one
thread holds those of a block.
"""

import math

import triton
import triton.language as tl

from .dft import fourier, fourier_back
from .loss_fused import mirrored
from .metadata import by_part, transform, work
from .nearest import directed, nearest, peak_of, unit_scale
from .spectrum import amplitudes, bin_roots, untangle, untangle_adjoint
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
    C: tl.constexpr = R1 * R2
    P: tl.constexpr = M // BLOCK
    sample = tl.program_id(0).to(tl.int64)
    n = tl.expand_dims(tl.arange(0, R1), 1) * T + tl.expand_dims(tl.arange(0, T), 0)
    re, im = load_complex(x + sample * x_stride, n)
    re, im = re.to(tl.float32), im.to(tl.float32)
    scale = unit_scale(tl.maximum(peak_of(re), peak_of(im)))
    re, im = fourier(re * scale, im * scale, roots, 2, R1, R2, R3, 1)
    first = (tl.expand_dims(tl.arange(0, R3), 1) == 0) & (tl.expand_dims(tl.arange(0, C), 0) == 0)
    m_re, m_im = mirrored(re, im)
    w_re, w_im = bin_roots(roots, tl.arange(0, C), D, R3, "")
    re, im = untangle(re, im, m_re, m_im, w_re, w_im, first)

    a, inverse = amplitudes(re, im, "amplitude", 1.0)
    place = tl.expand_dims(tl.arange(0, BLOCK), 1)
    a = nearest(tl.trans(tl.reshape(a, (P, BLOCK))), place >= 0, place, BLOCK)
    a = tl.reshape(tl.trans(a), (R3, C)) * (1 / D**0.5)
    # Direction 1; that of y_0 is rotated back, since `untangle` leaves out a rotation of y_0.
    one_re, one_im = tl.where(first, HALF_ROOT, 1.0), tl.where(first, HALF_ROOT, 0.0)
    re, im = directed(re, im, inverse, a, one_re, one_im)

    m_re, m_im = mirrored(re, im)
    w_re, w_im = bin_roots(roots, tl.arange(0, C), D, R3, ".cg")
    re, im = untangle_adjoint(re, im, m_re, m_im, w_re, w_im, first)
    re, im = fourier_back(re, im, roots, 2, R1, R2, R3, 1)
    element = out.dtype.element_ty
    store_complex(out + sample * D, n, re.to(element), im.to(element))
