"""Comparison of a result with the same function in float64, as far as float32 determines it.

Where a result is a small difference of large terms, or jumps, the input's last digit decides it.
So a result that differs by more than its tolerance is compared with the function's results for
inputs that differ by float32's rounding: it may differ from the exact one as far as these do.
"""

import torch

_TRIES = 6
_REACH = 8  # a result may be so many times as far off as the inputs that are tried
_ROUNDING = {torch.float64: 4e-15}  # relative to the size of a row; a transform's included
_FLOAT32 = 4e-7
TOLERANCES = {torch.float64: (1e-9, 1e-9)}  # of values, and of gradients
_TOLERANCES = (1e-5, 1e-4)


def _moved(x, rounding):
    """Yields copies of x, rows in float64, that differ from it by rounding."""
    size = x.nan_to_num(0, 0, 0).flatten(1).square().mean(1).sqrt() if x.numel() else x.sum()
    size = rounding * size.reshape(-1, *[1] * (x.dim() - 1))
    generator = torch.Generator().manual_seed(0)
    for sign in (-1, 1):
        yield x + sign * size
        yield x * (1 + sign * rounding)
    for _ in range(_TRIES):
        yield x + size * torch.randn(x.shape, generator=generator, dtype=x.dtype)


def _rows(t):
    return t.detach().double().reshape(len(t), -1) if t.dim() else t.detach().double().view(1, 1)


def _gap(a, b, whole):
    """Returns |a - b| of each number, or its norm for each row if `whole`; 0 for equal ones."""
    gap = torch.where((a == b) | (a.isnan() & b.isnan()), 0, a - b).abs()
    return gap.norm(dim=1) if whole else gap


def check(got, function, *inputs, dtype, gradients=1):
    """Asserts that the results `got` are those of `function` at `inputs`, all in float64.

    The last `gradients` results are compared as rows of a whole, in the dtype of x; the others
    number by number.
    """
    exact = function(*inputs)
    assert len(got) == len(exact)
    tolerances = TOLERANCES.get(dtype, _TOLERANCES)
    rounding = _ROUNDING.get(dtype, _FLOAT32)
    pending = []
    for i, (g, w) in enumerate(zip(got, exact, strict=True)):
        whole = i >= len(got) - gradients
        assert g.shape == w.shape, (i, g.shape, w.shape)
        tolerance = tolerances[whole]
        info = torch.finfo(g.dtype)
        if g.dtype in (torch.float16, torch.bfloat16):
            tolerance += info.eps
        g, w = _rows(g), _rows(w)
        reach = w.abs() > info.max / 2  # such a number may be inf in this dtype
        g, w = torch.where(reach, 0, g), torch.where(reach, 0, w)
        assert torch.equal(g.isnan(), w.isnan()), f"result {i}: NaN at other places"
        floor = info.tiny * info.eps * max(1, g.shape[1]) ** 0.5 + 1e-37 * (dtype != torch.float64)
        size = w.nan_to_num(0).norm(dim=1) if whole else w.nan_to_num(0).abs()
        error = _gap(g, w, whole)
        if (error > tolerance * size + floor).any():
            pending.append((i, g, w, whole, error, tolerance * size + floor, reach))
    if not pending:
        return
    spread = [torch.zeros_like(error) for _, _, _, _, error, _, _ in pending]
    for k in range(len(inputs)):
        for other in _moved(inputs[k], rounding):
            results = function(*inputs[:k], other, *inputs[k + 1 :])
            for n, (i, _, w, whole, _, _, reach) in enumerate(pending):
                moved = torch.where(reach, 0, _rows(results[i]))
                spread[n] = torch.maximum(spread[n], _gap(moved, w, whole).nan_to_num(0))
    for (i, g, w, _, error, allowed, _), far in zip(pending, spread, strict=True):
        wrong = error > allowed + _REACH * far
        assert not wrong.any(), f"result {i}: {g}, exact {w}, error {error}, spread {far}"
