"""Permutation v1, and how samples are permuted by it."""

from __future__ import annotations

import torch
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15
STREAM = 0xD1B54A32D192ED03
MASK32 = 0xFFFFFFFF


def _signed(z: int) -> int:
    return (z + (1 << 63)) % (1 << 64) - (1 << 63)


def _mix64(z: Tensor) -> Tensor:
    """Return splitmix64's finaliser of int64 tensors that stand for 64 unsigned bits."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        z = (z ^ ((z >> shift) & ((1 << (64 - shift)) - 1))) * _signed(factor)
    return z


def permutation(
    seed: Tensor, size: int, *, samples: int | None = None, inverse: bool = False
) -> Tensor:
    """Return permutation v1: a keyed bijection of 0..size-1, the same everywhere and for ever.

    A Feistel network on max(2, ceil(log2 size)) bits, bits // 2 of them the low half, with 12
    rounds (24 below 6 bits) and cycle walking where `size` is not a power of two. A round xors
    into one half, the high one first, the uppermost bits of (other half * multiplier + addend)
    mod 2^32. Both come from a splitmix64 word of the seed and the sample's number: the
    multiplier is its high part made odd, the addend its low part.

    Args:
        seed: int64, one element.
        size: D, at most 2^31.
        samples: None for the shared permutation, (D,); a number for one permutation per
            sample, (samples, D). Row 0 is the shared permutation.
        inverse: whether to return the inverse permutations instead.
    """
    bits = max(2, (size - 1).bit_length())
    low = bits // 2
    high = bits - low
    rounds = 12 if bits > 5 else 24
    number = torch.arange(samples or 1, dtype=torch.int64, device=seed.device)
    state = _mix64(seed.reshape(()) + _signed(GOLDEN)) + number * _signed(STREAM)
    words = [_mix64(state + _signed((r + 1) * GOLDEN))[:, None] for r in range(rounds)]

    def network(value: Tensor) -> Tensor:
        left, right = value >> low, value & ((1 << low) - 1)
        for r in range(rounds)[:: -1 if inverse else 1]:
            factor, addend = ((words[r] >> 32) & MASK32) | 1, words[r] & MASK32
            if r % 2 == 0:
                left = left ^ (((right * factor + addend) & MASK32) >> (32 - high))
            else:
                right = right ^ (((left * factor + addend) & MASK32) >> (32 - low))
        return (left << low) | right

    value = network(
        torch.arange(size, dtype=torch.int64, device=seed.device).expand(len(number), size)
    )
    if size != 1 << bits:
        while bool((outside := value >= size).any()):
            value = torch.where(outside, network(value), value)
    return value[0] if samples is None else value


def gather(x: Tensor, index: Tensor | None) -> Tensor:
    """Return xp with xp[j] = x[index[j]] in each row."""
    if index is None:
        return x
    return x.index_select(1, index) if index.dim() == 1 else x.gather(1, index)


def scatter(g: Tensor, index: Tensor | None) -> Tensor:
    """Apply the transpose of `gather`: out[index[j]] = g[j]."""
    if index is None:
        return g
    return torch.empty_like(g).scatter_(1, index.expand_as(g), g)
