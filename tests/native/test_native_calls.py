"""Calls that repeat an earlier one, which C++ takes by itself: the same results and errors."""

import threading

import pytest
import torch
from backends_here import needs_native
from torch.utils._python_dispatch import TorchDispatchMode

import gaussreg_fast as gf
from gaussreg_fast import _torch_internals
from gaussreg_fast.functional import _losses

pytestmark = [
    needs_native,
    pytest.mark.skipif(_torch_internals.CALL_STATE is None, reason="torch without private names"),
]

D = 256
LOSSES = {
    "gaussianity": (gf.gaussianity_loss, {"seed": 3}),
    "gaussianity without permutation": (gf.gaussianity_loss, {"permutation": "none"}),
    "gaussianity per sample": (gf.gaussianity_loss, {"seed": 3, "permutation": "per_sample"}),
    "gaussianity of moments": (gf.gaussianity_loss, {"power_weight": 0.0}),
    "power spectrum": (gf.power_spectrum_loss, {"seed": 3, "reduction": "sum"}),
    "moments": (gf.moment_loss, {"orders": (1, 4), "form": "squared"}),
    "kl": (gf.kl_loss, {}),
    "kurtosis": (gf.kurtosis_loss, {"reduction": "sum"}),
    "norm": (gf.norm_loss, {}),
}


@pytest.fixture(autouse=True, scope="module")
def caches_know_a_call():
    gf.gaussianity_value_and_grad(torch.zeros(1, D))
    for function, options in LOSSES.values():
        function(torch.zeros(1, D), **options)


@pytest.fixture
def general(monkeypatch):
    """Returns a call of a function without any cache."""

    def call(function, *args, **options):
        with monkeypatch.context() as patch:
            for cache in caches():
                patch.setattr(cache, "take", lambda arguments: None)
            return function(*args, **options)

    return call


def caches():
    return [v for v in vars(_losses).values() if isinstance(v, _losses.ops.CallCache)]


@pytest.fixture
def counted(monkeypatch):
    """Returns how often a cache took a call."""
    taken = []

    def count(cache, take):
        def call(arguments):
            result = take(arguments)
            taken.append(result is not None)
            return result

        monkeypatch.setattr(cache, "take", call)

    def start():
        for cache in caches():
            count(cache, cache.take)
        return taken

    return start


def gradient(function, x, **options):
    x = x.clone().requires_grad_()
    function(x, **options).backward()
    return x.grad


@pytest.mark.parametrize("case", LOSSES)
def test_the_same_bits(case, general, counted):
    function, options = LOSSES[case]
    x = torch.randn(1, 4, 8, 8)
    want = general(function, x, **options)
    want_gradient = general(gradient, function, x, **options)
    function(x, **options)
    taken = counted()
    for each in (x, torch.nn.Parameter(x), x[0:1]):
        assert torch.equal(function(each, **options), want)
    assert torch.equal(gradient(function, x, **options), want_gradient)
    assert all(taken)
    assert len(taken) == 4
    with torch.no_grad():
        assert not function(x.requires_grad_(), **options).requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_have_the_same_bits(dtype, general, counted):
    """The gradient that is kept for backward is float32 for float16: the general route makes it."""
    x = torch.randn(1, D).to(dtype)
    want = general(gf.gaussianity_value_and_grad, x, seed=3)
    want_gradient = general(gradient, gf.gaussianity_loss, x, seed=3)
    taken = counted()
    got = gf.gaussianity_value_and_grad(x, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert torch.equal(gradient(gf.gaussianity_loss, x, seed=3), want_gradient)
    assert taken == [True, dtype == torch.bfloat16]


@pytest.mark.parametrize("generator", [None, torch.Generator().manual_seed(1)])
def test_value_and_grad_draws_the_same_seeds(generator, general, counted):
    x = torch.randn(1, D, requires_grad=True)
    drawn_from = torch.default_generator if generator is None else generator
    start = drawn_from.get_state()
    want = [general(gf.gaussianity_value_and_grad, x, generator=generator) for _ in range(3)]
    state = drawn_from.get_state()
    taken = counted()
    drawn_from.set_state(start)
    got = [gf.gaussianity_value_and_grad(x, generator=generator) for _ in range(3)]
    assert torch.equal(torch.cat([g for _, g in got]), torch.cat([g for _, g in want]))
    assert torch.equal(torch.stack([v for v, _ in got]), torch.stack([v for v, _ in want]))
    assert torch.equal(drawn_from.get_state(), state)
    assert all(taken[1:])
    assert not any(r.requires_grad for r in got[-1])


def lazily_negated(x):
    return torch.complex(torch.zeros_like(x), -x).conj().imag


@pytest.mark.parametrize(
    ("x", "options"),
    [
        (torch.randn(2, D), {}),
        (torch.randn(1, 100), {}),
        (torch.randn(1, D).double(), {}),
        (torch.randn(1, 2 * D)[:, ::2], {}),
        (torch.randn(1, D), {"seed": torch.tensor([3])}),
        (torch.randn(1, D), {"permutation": torch.randperm(D)}),
        (torch.randn(1, D), {"reduction": "none"}),
        (torch.randn(1, D), {"backend": "torch"}),
        (lazily_negated(torch.randn(1, D)), {}),
    ],
)
def test_other_calls_take_the_general_route(x, options, general, counted):
    options = {"seed": 3, **options}
    want = general(gf.gaussianity_value_and_grad, x, **options)
    gf.gaussianity_value_and_grad(torch.randn(1, D), seed=3)
    gf.gaussianity_value_and_grad(x, **options)
    taken = counted()
    got = gf.gaussianity_value_and_grad(x, **options)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert taken == [False]


def test_equal_options_are_not_the_same():
    x = torch.randn(1, D)
    gf.gaussianity_loss(x, orders=(1,), block_size=16)
    for wrong in ({"orders": (True,)}, {"orders": (1.0,)}, {"block_size": 16.0}):
        with pytest.raises(ValueError, match=r"orders|block_size"):
            gf.gaussianity_loss(x, **wrong)


def test_options_that_change_are_checked_again():
    x, orders = torch.randn(1, D), [1, 2]
    for _ in range(3):
        gf.moment_loss(x, orders=orders)
    orders.append(9)
    with pytest.raises(ValueError, match=r"within 1\.\.8"):
        gf.moment_loss(x, orders=orders)


def test_errors_after_a_call_that_was_kept():
    x, generator = torch.randn(1, D), torch.Generator()
    for _ in range(2):
        gf.gaussianity_loss(x, generator=generator)
        gf.gaussianity_loss(x, seed=1)
    with pytest.raises(ValueError, match="exclude each other"):
        gf.gaussianity_loss(x, generator=generator, seed=1)
    with pytest.raises(ValueError, match="64 signed bits"):
        gf.gaussianity_loss(x, seed=2**63)
    with pytest.raises(TypeError, match="seed must be an int"):
        gf.gaussianity_loss(x, seed=True)
    with pytest.raises(ValueError, match=r"2 \* block_size"):
        gf.gaussianity_loss(x[:, :16])
    with pytest.raises(ValueError, match="at least two dimensions"):
        gf.gaussianity_loss(x[0])
    freed = torch.randn(3, D)[1:2]
    freed.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="memory"):
        gf.gaussianity_loss(freed)


class Names(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_modes_and_transforms_see_the_operator():
    x = torch.randn(1, D)
    want = gf.gaussianity_loss(x, seed=3)
    with Names() as mode:
        gf.gaussianity_loss(x, seed=3)
    assert "gaussreg_fast.loss.default" in mode.names
    got = torch.func.vmap(lambda x: gf.gaussianity_loss(x, seed=3))(x[None])
    torch.testing.assert_close(got[0], want)
    gradient = torch.func.grad(lambda x: gf.gaussianity_loss(x, seed=3))(x)
    torch.testing.assert_close(gradient, gf.gaussianity_value_and_grad(x, seed=3)[1])
    traced = torch.jit.trace(lambda x: gf.kl_loss(x), x, check_trace=False)
    assert torch.equal(traced(2 * x), gf.kl_loss(2 * x))


def test_more_options_than_are_kept(general):
    x, weights = torch.randn(1, D), [float(n) for n in range(1, 8)]
    for _ in range(3):
        for weight in weights:
            got = gf.gaussianity_loss(x, seed=3, power_weight=weight)
            want = general(gf.gaussianity_loss, x, seed=3, power_weight=weight)
            assert torch.equal(got, want)


def test_options_in_use_are_kept(counted):
    """A weight that is computed anew in each call does not push out the options of other calls."""
    x = torch.randn(1, D)
    gf.gaussianity_loss(x, seed=3)
    taken = counted()
    for step in range(8):
        gf.gaussianity_loss(x, seed=3, power_weight=1.0 + step)
        gf.gaussianity_loss(x, seed=3)
    assert taken == [False, True] * 8


def test_several_threads():
    x, wrong = torch.randn(1, 4096), []
    weights = [float(n) for n in range(1, 7)]
    want = {w: gf.gaussianity_value_and_grad(x, seed=3, power_weight=w)[0] for w in weights}

    def loop(weights):
        for _ in range(50):
            for w in weights:
                got = gf.gaussianity_value_and_grad(x, seed=3, power_weight=w)[0]
                wrong.extend([] if torch.equal(got, want[w]) else [w])

    threads = [threading.Thread(target=loop, args=(weights[i:] + weights[:i],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
