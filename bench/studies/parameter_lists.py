"""Lists of trainable parameters: those of Stable Diffusion 1.5's UNet, and many small ones."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Shapes = list[tuple[int, ...]]


def unet_shapes(divisor: int = 1) -> Shapes:
    """Return the shapes of Stable Diffusion 1.5's UNet with divided channels and widths."""
    channels = [c // divisor for c in (320, 640, 1280, 1280)]
    time, context = 4 * channels[0], 768 // divisor
    shapes: Shapes = [*_conv(4, channels[0]), *_linear(channels[0], time), *_linear(time, time)]
    skips, width = [channels[0]], channels[0]
    for level, c in enumerate(channels):
        for _ in range(2):
            shapes += _resnet(width, c, time) + (_attention(c, context) if level < 3 else [])
            width = c
            skips.append(c)
        if level < 3:
            shapes += _conv(c, c)
            skips.append(c)
    shapes += _resnet(width, width, time) + _attention(width, context) + _resnet(width, width, time)
    for level, c in reversed(list(enumerate(channels))):
        for _ in range(3):
            shapes += _resnet(width + skips.pop(), c, time)
            shapes += _attention(c, context) if level < 3 else []
            width = c
        shapes += _conv(c, c) if level else []
    return shapes + [(width,)] * 2 + _conv(width, 4)


def _linear(n: int, m: int, bias: bool = True) -> Shapes:
    return [(m, n), (m,)] if bias else [(m, n)]


def _conv(n: int, m: int, size: int = 3) -> Shapes:
    return [(m, n, size, size), (m,)]


def _resnet(n: int, m: int, time: int) -> Shapes:
    shortcut = [] if n == m else _conv(n, m, 1)
    return [(n,)] * 2 + _conv(n, m) + _linear(time, m) + [(m,)] * 2 + _conv(m, m) + shortcut


def _attention(c: int, context: int) -> Shapes:
    shapes = [(c,)] * 2 + _conv(c, c, 1) + [(c,)] * 6
    for width in (c, context):
        shapes += [(c, c), (c, width), (c, width), *_linear(c, c)]
    return shapes + _linear(c, 8 * c) + _linear(4 * c, c) + _conv(c, c, 1)


LISTS: dict[str, Callable[[], Shapes]] = {
    "UNet / 2": lambda: unet_shapes(2),
    "UNet / 8": lambda: unet_shapes(8),
    "first 48 of UNet / 8": lambda: unet_shapes(8)[:48],
    "largest 48 of UNet / 2": lambda: sorted(unet_shapes(2), key=math.prod)[-48:],
    "2000 small": lambda: [(64 + 61 * i % 960,) for i in range(2000)],
}


def pair(shapes: Shapes) -> tuple[list[Tensor], list[Tensor]]:
    """Draw parameters and their base."""
    generator = torch.Generator().manual_seed(0)
    base = [torch.randn(shape, generator=generator) for shape in shapes]
    params = [b + 0.1 * torch.randn(b.shape, generator=generator) for b in base]
    return [p.requires_grad_() for p in params], base
