"""Calls of one backend with kernels of its own, and a size for each way in which it computes."""

import pytest
import torch
from backends_here import NEEDS, device_of
from draws import noise_by_size

import gaussreg_fast as gf
from gaussreg_fast.backends import native
from gaussreg_fast.backends.triton import parameters

# One size of each way to compute. Native: fused in one tile, in some, any size round torch.fft.
# Triton: one launch, three (see `take_512_in_three_launches`), any number.
WAYS = {
    "native": {"fused": 64, "tiles": 2048, "general": 101},
    "triton": {"fused": 64, "large": 512, "general": 101},
}


class Calls:
    """The calls under test, by one backend."""

    def __init__(self, backend):
        self.backend = backend
        self.device = device_of(backend)

    def samples(self, *shape, **options):
        """Noise off its mean and scale, where the backend computes."""
        return noise_by_size(*shape, scale=1.3, offset=0.4, device=self.device, **options)

    def value_and_grad(self, x, backend=None, **options):
        """The unreduced loss and its gradient."""
        options = {"seed": 3, "reduction": "none", "backend": backend or self.backend, **options}
        return gf.gaussianity_value_and_grad(x, **options)

    def statistics_and_pullback(self, x, **options):
        """The statistics, and their gradient for upstream gradients that are all 1."""
        z = x.detach().requires_grad_()
        options = {"orders": (1, 2, 3), "seed": 3, "backend": self.backend, **options}
        outputs = gf.permuted_statistics(z, **options)
        sum(t.sum() for t in outputs).backward()
        return (*(t.detach() for t in outputs), z.grad)

    def everything(self, x, permutation="shared"):
        """Results of every kind, all finite, with a row for each sample."""
        z = x.detach().requires_grad_()
        moments = gf.moment_loss(z, orders=(1, 4), reduction="none", backend=self.backend)
        (by_moments,) = torch.autograd.grad(moments.sum(), z)
        results = [
            *self.value_and_grad(x, permutation=permutation),
            *self.statistics_and_pullback(x, permutation=permutation),
            moments.detach(),
            by_moments,
        ]
        if x.shape[1] % 32 == 0:
            results.append(gf.project_white_noise(x, backend=self.backend))
        assert all(t.isfinite().all() for t in results)
        return results

    def fewest(self, size):
        """Returns how many samples of one permutation take the way of more of them."""
        large = self.backend == "triton" and size in parameters.LARGE
        return parameters.FEW if large else 1

    def take_small_pieces(self, monkeypatch, samples):
        """Lets batches that are computed in pieces go through a few samples at a time."""
        if self.backend == "native":
            monkeypatch.setattr(native._samples, "_CHUNK", samples * WAYS["native"]["general"])
        else:
            room = samples * WAYS["triton"]["general"]
            monkeypatch.setattr(parameters, "table_rows", lambda dimension: samples)
            monkeypatch.setattr(parameters, "large_chunk", lambda dimension: samples)
            monkeypatch.setattr(parameters, "GENERAL_WORKSPACE", room)


def cases(*backends):
    """Returns every way of these backends, as parameters of the fixture `way`."""
    return [
        pytest.param((name, way), marks=NEEDS[name], id=f"{name}-{way}")
        for name in backends
        for way in WAYS[name]
    ]


# More sizes, in one tile, in some, and round torch.fft: parameters of `way`, too.
EXTRA_NATIVE = [
    pytest.param(("native", size), marks=NEEDS["native"], id=f"native-{size}")
    for size in (512, 8192, 1000)
]


def same(got, want):
    """Returns whether two lists of tensors hold the same bits."""
    return all(
        torch.equal(g.nan_to_num(123.0), w.nan_to_num(123.0))
        for g, w in zip(got, want, strict=True)
    )
