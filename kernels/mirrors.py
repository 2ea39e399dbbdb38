"""Columns of a spectrum beside the columns that mirror them, for samples that fit on the chip.

The last step of the transform takes columns c < C to the numbers Z_{c + C k3}, k3 < R. A bin of a
real sample needs Z_k and Z_{M-k}, which lie in the columns c and C - c, at k3 and R - 1 - k3. The
exchange before that step therefore puts column u beside its mirror C - u, for u < H = C / 2. If
there are at least as many pairs as threads, a thread has both, and Z_k meets Z_{M-k} in registers,
where another exchange would cost as much as a step of the transform. (D = 64 and 128 have fewer
pairs; there the two meet by shuffles.) Columns 0 and H mirror themselves, column 0 at R - k3; they
stand side by side at u = 0.

Bins are held in two tensors (R, H): `low` has the bins u + C k3, `high` the conjugates of the bins
M - u - C k3; at u = 0, where these would be those of `low` once more, it has M - H - C k3.
"""

import triton
import triton.language as tl

from .dft import (
    cosine,
    dft,
    exchange,
    exchange_back,
    halves,
    interleaved,
    joined,
    lower_upper,
    root,
    turned_dft,
)
from .shuffle import shuffled_index


@triton.jit
def packed(re, im):
    """Pack re + i im into an integer of 64 bits, so that both cross shared memory in one access."""
    low = re.to(tl.uint32, bitcast=True).to(tl.uint64)
    return low | (im.to(tl.uint32, bitcast=True).to(tl.uint64) << 32)


@triton.jit
def unpacked(z):
    """Invert `packed`."""
    low, high = z.to(tl.uint32), (z >> 32).to(tl.uint32)
    return low.to(tl.float32, bitcast=True), high.to(tl.float32, bitcast=True)


@triton.jit
def column_of(t, H: tl.constexpr):
    """Return the column at place t = (half, u) of columns and their mirrors."""
    u = t % H
    return tl.where(t < H, u, tl.where(u == 0, H, 2 * H - u))


@triton.jit
def place_of(c, H: tl.constexpr):
    """Invert `column_of`."""
    return tl.where(c < H, c, tl.where(c == H, H, 3 * H - c))


@triton.jit
def pair(re, im, R1: tl.constexpr, R2: tl.constexpr, R3: tl.constexpr):
    """Bring z[k2, (n3, k1)] to [n3, (half, u)], column k1 + R1 k2 beside its mirror."""
    C: tl.constexpr = R1 * R2
    q = tl.arange(0, C * R3)
    c = column_of(q % C, C // 2)
    z = tl.reshape(packed(re, im), (C * R3,))
    z = tl.gather(z, c // R1 * (R3 * R1) + q // C * R1 + c % R1, 0)
    return unpacked(tl.reshape(z, (R3, C)))


@triton.jit
def unpair(re, im, R1: tl.constexpr, R2: tl.constexpr, R3: tl.constexpr):
    """Invert `pair`."""
    C: tl.constexpr = R1 * R2
    q = tl.arange(0, C * R3)
    c = q // (R3 * R1) * R1 + q % R1
    z = tl.reshape(packed(re, im), (C * R3,))
    z = tl.gather(z, q // R1 % R3 * C + place_of(c, C // 2), 0)
    return unpacked(tl.reshape(z, (R2, R3 * R1)))


@triton.jit
def sides(z, H: tl.constexpr):
    """Split (R, (half, u)) into the two halves (R, H)."""
    return tl.split(tl.permute(tl.reshape(z, (z.shape[0], 2, H)), (0, 2, 1)))


@triton.jit
def side_by_side(a, b):
    """Invert `sides`."""
    return tl.reshape(tl.permute(tl.join(a, b), (0, 2, 1)), (a.shape[0], 2 * a.shape[1]))


@triton.jit
def reverse(z):
    """Return row R - 1 - k of (R, H) as row k; if R lies in registers, only their names change."""
    if z.shape[0] == 1:
        return z
    else:
        low, high = lower_upper(z)
        return joined(reverse(high), reverse(low))


@triton.jit
def negate(z):
    """Return row -k mod R of (R, H) as row k."""
    if z.shape[0] <= 2:
        return z
    else:
        R: tl.constexpr = z.shape[0] // 2
        H: tl.constexpr = z.shape[1]
        even, odd = halves(z, R, 1, H)
        even, odd = negate(tl.reshape(even, (R, H))), reverse(tl.reshape(odd, (R, H)))
        return interleaved(tl.reshape(even, (R, 1, H)), tl.reshape(odd, (R, 1, H)))


@triton.jit
def pair_roots(w_re, w_im, middle, R: tl.constexpr):
    """Return the roots of `high` from those of `low`.

    They are the same but at u = 0, `middle`, where row k of `high` is a bin of the column H: its
    root is exp(-i pi (2 k + 1) / 2 R).
    """
    k = tl.expand_dims(tl.arange(0, R), 1)
    c = tl.full((R, 1), 1.0, tl.float32)
    s = tl.full((R, 1), 0.0, tl.float32)
    for i in tl.static_range(R):
        c = tl.where(k == i, cosine(2 * i + 1, 4 * R), c)
        s = tl.where(k == i, -cosine(2 * i + 1 - R, 4 * R), s)
    return tl.where(middle, c, w_re), tl.where(middle, s, w_im)


@triton.jit
def bins(re, im, w_re, w_im, H: tl.constexpr):
    """Return twice the bins of Z at [k3, (half, u)]: `low` and `high`, y_0 up to a rotation.

    With A = Z_k, B = conj Z_{M-k} and w = exp(-2 pi i k / D), `low` is A + B - i w (A - B) and
    `high` A + B + i w (A - B).
    """
    R: tl.constexpr = re.shape[0]
    u = tl.expand_dims(tl.arange(0, H), 0)
    middle = u == 0
    first = middle & (tl.expand_dims(tl.arange(0, R), 1) == 0)
    a_re, d_re = sides(re, H)
    a_im, d_im = sides(im, H)
    b_re, b_im = reverse(d_re), -reverse(d_im)
    m_re, m_im = tl.where(middle, negate(a_re), b_re), tl.where(middle, -negate(a_im), b_im)
    o_re, o_im = a_im - m_im, m_re - a_re
    low_re = a_re + m_re + w_re * o_re - w_im * o_im
    low_im = a_im + m_im + w_re * o_im + w_im * o_re
    low_re, low_im = tl.where(first, 2 * a_re, low_re), tl.where(first, 2 * a_im, low_im)

    a_re, a_im = tl.where(middle, d_re, a_re), tl.where(middle, d_im, a_im)
    o_re, o_im = a_im - b_im, b_re - a_re
    w_re, w_im = pair_roots(w_re, w_im, middle, R)
    high_re = a_re + b_re - w_re * o_re + w_im * o_im
    high_im = a_im + b_im - w_re * o_im - w_im * o_re
    return low_re, low_im, high_re, high_im


@triton.jit
def bins_adjoint(low_re, low_im, high_re, high_im, w_re, w_im):
    """Apply the adjoint of `bins`."""
    R: tl.constexpr = low_re.shape[0]
    H: tl.constexpr = low_re.shape[1]
    middle = tl.expand_dims(tl.arange(0, H), 0) == 0
    first = middle & (tl.expand_dims(tl.arange(0, R), 1) == 0)
    # The gradients by A and by B are (1 + i conj w) low and (1 - i conj w) low; so for high.
    a_re = low_re + w_im * low_re - w_re * low_im
    a_im = low_im + w_re * low_re + w_im * low_im
    m_re, m_im = tl.fma(low_re, 2.0, -a_re), tl.fma(low_im, 2.0, -a_im)
    a_re, a_im = tl.where(first, 2 * low_re, a_re), tl.where(first, 2 * low_im, a_im)
    m_re, m_im = tl.where(first, 0.0, m_re), tl.where(first, 0.0, m_im)
    w_re, w_im = pair_roots(w_re, w_im, middle, R)
    b_re = high_re + w_im * high_re - w_re * high_im
    b_im = high_im + w_re * high_re + w_im * high_im
    d_re, d_im = tl.fma(high_re, 2.0, -b_re), tl.fma(high_im, 2.0, -b_im)

    a_re += tl.where(middle, negate(m_re), d_re)
    a_im += tl.where(middle, -negate(m_im), d_im)
    b_re = reverse(b_re + tl.where(middle, 0.0, m_re)) + tl.where(middle, d_re, 0.0)
    b_im = -reverse(b_im + tl.where(middle, 0.0, m_im)) + tl.where(middle, d_im, 0.0)
    return side_by_side(a_re, b_re), side_by_side(a_im, b_im)


@triton.jit
def place_in_order(f, BLOCK: tl.constexpr, R: tl.constexpr, H: tl.constexpr):
    """Return where number f of all bins lies in `low` and, after it, `high`, flattened.

    The order of bins is such that BLOCK of them at a time are a block of the spectrum. Blocks of
    up to H bins are taken as they lie: in `low` ascending, in `high` descending from u = 1 to H,
    which is u = 0. Wider blocks are taken from both, in the order of the spectrum.
    """
    if BLOCK <= H:
        row = f // H
        return row * H + (f % H + row // R) % H
    else:
        c, k3 = f % (2 * H), f // (2 * H)
        high = (2 * R - 1 - k3) * H + tl.where(c == H, 0, 2 * H - c)
        return tl.where(c < H, k3 * H + c, high)


@triton.jit
def order_of_place(q, BLOCK: tl.constexpr, R: tl.constexpr, H: tl.constexpr):
    """Invert `place_in_order`."""
    row, u = q // H, q % H
    if BLOCK <= H:
        return row * H + (u + H - row // R) % H
    else:
        high = (2 * R - 1 - row) * (2 * H) + tl.where(u == 0, H, 2 * H - u)
        return tl.where(row < R, row * (2 * H) + u, high)


@triton.jit
def block_order(BLOCK: tl.constexpr, R: tl.constexpr, H: tl.constexpr):
    """Return the blocks of the spectrum in the order of `place_in_order`: (2 R H / BLOCK,)."""
    p = tl.arange(0, 2 * R * H // BLOCK)
    if BLOCK <= H:
        W: tl.constexpr = H // BLOCK
        row, j = p // W, p % W
        return tl.where(row < R, row * (2 * W) + j, (2 * R - row) * (2 * W) - 1 - j)
    else:
        return p


@triton.jit
def by_block(low, high, BLOCK: tl.constexpr):
    """Bring numbers of bins to (BLOCK, P): a column is a block, shuffled (`shuffled_index`)."""
    R: tl.constexpr = low.shape[0]
    H: tl.constexpr = low.shape[1]
    P: tl.constexpr = 2 * R * H // BLOCK
    place = place_in_order(shuffled_index(P, BLOCK), BLOCK, R, H)
    flat = tl.reshape(tl.permute(tl.join(low, high), (2, 0, 1)), (2 * R * H,))
    return tl.reshape(tl.gather(flat, place, 0), (BLOCK, P))


@triton.jit
def to_bins(z, BLOCK: tl.constexpr, R: tl.constexpr, H: tl.constexpr):
    """Bring numbers of bins in the order of blocks, or one per block, to `low` and `high`."""
    q = order_of_place(tl.arange(0, 2 * R * H), BLOCK, R, H) // (2 * R * H // z.shape[0])
    return tl.split(tl.permute(tl.reshape(tl.gather(z, q, 0), (2, R, H)), (1, 2, 0)))


@triton.jit
def fourier_paired(
    re, im, roots, D: tl.constexpr, R1: tl.constexpr, R2: tl.constexpr, R3: tl.constexpr
):
    """Do `fourier` of one transform, with columns beside their mirrors: [k3, (half, u)]."""
    re, im = dft(re, im, -1)
    re, im = exchange(re, im, R1, R2, R3)
    c, s = root(roots, R1 * R2, tl.arange(0, R3 * R1) % R1, D, "")
    re, im = turned_dft(re, im, c, s, -1)
    re, im = pair(re, im, R1, R2, R3)
    c, s = root(roots, R1 * R2 * R3, column_of(tl.arange(0, R1 * R2), R1 * R2 // 2), D, "")
    return turned_dft(re, im, c, s, -1)


@triton.jit
def fourier_paired_back(
    re, im, roots, D: tl.constexpr, R1: tl.constexpr, R2: tl.constexpr, R3: tl.constexpr
):
    """Apply the adjoint of `fourier_paired`, with the places of input and output exchanged."""
    re, im = dft(re, im, 1)
    re, im = unpair(re, im, R1, R2, R3)
    c, s = root(roots, R2 * R3, tl.arange(0, R3 * R1) // R1, D, ".cg")
    re, im = turned_dft(re, im, c, s, 1)
    re, im = exchange_back(re, im, R1, R2, R3)
    c, s = root(roots, R1 * R2 * R3, tl.arange(0, R2 * R3), D, ".cg")
    return turned_dft(re, im, c, s, 1)
