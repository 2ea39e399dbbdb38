"""Drift of LoRA's factors and of their products."""

import numpy as np
import pytest
import torch
from drift_lists import array, lora_pairs

import gaussreg_fast as gf


def test_lora_product_is_the_drift_of_the_weights():
    factors = lora_pairs()
    want = 0.3 * sum((b.flatten(1) @ a.flatten(1)).square().sum() for a, b in factors)
    flat = [t for pair in factors for t in pair]
    grads = torch.autograd.grad(want, flat)
    value = gf.lora_drift(factors, weight=0.3, form="product")
    torch.testing.assert_close(value, want)
    for g, w in zip(torch.autograd.grad(value, flat), grads, strict=True):
        torch.testing.assert_close(g, w)


@pytest.mark.parametrize("form", ["factors", "product"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_lora_forms(compare, form, dtype):
    factors = lora_pairs(dtype)
    value = gf.lora_drift({f"layer {i}": p for i, p in enumerate(factors)}, weight=2, form=form)
    arrays = [(array(a).reshape(len(a), -1), array(b).reshape(len(b), -1)) for a, b in factors]
    want = {
        "factors": sum((a**2).sum() + (b**2).sum() for a, b in arrays),
        "product": sum(((b @ a) ** 2).sum() for a, b in arrays),
    }[form]
    assert value.dtype == (dtype if dtype == torch.float64 else torch.float32)
    compare.values(value, np.float64(2 * want), 1e-5)
    value.backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(gf.lora_drift(factors, weight=2, form=form), value)
    for (a, _), (fa, fb) in zip(factors, arrays, strict=True):
        g = 4 * fa if form == "factors" else 4 * (fb.T @ fb) @ fa
        tolerance = 1e-5 + (torch.finfo(dtype).eps if dtype == torch.bfloat16 else 0)
        compare.vectors(a.grad.reshape(1, -1), g.reshape(1, -1), tolerance)


def test_lora_product_never_forms_the_update():
    """The update of 30000 x 30000 would take 3.6 GB."""
    a, b = torch.randn(2, 30000, requires_grad=True), torch.randn(30000, 2, requires_grad=True)
    with torch.profiler.profile(profile_memory=True) as profile:
        gf.lora_drift([(a, b)], form="product").backward()
    assert max(event.cpu_memory_usage for event in profile.events()) < 4 * a.numel() * 4
