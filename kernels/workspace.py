"""The workspace between the launches of `columns` and `rows`, and the places in it.

z holds the transforms of N2 / 2 packed columns: N1 rows of N2 / 2 complex numbers. 16 rows fill a
run of memory, interleaved number by number. `edges` (N1 / 16, N2 / 2) holds every 16th row once
more, for the second program that needs it.
"""

import triton
import triton.language as tl

from .dft import joined, lower_upper


@triton.jit
def load_complex(z, places, mask=None):
    """Load z[places] of an interleaved complex array, or 0 where a mask is false."""
    last = tl.expand_dims(tl.expand_dims(tl.arange(0, 2), 0), 0)
    at = z + (2 * tl.expand_dims(places, 2) + last)
    if mask is None:
        return tl.split(tl.load(at))
    else:
        mask = tl.expand_dims(tl.broadcast_to(mask, places.shape), 2)
        mask = tl.broadcast_to(mask, (places.shape[0], places.shape[1], 2))
        return tl.split(tl.load(at, mask=mask, other=0.0))


@triton.jit
def store_complex(z, places, re, im, mask=None):
    """Store re + i im to z[places], masked if there is a mask."""
    last = tl.expand_dims(tl.expand_dims(tl.arange(0, 2), 0), 0)
    if mask is not None:
        mask = tl.expand_dims(tl.broadcast_to(mask, places.shape), 2)
        mask = tl.broadcast_to(mask, (places.shape[0], places.shape[1], 2))
    tl.store(z + (2 * tl.expand_dims(places, 2) + last), tl.join(re, im), mask=mask)


@triton.jit
def row_place(k1, m, N2: tl.constexpr):
    """Return where z holds number m of row k1: 16 rows are interleaved number by number."""
    return k1 // 16 * (8 * N2) + m * 16 + k1 % 16


@triton.jit
def place_in_z(low, high, m, N2: tl.constexpr):
    """Return where z holds number m of rows low + high, high being a multiple of 16."""
    return high * (N2 // 2) + row_place(low, m, N2)


@triton.jit
def place_in_edges(low, high, m, N2: tl.constexpr):
    """Return where `edges` holds number m of row low + high, a multiple of 16."""
    return high // 16 * (N2 // 2) + (low // 16 * (N2 // 2) + m)


@triton.jit
def tile_places(i, N1: tl.constexpr, C1: tl.constexpr, C: tl.constexpr):
    """Return where z holds rows 16 i + r and their mirrors: [m, r] as (C1 / 2, 16 C)."""
    N2: tl.constexpr = C1 * C
    SIZE: tl.constexpr = 16 * C
    c1 = tl.expand_dims(tl.arange(0, C1 // 2), 1) * SIZE
    t = tl.arange(0, SIZE)
    r = t % 16
    # 15 of the mirrors are in one group of rows, in descending order, the first is in the next.
    group = tl.where(r == 0, (N1 // 16 - i) % (N1 // 16), N1 // 16 - 1 - i)
    mirror = group * (8 * N2) + t - r + (16 - r) % 16
    return i * (8 * N2) + c1 + tl.expand_dims(t, 0), c1 + tl.expand_dims(mirror, 0)


@triton.jit
def edge_places(i, N1: tl.constexpr, C1: tl.constexpr, C: tl.constexpr, COPIES: tl.constexpr):
    """Return where `edges` holds row 16 i + 16 and its mirror: [m, copy] as (C1 / 2, C COPIES)."""
    N2: tl.constexpr = C1 * C
    m = tl.expand_dims(tl.arange(0, C1 // 2), 1) * C
    m += tl.expand_dims(tl.arange(0, C * COPIES) // COPIES, 0)
    return (i + 1) * (N2 // 2) + m, (N1 // 16 - 1 - i) * (N2 // 2) + m


@triton.jit
def load_rows(z, own, mirror):
    """Load twice the numbers of rows from their places and their mirrors': [m, t] -> [n2, t]."""
    re, im = load_complex(z, own)
    m_re, m_im = load_complex(z, mirror)
    return joined(re + m_re, im + m_im), joined(im - m_im, m_re - re)


@triton.jit
def store_rows(z, own, mirror, re, im, k1, N1: tl.constexpr, COPIES: tl.constexpr):
    """Apply the adjoint of `load_rows` to rows k1; rows 0 and N1 / 2 are their own mirrors.

    If a row has COPIES, side by side, the first of them is stored.
    """
    paired = tl.expand_dims(k1 % (N1 // 2), 0) > 0
    stored = tl.expand_dims(tl.arange(0, own.shape[1]) % COPIES == 0, 0)
    a_re, b_re = lower_upper(re)
    a_im, b_im = lower_upper(im)
    re, im = a_re - b_im, a_im + b_re
    m_re, m_im = a_re + b_im, b_re - a_im
    re, im = tl.where(paired, re, re + m_re), tl.where(paired, im, im + m_im)
    store_complex(z, own, re, im, mask=stored)
    store_complex(z, mirror, m_re, m_im, mask=stored & paired)


@triton.jit
def store_columns(z, edges, re, im, low, high, m, N1: tl.constexpr, N2: tl.constexpr):
    """Store rows low + high of transformed columns m in z and, every 16th row, in `edges`.

    Row N1 / 2 is in `edges` alone, row 0 in z alone, since `load_columns` adds both.
    """
    k1 = low + high
    z_re, z_im = tl.where(k1 == N1 // 2, 0.0, re), tl.where(k1 == N1 // 2, 0.0, im)
    store_complex(z, place_in_z(low, high, m, N2), z_re, z_im)
    re, im = tl.where(k1 == 0, 0.0, re), tl.where(k1 == 0, 0.0, im)
    store_complex(edges, place_in_edges(low, high, m, N2), re, im, mask=low % 16 == 0)


@triton.jit
def load_columns(z, edges, low, high, m, N2: tl.constexpr):
    """Load rows low + high of columns m, the sum of both workspaces where they have both."""
    re, im = load_complex(z, place_in_z(low, high, m, N2))
    e_re, e_im = load_complex(edges, place_in_edges(low, high, m, N2), mask=low % 16 == 0)
    return re + e_re, im + e_im
