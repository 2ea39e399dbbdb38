"""Bad input: an error that names the argument, before anything is computed."""

import functools
import math

import pytest
import torch
from backends_here import needs_native

import gaussreg_fast as gf
from gaussreg_fast.backends import choice

CALLS = {
    "gaussianity_loss": gf.gaussianity_loss,
    "gaussianity_value_and_grad": gf.gaussianity_value_and_grad,
    "permuted_statistics": functools.partial(gf.permuted_statistics, orders=(1, 2)),
    "power_spectrum_loss": gf.power_spectrum_loss,
    "moment_loss": gf.moment_loss,
    "kl_loss": gf.kl_loss,
    "kurtosis_loss": gf.kurtosis_loss,
    "norm_loss": gf.norm_loss,
    "covariance_loss": gf.covariance_loss,
    "prno_loss": gf.prno_loss,
    "project_white_noise": gf.project_white_noise,
}
SPECTRAL = list(CALLS)[:4]
WHOLE = SPECTRAL[:2]
PERMUTED = [*SPECTRAL, "covariance_loss"]
SEEDED = [*PERMUTED, "prno_loss"]
REDUCED = [n for n in CALLS if n not in ("permuted_statistics", "project_white_noise")]
BACKENDS = [n for n in CALLS if n not in ("covariance_loss", "prno_loss")]
X = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X.int(), r"^x must be float32.*got torch\.int32"),
        (X.bool(), r"^x must be float32.*got torch\.bool"),
        (X.to(torch.complex64), r"^x must be float32.*got torch\.complex64"),
        (X.to_sparse(), r"^x must be a dense tensor.*sparse_coo"),
        (X.to_sparse_csr, r"^x must be a dense tensor.*sparse_csr"),
        (
            lambda: torch.quantize_per_tensor(X, 0.1, 0, torch.qint8),
            "^x must be a dense tensor.*quantised",
        ),
        (X.numpy(), r"^x must be a torch\.Tensor, got ndarray"),
        (X.tolist(), r"^x must be a torch\.Tensor, got list"),
        (None, r"^x must be a torch\.Tensor, got NoneType"),
    ],
    ids=["int", "bool", "complex", "sparse", "csr", "quantised", "numpy", "list", "none"],
)
@pytest.mark.filterwarnings("ignore")  # torch's own, of deprecated kinds of tensors
def test_not_a_dense_real_tensor(name, x, message):
    with pytest.raises(TypeError, match=message):
        CALLS[name](x() if callable(x) else x)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("shape", [(), (64,), (3, 0), (2, 4, 0)])
def test_shapes(name, shape):
    with pytest.raises(ValueError, match=r"^x must have.*got \("):
        CALLS[name](torch.zeros(shape))


@pytest.mark.parametrize("name", SPECTRAL)
@pytest.mark.parametrize(("size", "block"), [(31, 16), (63, 32), (1, 1)])
def test_too_short_for_the_spectrum(name, size, block):
    with pytest.raises(ValueError, match=rf"^x must have at least 2 \* block_size.*got {size}$"):
        CALLS[name](torch.zeros(2, size), block_size=block)
    assert CALLS[name](torch.randn(2, 2 * block), block_size=block) is not None


BAD_OPTIONS = [
    ([*WHOLE, "moment_loss", "permuted_statistics"], "orders", ValueError, bad)
    for bad in ((), (0,), (9,), (-1,), (1, 1), (1.0,), (True,), ([1], 2), "12", 2, None)
]
BAD_OPTIONS += [([*WHOLE, "moment_loss"], "form", ValueError, bad) for bad in ("cube", "", None, 2)]
BAD_OPTIONS += [
    (WHOLE, "power_weight", ValueError, bad)
    for bad in (-1.0, math.nan, math.inf, -math.inf, 10**400, "25", None)
]
BAD_OPTIONS += [
    ([*SPECTRAL, "project_white_noise"], "block_size", ValueError, bad)
    for bad in (0, -16, 16.0, True, None)
]
BAD_OPTIONS += [(SPECTRAL, "statistic", ValueError, bad) for bad in ("abs", None)]
BAD_OPTIONS += [
    ([*WHOLE, "power_spectrum_loss"], "target", ValueError, bad) for bad in (0.875, "paper", None)
]
BAD_OPTIONS += [(REDUCED, "reduction", ValueError, bad) for bad in ("max", None, True)]
BAD_OPTIONS += [(BACKENDS, "backend", ValueError, bad) for bad in ("cuda", None, "")]
BAD_OPTIONS += [(SPECTRAL, "precision", ValueError, bad) for bad in ("bf16", None)]
BAD_OPTIONS += [
    (PERMUTED, "permutation", ValueError, bad)
    for bad in (
        "random",
        None,
        3,
        torch.arange(63),
        torch.arange(64)[None],
        torch.arange(64).repeat(2, 1),
        torch.zeros(64, dtype=torch.int64),
        torch.arange(64) + 1,
        torch.arange(64) - 1,
        torch.stack([torch.arange(64), torch.arange(64), torch.arange(64) // 2]),
        torch.arange(64, device="meta"),
    )
]
BAD_OPTIONS += [
    (PERMUTED, "permutation", TypeError, bad) for bad in (torch.arange(64.0), torch.ones(64) > 0)
]
BAD_OPTIONS += [(SEEDED, "seed", TypeError, bad) for bad in (1.5, "1", True)]
BAD_OPTIONS += [
    (SEEDED, "seed", ValueError, bad)
    for bad in (
        2**63,
        -(2**63) - 1,
        torch.tensor([1, 2]),
        torch.tensor([1], dtype=torch.int32),
        torch.tensor([1.0]),
        torch.tensor([1], device="meta"),
    )
]
BAD_OPTIONS += [(SEEDED, "generator", TypeError, bad) for bad in (3, "cpu")]
BAD_OPTIONS += [(["prno_loss"], "factor", ValueError, bad) for bad in (0, -1, 3, 128, 4.0, None)]
BAD_OPTIONS += [(["prno_loss"], "shuffles", ValueError, bad) for bad in (-1, 1.0, True, None)]


@pytest.mark.parametrize(
    ("name", "option", "error", "bad"),
    [(name, option, error, bad) for names, option, error, bad in BAD_OPTIONS for name in names],
    ids=lambda value: f"{tuple(value.shape)}" if isinstance(value, torch.Tensor) else repr(value),
)
def test_options(name, option, error, bad):
    x = X.clone()
    with pytest.raises(error, match=rf"^{option} must "):
        CALLS[name](x, **{option: bad})
    assert torch.equal(x, X)


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize(
    ("option", "bad"),
    [
        ("block_size", 0),
        ("statistic", "abs"),
        ("target", "paper"),
        ("permutation", "random"),
        ("seed", 1.5),
    ],
)
def test_options_of_a_spectrum_that_is_left_out(name, option, bad):
    """A misspelt option is an error whatever the weight; a short sample is not."""
    with pytest.raises((ValueError, TypeError), match=rf"^{option} must "):
        CALLS[name](X, power_weight=0.0, **{option: bad})
    CALLS[name](X[:, :5], power_weight=0.0)


@pytest.mark.parametrize("name", SEEDED)
def test_seed_and_generator_exclude_each_other(name):
    with pytest.raises(ValueError, match=r"^seed and generator exclude each other"):
        CALLS[name](X, seed=1, generator=torch.Generator())


@pytest.mark.parametrize("name", ["gaussianity_loss", "power_spectrum_loss"])
def test_printed_target_is_for_amplitudes(name):
    with pytest.raises(ValueError, match=r"^target='mpgr'"):
        CALLS[name](X, target="mpgr", statistic="power")


@pytest.mark.parametrize("name", SEEDED)
def test_generator_on_another_device(name):
    with pytest.raises(ValueError, match=r"^generator must be on the device of x, meta"):
        CALLS[name](X.to("meta"), generator=torch.Generator())


@pytest.mark.parametrize("name", BACKENDS)
def test_backend_that_cannot_run_here(name, monkeypatch):
    monkeypatch.setattr(choice, "triton_state", lambda: "no GPU in this test")
    states = gf.backends()
    able = [backend for backend, state in states.items() if state == "available"]
    missing = [backend for backend in states if backend not in able]
    assert "triton" in missing
    for backend in missing:
        with pytest.raises(RuntimeError) as caught:
            CALLS[name](X, backend=backend)
        assert states[backend] in str(caught.value)
        assert "torch" in able
        assert all(repr(other) in str(caught.value) for other in able)


@pytest.mark.parametrize("name", CALLS)
def test_options_are_keyword_only(name):
    with pytest.raises(TypeError, match="positional"):
        CALLS[name](X, (1, 2))


@pytest.mark.parametrize("size", [33, 48, 16, 31])
def test_projection_needs_whole_blocks(size):
    with pytest.raises(
        ValueError, match=rf"^x must have a multiple of 2 \* block_size.*got {size}"
    ):
        gf.project_white_noise(torch.zeros(2, size))


def test_projection_of_single_bins():
    """One amplitude cannot have both norms, sqrt(pi) / 2 and 1: there is no point to return."""
    with pytest.raises(ValueError, match=r"^block_size must "):
        gf.project_white_noise(X, block_size=1)


@pytest.mark.parametrize("size", [0, -1, 2.0, True, None, 2**31 + 1])
def test_permutation_length(size):
    with pytest.raises(ValueError, match=r"^D must "):
        gf.permutation(0, size)


@pytest.mark.parametrize(
    ("seed", "error"),
    [
        (None, TypeError),
        (1.0, TypeError),
        (2**63, ValueError),
        (torch.tensor([1.0]), ValueError),
        (torch.arange(2), ValueError),
        (torch.tensor([1], device="meta"), ValueError),
    ],
)
def test_permutation_seed(seed, error):
    with pytest.raises(error, match=r"^seed must "):
        gf.permutation(seed, 8)


@needs_native
def test_a_backend_by_name_says_which_argument_it_refuses():
    dmu = torch.zeros(2, 3, 4)
    with pytest.raises(RuntimeError, match="in float32, dmu is float64"):
        gf.path_kl(dmu.double(), torch.ones(2), backend="native")
    with pytest.raises(RuntimeError, match="on the CPU, dmu is on meta"):
        gf.path_kl(dmu.to("meta"), torch.ones(2, device="meta"), backend="native")
    with pytest.raises(RuntimeError, match="in float32, x is float64"):
        gf.kl_loss(X.double(), backend="native")
    with pytest.raises(RuntimeError, match=r"on the CPU, params\[0\] is on meta; .*: 'torch'$"):
        gf.parameter_drift([X.to("meta")], [X.double()], backend="native")
