"""A prepared loss: the numbers of gaussianity_value_and_grad, in buffers that calls overwrite."""

import copy
import pickle
import threading

import pytest
import torch
from backends_here import BACKENDS, device_of, needs_native, quiet_interpreter

import gaussreg_fast as gf
from gaussreg_fast import _torch_internals
from gaussreg_fast.functional import _prepared

OPTIONS = {
    "default": {},
    "sum": {"reduction": "sum"},
    "rows": {"reduction": "none"},
    "moments": {"power_weight": 0.0, "orders": (1, 3)},
    "per sample": {"permutation": "per_sample", "block_size": 8},
    "in place": {"permutation": "none", "form": "squared"},
    "power": {"statistic": "power", "orders": [2, 1]},
}
SHAPES = [(1, 256), (3, 4, 8, 8), (2, 100)]


def same(got, want):
    return all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(got, want, strict=True))


@quiet_interpreter
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_bits_of_value_and_grad(shape, options, backend):
    x = torch.randn(shape, device=device_of(backend))
    prepared = gf.GaussianityLoss(backend=backend, **options).prepare(x)
    for seed in (5, -1, torch.tensor([7], device=x.device)):
        want = gf.gaussianity_value_and_grad(x, seed=seed, backend=backend, **options)
        assert same(prepared(x, seed=seed), want)


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_every_dtype(dtype, backend):
    x = torch.randn(2, 128).to(dtype)
    prepared = gf.PreparedLoss(x, backend=backend)
    assert same(prepared(x, seed=3), gf.gaussianity_value_and_grad(x, seed=3, backend=backend))


def drawn(call):
    torch.manual_seed(0)
    results = [r.clone() for r in call()]
    return results, torch.get_rng_state()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_seeds_are_drawn_in_the_same_way(shape):
    x = torch.randn(shape)
    prepared = gf.PreparedLoss(x)
    (got, after), (want, expected) = (
        drawn(lambda: prepared(x)),
        drawn(lambda: gf.gaussianity_value_and_grad(x)),
    )
    assert same(got, want)
    assert torch.equal(after, expected)
    ours, theirs = (torch.Generator().manual_seed(4) for _ in range(2))
    assert same(prepared(x, generator=ours), gf.gaussianity_value_and_grad(x, generator=theirs))
    assert torch.equal(ours.get_state(), theirs.get_state())


def test_seed_and_generator_of_the_options():
    x, generator = torch.randn(1, 64), torch.Generator().manual_seed(1)
    seeded, generated = gf.PreparedLoss(x, seed=9), gf.PreparedLoss(x, generator=generator)
    assert same(seeded(x), gf.gaussianity_value_and_grad(x, seed=9))
    assert same(seeded(x, seed=2), gf.gaussianity_value_and_grad(x, seed=2))
    other = torch.Generator().manual_seed(1)
    assert same(generated(x), gf.gaussianity_value_and_grad(x, generator=other))


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_permutation_is_copied(batch, backend):
    x, index = torch.randn(batch, 64), torch.randperm(64)
    want = gf.gaussianity_value_and_grad(x, permutation=index, backend=backend)
    prepared = gf.PreparedLoss(x, permutation=index, backend=backend)
    index.zero_()
    assert same(prepared(x), want)


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("batch", [0, 1, 2])
def test_results_are_overwritten_and_unrecorded(batch, backend):
    x = torch.randn(batch, 64, requires_grad=True)
    prepared = gf.PreparedLoss(x, backend=backend)
    first = prepared(x, seed=1)
    assert all(a is b for a, b in zip(prepared(x, seed=2), first, strict=True))
    assert not any(r.requires_grad for r in first)


@needs_native
@pytest.mark.skipif(_torch_internals.CALL_STATE is None, reason="torch without private names")
def test_the_compiled_route_is_taken(monkeypatch):
    """Otherwise the tests above would hold of the slow one alone."""
    x = torch.randn(2, 64)
    prepared = gf.PreparedLoss(x)
    monkeypatch.setattr(_prepared.PreparedLoss, "_compute", None)
    prepared(x)
    prepared(x.clone().requires_grad_(), generator=torch.Generator())
    prepared(torch.nn.Parameter(x), seed=1)


def test_any_layout_of_x():
    x = torch.randn(64, 4, 2).permute(2, 1, 0)
    lazily_negated = torch.view_as_complex(torch.randn(2, 64, 2)).conj().imag
    for each in (x, torch.randn(4, 64)[1:3], lazily_negated):
        prepared = gf.PreparedLoss(each)
        assert same(prepared(each, seed=3), gf.gaussianity_value_and_grad(each, seed=3))


def test_x_may_be_the_gradient_itself():
    prepared = gf.PreparedLoss(torch.randn(1, 64))
    _, grad = prepared(torch.randn(1, 64), seed=1)
    want = gf.gaussianity_value_and_grad(grad.clone(), seed=1)
    assert same(prepared(grad, seed=1), want)


def test_a_saved_gradient_that_was_overwritten_is_noticed():
    x, weight = torch.randn(1, 64), torch.ones(1, 64, requires_grad=True)
    prepared = gf.PreparedLoss(x)
    product = (weight * prepared(x)[1]).sum()
    prepared(x)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_modes_do_not_matter(mode, backend):
    with mode():
        x = torch.randn(1, 64)
        prepared = gf.PreparedLoss(x, backend=backend)
        want = gf.gaussianity_value_and_grad(x, seed=3, backend=backend)
        assert same(prepared(x, seed=3), want)
    assert same(prepared(torch.randn(1, 64).copy_(x), seed=3), want)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_a_copy_has_the_options_as_they_were_given(copied):
    x, table, orders = torch.randn(1, 64), torch.randperm(64), [1, 2]
    want = gf.gaussianity_value_and_grad(x, permutation=table)
    prepared = gf.PreparedLoss(x, permutation=table, orders=orders)
    table.copy_(torch.arange(64))
    orders.append(9)
    for each in (prepared, copied(prepared)):
        assert same(each(x), want)


@pytest.mark.parametrize("seed", [1, torch.tensor([1])])
def test_results_that_require_grad_are_not_overwritten(seed):
    x = torch.randn(1, 64)
    prepared = gf.PreparedLoss(x)
    prepared(x)[1].requires_grad_()
    with pytest.raises(RuntimeError, match="leaf Variable"):
        prepared(x, seed=seed)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_a_copy_has_its_own_buffers(copied):
    x = torch.randn(2, 64)
    prepared = gf.PreparedLoss(x, reduction="sum")
    other = copied(prepared)
    first = [r.clone() for r in prepared(x, seed=1)]
    assert not same(other(x, seed=2), first)
    assert same(prepared(x, seed=1), first)


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "x",
    [torch.zeros(2, 64), torch.zeros(1, 8, 8), torch.zeros(1, 64, dtype=torch.float64),
     torch.zeros(1, 64, device="meta")],
)  # fmt: skip
def test_another_shape_dtype_or_device(x):
    prepared = gf.PreparedLoss(torch.zeros(1, 64))
    with pytest.raises(ValueError, match=r"x must be torch.float32 of shape \(1, 64\) on cpu"):
        prepared(x)


def test_wrong_arguments():
    x = torch.zeros(1, 64)
    prepared = gf.PreparedLoss(x)
    for wrong in (None, [[0.0] * 64]):
        with pytest.raises(TypeError, match=r"x must be a torch\.Tensor"):
            prepared(wrong)
    with pytest.raises(ValueError, match="seed and generator exclude each other"):
        prepared(x, seed=1, generator=torch.Generator())
    with pytest.raises(TypeError, match="seed must be an int"):
        prepared(x, seed=1.5)
    with pytest.raises(ValueError, match="64 signed bits"):
        prepared(x, seed=2**63)
    with pytest.raises(TypeError, match="weight"):
        gf.PreparedLoss(x, weight=2)
    with pytest.raises(ValueError, match="power_weight must be finite"):
        gf.PreparedLoss(x, power_weight=-1)
    with pytest.raises(ValueError, match=r"permutation.*repeat|permutation"):
        gf.PreparedLoss(x, permutation=torch.zeros(64, dtype=torch.int64))


def test_freed_memory_is_refused():
    x = torch.randn(3, 64)[1:2]
    prepared = gf.PreparedLoss(x)
    x.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="memory"):
        prepared(x)


def test_another_thread_is_refused():
    prepared, errors = gf.PreparedLoss(torch.zeros(1, 64)), []

    def call():
        try:
            prepared(torch.zeros(1, 64))
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert errors == ["a PreparedLoss belongs to one thread: make one in each thread"]


class Subclass(torch.Tensor):
    pass


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_subclasses_and_traces_compute(backend):
    x = torch.randn(1, 64)
    prepared = gf.PreparedLoss(x, backend=backend)
    want = gf.gaussianity_value_and_grad(x, seed=3, backend=backend)
    assert same(prepared(x.as_subclass(Subclass), seed=3), want)
    compiled = torch.compile(lambda x: prepared(x, seed=3)[0] * 2, backend="eager")
    assert torch.equal(compiled(x), want[0] * 2)


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_transforms_raise(backend):
    x = torch.randn(1, 64)
    prepared = gf.PreparedLoss(x, backend=backend)
    with pytest.raises(RuntimeError, match="vmap"):
        torch.func.vmap(lambda x: prepared(x, seed=3))(torch.randn(2, 1, 64))
    with pytest.raises(RuntimeError, match="in-place operation"):
        torch.func.grad(lambda x: prepared(x, seed=3)[0])(x)
