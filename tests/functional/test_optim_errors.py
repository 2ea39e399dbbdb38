"""Arguments that `WhiteNoiseProjection` refuses."""

import pytest
import torch
from draws import leaf

import gaussreg_fast as gf


def sgd(*params):
    return torch.optim.SGD(params, lr=0.1)


def bad_inputs():
    x, y = leaf(2, 64), leaf(2, 65)
    flat, short = leaf(64), leaf(2, 16)
    return {
        "no optimiser": (lambda: gf.WhiteNoiseProjection([x], [x]), TypeError, "optimizer.*list"),
        "lbfgs": (
            lambda: gf.WhiteNoiseProjection(torch.optim.LBFGS([x]), [x]),
            TypeError,
            "LBFGS",
        ),
        "a tensor": (lambda: gf.WhiteNoiseProjection(sgd(x), x), TypeError, r"\[x\]"),
        "nothing": (
            lambda: gf.WhiteNoiseProjection(sgd(x), None),
            TypeError,
            "params must be a sequence of tensors, got NoneType",
        ),
        "none": (lambda: gf.WhiteNoiseProjection(sgd(x), []), ValueError, "at least one"),
        "no tensors": (
            lambda: gf.WhiteNoiseProjection(sgd(x), ["x"]),
            TypeError,
            r"params\[0\].*str",
        ),
        "twice": (lambda: gf.WhiteNoiseProjection(sgd(x), [x, x]), ValueError, "twice"),
        "not held": (
            lambda: gf.WhiteNoiseProjection(sgd(x), [x, leaf(2, 64)]),
            ValueError,
            r"params\[1\] must be a parameter",
        ),
        "one sample": (
            lambda: gf.WhiteNoiseProjection(sgd(flat), [flat]),
            ValueError,
            r"params\[0\] must have shape",
        ),
        "odd": (
            lambda: gf.WhiteNoiseProjection(sgd(x, y), [x, y]),
            ValueError,
            r"params\[1\] cannot be projected: .*32.*65",
        ),
        "short": (lambda: gf.WhiteNoiseProjection(sgd(short), [short]), ValueError, "16"),
        "project": (
            lambda: gf.WhiteNoiseProjection(sgd(x), [x], "latent"),
            ValueError,
            "project must be one of 'gradient', 'both', got 'latent'",
        ),
        "block size": (
            lambda: gf.WhiteNoiseProjection(sgd(x), [x], block_size=1),
            ValueError,
            "block_size",
        ),
        "backend": (
            lambda: gf.WhiteNoiseProjection(sgd(x), [x], backend="cuda"),
            ValueError,
            "backend",
        ),
    }


@pytest.mark.parametrize("name", bad_inputs())
def test_bad_input(name):
    call, error, message = bad_inputs()[name]
    with pytest.raises(error, match=message):
        call()


def test_sparse_gradients_are_refused():
    x = leaf(2, 64)
    x.grad = torch.zeros(2, 64).to_sparse()
    with pytest.raises(TypeError, match="dense"):
        gf.WhiteNoiseProjection(sgd(x), [x]).step()
    assert x.grad.is_sparse
