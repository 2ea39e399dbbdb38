"""The nn.Module twins of the losses."""

import copy
import pickle

import pytest
import torch

import gaussreg_fast as gf
from gaussreg_fast.backends import choice

TWINS = {
    "GaussianityLoss": (gf.gaussianity_loss, {"power_weight": 3.0, "orders": (1, 4), "seed": 1}),
    "MomentLoss": (gf.moment_loss, {"orders": (3, 4), "form": "squared"}),
    "PowerSpectrumLoss": (gf.power_spectrum_loss, {"block_size": 8, "seed": 1}),
    "KLLoss": (gf.kl_loss, {"reduction": "none"}),
    "KurtosisLoss": (gf.kurtosis_loss, {"reduction": "sum"}),
    "NormLoss": (gf.norm_loss, {"backend": "torch"}),
    "CovarianceLoss": (gf.covariance_loss, {"permutation": "shared", "seed": 1}),
    "PRNOLoss": (gf.prno_loss, {"factor": 2, "shuffles": 3, "seed": 1}),
}
X = 1.4 * torch.randn(2, 4, 8, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=TWINS)
def twin(request):
    function, options = TWINS[request.param]
    return getattr(gf, request.param), function, options


def gradient(call, x):
    z = x.clone().requires_grad_()
    call(z).sum().backward()
    return z.grad


def test_same_as_the_function(twin):
    module, function, options = twin
    assert torch.equal(module(**options)(X), function(X, **options))
    want = gradient(lambda z: function(z, **options), X)
    assert torch.equal(gradient(module(**options), X), want)


def test_defaults(twin):
    module, function = twin[0](), twin[1]
    torch.manual_seed(0)
    got = module(X)
    torch.manual_seed(0)
    assert torch.equal(got, function(X))


def test_construction_draws_no_random_numbers(twin):
    state = torch.get_rng_state()
    twin[0]()
    assert torch.equal(torch.get_rng_state(), state)


def test_has_nothing_to_save(twin):
    module = twin[0](**twin[2])
    assert isinstance(module, torch.nn.Module)
    assert module.state_dict() == {}
    assert list(module.parameters()) == []


def test_copies(twin):
    module = twin[0](**twin[2])
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert type(other) is type(module)
        assert torch.equal(other(X), module(X))


def test_repr_shows_the_options(twin):
    module, _, options = twin
    text = repr(module(**options))
    assert text.startswith(module.__name__ + "(")
    for name, value in options.items():
        assert f"{name}={value!r}" in text


@pytest.mark.parametrize("name", ["GaussianityLoss", "PowerSpectrumLoss", "CovarianceLoss"])
def test_call_overrides_construction(name):
    module, function = getattr(gf, name)(seed=1, permutation="shared"), TWINS[name][0]
    assert torch.equal(module(X, seed=2), function(X, seed=2, permutation="shared"))
    table = torch.arange(128).flip(0)
    assert torch.equal(module(X, permutation=table), function(X, permutation=table))
    fixed = getattr(gf, name)(permutation=table)
    assert torch.equal(fixed(X), function(X, permutation=table))


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("GaussianityLoss", {"orders": (9,)}, "^orders must"),
        ("GaussianityLoss", {"power_weight": -1.0}, "^power_weight must"),
        ("GaussianityLoss", {"block_size": 0}, "^block_size must"),
        ("GaussianityLoss", {"permutation": "random"}, "^permutation must"),
        ("GaussianityLoss", {"backend": "cuda"}, "^backend must"),
        ("GaussianityLoss", {"reduction": "max"}, "^reduction must"),
        ("GaussianityLoss", {"permutation": torch.arange(128), "form": "cube"}, "^form must"),
        ("MomentLoss", {"form": "cube"}, "^form must"),
        ("PowerSpectrumLoss", {"statistic": "abs"}, "^statistic must"),
        ("PowerSpectrumLoss", {"target": "paper"}, "^target must"),
        ("KLLoss", {"reduction": "max"}, "^reduction must"),
        ("CovarianceLoss", {"permutation": "random"}, "^permutation must"),
        ("PRNOLoss", {"factor": 0}, "^factor must"),
        ("PRNOLoss", {"shuffles": -1}, "^shuffles must"),
    ],
)
def test_bad_options_raise_at_construction(name, options, match):
    with pytest.raises(ValueError, match=match):
        getattr(gf, name)(**options)


@pytest.mark.parametrize("option", ["seed", "generator"])
def test_bad_seeds_raise_at_construction(option):
    with pytest.raises(TypeError, match=f"^{option} must"):
        gf.GaussianityLoss(**{option: 1.5})


def test_unknown_options(twin):
    with pytest.raises(TypeError, match=r"has no option 'weights'; its options are .*reduction"):
        twin[0](weights=1)
    with pytest.raises(TypeError):
        twin[0]((1, 2))


def test_a_backend_for_another_device_is_no_wrong_option(monkeypatch):
    """The latents' device is unknown at construction; the call says so if they are elsewhere."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(choice, "triton_state", lambda: "available")
    loss = gf.GaussianityLoss(backend="triton")
    with pytest.raises(RuntimeError, match="computes on a GPU, x is on cpu"):
        loss(torch.zeros(1, 64))
    monkeypatch.setattr(choice, "triton_state", lambda: "no GPU")
    with pytest.raises(RuntimeError, match=r"'triton' cannot run here: no GPU"):
        gf.GaussianityLoss(backend="triton")


def test_large_options_need_no_large_memory():
    """Options are tried out at construction, however long a sample they ask for."""
    gf.PowerSpectrumLoss(block_size=2**20)
    gf.PRNOLoss(factor=2**16)


def test_inside_a_model():
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), gf.GaussianityLoss(seed=0))
    model(torch.randn(3, 64)).backward()
    assert model[0].weight.grad.abs().sum() > 0
    assert set(model.state_dict()) == {"0.weight", "0.bias"}
