"""Transposing within shared memory: rows of a tensor come to be columns, each in one thread.

A gather leaves its results in the layout of its indices, and all later steps with them; so it says
for sure where numbers lie. In this layout a thread has whole columns if there are at least as many
of them as threads. (In a program of one warp the gather becomes shuffles, many more instructions.)

Rows of 16 numbers, each read by a thread of its own, would all begin in one of two banks. So thread
p takes them in another order, number i ^ (p / 2 mod R) at step i. If R = 16, the threads of a warp
then read from all banks; other R still have some conflicts.
"""

import triton
import triton.language as tl

from .dft import halves, interleaved, log2


@triton.jit
def shuffled_index(P: tl.constexpr, R: tl.constexpr):
    """Return which numbers of a flat (P, R) make the columns of a flat (R, P), shuffled."""
    q = tl.arange(0, P * R)
    p = q % P
    return p * R + ((q // P) ^ (p // 2 % R))


@triton.jit
def unshuffled(z):
    """Put the columns of (R, P) into order, within threads."""
    R: tl.constexpr = z.shape[0]
    P: tl.constexpr = z.shape[1]
    for level in tl.static_range(log2(R)):
        swapped = tl.reshape(tl.arange(0, P) // 2 >> level, (1, 1, P)) % 2 == 1
        low, high = halves(z, R >> (level + 1), 1 << level, P)
        z = interleaved(tl.where(swapped, high, low), tl.where(swapped, low, high))
    return z


@triton.jit
def transposed(a):
    """Transpose (P, R) to (R, P), with each column in one thread."""
    P: tl.constexpr = a.shape[0]
    R: tl.constexpr = a.shape[1]
    flat = tl.gather(tl.reshape(a, (P * R,)), shuffled_index(P, R), 0)
    return unshuffled(tl.reshape(flat, (R, P)))
