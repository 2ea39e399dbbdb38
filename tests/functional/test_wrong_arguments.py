"""Arguments that only look right: the error names them, and is not one of torch or NumPy."""

import numpy as np
import pytest
import torch

import gaussreg_fast as gf

X = torch.linspace(-2, 2, 3 * 64).reshape(3, 64)
LISTS = [torch.ones(3)], [torch.zeros(3)]
STEP = {"alpha_cumprod": 0.5, "alpha_cumprod_prev": 0.7}
REWARDS = torch.arange(4.0)
HUGE = 2**70

ERRORS = {
    # Arrays and tensors of shape () say that they are iterable, and are not.
    "orders, tensor": (lambda: gf.moment_loss(X, orders=torch.tensor(2)), "orders must be"),
    "orders, array": (lambda: gf.moment_loss(X, orders=np.array(2)), "orders must be"),
    "params, array": (lambda: gf.parameter_drift(np.array(2.0), LISTS[1]), "params must be"),
    "pairs, array": (lambda: gf.lora_drift(np.array(2.0)), "pairs must be"),
    "rate, array": (
        lambda: gf.parameter_drift_decay_(*LISTS, rate=np.array("x")), "rate must be one number"
    ),
    "projected, array": (
        lambda: gf.WhiteNoiseProjection(torch.optim.SGD([X.clone()]), np.array(1.0)),
        "params must be a sequence",
    ),
    # Items that cannot be hashed, sorted, or compared.
    "rates": (
        lambda: gf.parameter_drift_decay_(*LISTS, rate=[np.zeros(2)]), "rate must be a number"
    ),
    "orders, mixed set": (lambda: gf.moment_loss(X, orders={1, "a"}), "orders must be integers"),
    "names, tensors": (
        lambda: gf.parameter_drift([(X, X)], [(X, X)]), r"params\[0\] must be \(name, tensor\)"
    ),
    "names, lists": (
        lambda: gf.parameter_drift([([], X)], [X]), r"params\[0\] must be \(name, tensor\)"
    ),
    "kind, array": (
        lambda: gf.surrogate_reward(REWARDS, np.arange(4), alpha=1.0), "kind must be one of"
    ),
    # Numbers beyond 64 bits.
    "shuffles": (lambda: gf.prno_loss(X, shuffles=HUGE), "shuffles must be .* at most"),
    "block_size of a module": (lambda: gf.GaussianityLoss(block_size=HUGE), "block_size must be"),
    "factor of a module": (lambda: gf.PRNOLoss(factor=HUGE), "factor must be"),
    # Devices.
    "device, name": (lambda: gf.permutation(3, 9, device="x"), "device must be a device of torch"),
    "device, index": (lambda: gf.permutation(3, 9, device=-3), "device must be a device of torch"),
    "device, type": (lambda: gf.permutation(3, 9, device=1.5), "device must be a torch.device"),
    "device of a base": (lambda: gf.ParameterDrift([X], device="x"), "device must be a device"),
    "dtype of a base": (lambda: gf.ParameterDrift([X], dtype=np.arange(3)), "dtype must be"),
    # Schedules whose shapes do not fit each other, or the difference.
    "schedule": (
        lambda: gf.flow_step_kl_terms(X, t=torch.ones(3), dt=torch.ones(2), noise_scale=1.0),
        r"broadcast, got t of shape \(3,\), dt of shape \(2,\), noise_scale of shape \(\)",
    ),
    "difference": (
        lambda: gf.ddpm_step_kl_terms(X, **STEP | {"alpha_cumprod": torch.full((2,), 0.5)}),
        r"got \(3, 64\); the schedule is alpha_cumprod of shape \(2,\), alpha_cumprod_prev of",
    ),
    "sigma of a step": (
        lambda: gf.PathKL().add(X, torch.ones(2)), r"sigma must .* for dmu of shape \(3, 64\)"
    ),
    # Ahead of a call.
    "shape, number": (lambda: gf.warmup(64), "shape must be a sequence of integers"),
    "shape, float": (lambda: gf.warmup((2, 64.0)), r"shape\[1\] must be an integer"),
    "dtype": (lambda: gf.warmup((2, 64), "float32"), "dtype must be float32"),
    "device": (lambda: gf.warmup((2, 64), device="x"), "device must be a device of torch"),
    "backward": (lambda: gf.warmup((2, 64), backward=X), "backward must be True or False"),
    "function": (lambda: gf.warmup((2, 64), function="x"), "function must be a function"),
    "meta": (lambda: gf.diagnose(X.to("meta")), "x must hold numbers"),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_names_the_argument(name):
    call, message = ERRORS[name]
    with pytest.raises((TypeError, ValueError), match=message):
        call()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    "call",
    [
        lambda: gf.permutation(3, 9, device="cuda"),
        lambda: gf.warmup((2, 64), device="cuda"),
        lambda: gf.ParameterDrift([X], device="cuda"),
    ],
)
def test_a_device_that_is_not_here_is_named(call):
    with pytest.raises(RuntimeError, match=r"^device 'cuda' cannot be used here: "):
        call()


@pytest.mark.parametrize(
    ("call", "shape"),
    [
        (lambda x: gf.covariance_loss(x, permutation="shared", seed=3, reduction="none"), (3,)),
        (lambda x: gf.prno_loss(x, seed=3, shuffles=2), ()),
        (lambda x: gf.gaussianity_loss(x, permutation=torch.arange(64, device="meta")), ()),
        (lambda x: gf.permutation(3, 9, device="meta"), (9,)),
        (lambda x: gf.surrogate_reward(x[:, 0], "js", alpha=1.0, group=x[:, 0].int()), (3,)),
        (lambda x: gf.lora_drift([(x, x[:, :3])], form="product"), ()),
    ],
)
def test_meta_tensors_give_meta_tensors(call, shape):
    result = call(X.to("meta"))
    assert (result.shape, result.device.type) == (shape, "meta")


def test_a_single_number_has_the_terms_of_a_step():
    dmu, sigma = gf.ddpm_step_kl_terms(torch.tensor(2.0), **STEP)
    want, same = gf.ddpm_step_kl_terms(torch.tensor([2.0]), **STEP)
    assert dmu.shape == ()
    assert (dmu, sigma) == (want[0], same)
