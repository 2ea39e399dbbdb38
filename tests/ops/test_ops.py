"""The operators under torch's machinery: opcheck, compile, autocast, functional transforms."""

import functools
import shutil

import pytest
import torch
from losses_called import CALLS, FUSED, gradient, wide_noise
from torch.autograd import forward_ad
from torch.library import opcheck

import gaussreg_fast as gf

OPS = torch.ops.gaussreg_fast


# ---------------------------------------------------------------- opcheck

SEED = torch.tensor([5])
TABLE = torch.stack(
    [torch.randperm(100, generator=torch.Generator().manual_seed(b)) for b in (1, 2)]
)


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize(
    ("seed", "index", "per_sample"),
    [(SEED, None, False), (SEED, None, True), (None, TABLE, False), (None, None, False)],
    ids=["shared", "per_sample", "explicit", "none"],
)
def test_opcheck_loss(seed, index, per_sample, reduction):
    options = ([1, 2], "root", 25.0, 16, 0.886, "amplitude", reduction, "kept", "auto")
    x = wide_noise(2, 4, 25).requires_grad_()
    opcheck(OPS.loss.default, (x, seed, index, per_sample, *options))


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("dimension", [48, 101])
def test_opcheck_statistics(dimension, per_sample):
    options = (SEED, None, per_sample, [1, 2], 16, "amplitude", "auto")
    x = wide_noise(2, dimension)
    opcheck(OPS.statistics.default, (x.requires_grad_(), *options))
    blocks = -(-(dimension // 2) // 16)
    upstream = (wide_noise(2, 2), wide_noise(2, blocks))
    opcheck(OPS.statistics_backward.default, (x.detach(), *upstream, *options))
    opcheck(OPS.statistics_backward.default, (x.detach(), None, upstream[1], *options))


@pytest.mark.parametrize("samples", [0, 3])
def test_opcheck_permutation_and_projection(samples):
    opcheck(OPS.permutation.default, (SEED, 100, samples, samples > 0, "auto"))
    opcheck(OPS.project_white_noise.default, (wide_noise(2, 64), 16, "auto"))


# ---------------------------------------------------------------- compile


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compile(call, dtype):
    torch.compiler.reset()
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    x = wide_noise(2, 4, 8, 4, dtype=dtype)
    for reduction in ("mean", "none"):
        torch.testing.assert_close(
            compiled(x, reduction=reduction), call(x, reduction=reduction), rtol=1e-6, atol=0
        )
        torch.testing.assert_close(
            gradient(compiled, x, reduction=reduction), gradient(call, x, reduction=reduction)
        )


@pytest.mark.parametrize("name", ["gaussianity", "statistics", "kl"])
def test_compile_with_dynamic_shapes(name):
    torch.compiler.reset()
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(CALLS[name], fullgraph=True, backend="aot_eager", dynamic=True)
    counted = torch.compile(CALLS[name], fullgraph=True, backend=count, dynamic=True)
    for batch, dimension in ((2, 64), (3, 96), (5, 128), (4, 200)):
        x = wide_noise(batch, dimension)
        torch.testing.assert_close(compiled(x), CALLS[name](x), rtol=1e-6, atol=0)
        torch.testing.assert_close(gradient(compiled, x), gradient(CALLS[name], x))
        counted(x)
    assert len(graphs) < 4


def test_compiled_calls_draw_new_permutations():
    torch.compiler.reset()
    compiled = torch.compile(gf.gaussianity_loss, fullgraph=True, backend="aot_eager")
    x = wide_noise(2, 64)
    torch.manual_seed(1)
    drawn = [compiled(x).item() for _ in range(3)]
    assert len(set(drawn)) == 3
    torch.manual_seed(1)
    assert [compiled(x).item() for _ in range(3)] == drawn


def test_compile_projection():
    torch.compiler.reset()
    compiled = torch.compile(gf.project_white_noise, fullgraph=True, backend="aot_eager")
    x = wide_noise(2, 64)
    torch.testing.assert_close(compiled(x), gf.project_white_noise(x))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_compile_with_a_changing_weight(reduction):
    """Weights that are annealed from step to step."""
    torch.compiler.reset()

    def call(x, weight):
        return gf.gaussianity_loss(x, power_weight=weight, seed=3, reduction=reduction)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    x = wide_noise(2, 64)
    for weight in (10.0, 20.0, 30.0):
        want = call(x, weight)
        torch.testing.assert_close(compiled(x, weight), want, rtol=1e-6, atol=0)


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="needs a compiler")
def test_compile_with_inductor():
    torch.compiler.reset()

    def call(z):
        return gf.gaussianity_loss(2 * z, seed=3) + z.mean()

    compiled = torch.compile(call, fullgraph=True, options={"cpp.simdlen": 1})
    x = wide_noise(2, 64)
    z = x.clone().requires_grad_()
    value = compiled(z)
    value.backward()
    torch.testing.assert_close(value.detach(), call(x), rtol=1e-5, atol=0)
    torch.testing.assert_close(z.grad, gradient(call, x))


# ---------------------------------------------------------------- autocast


def test_autocast(call):
    """Matrix products and Fourier transforms stay in float32."""
    x = wide_noise(2, 4, 8, 8)
    z = x.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = call(z)
        silent = call(x)
    value.backward()
    want = call(x.clone().requires_grad_())
    assert value.dtype == torch.float32
    assert torch.equal(value, want)
    assert torch.equal(silent, call(x))
    assert torch.equal(z.grad, gradient(call, x))


@pytest.mark.parametrize("name", FUSED)
def test_backward_under_autocast(name):
    """Hand-written backward passes do not change; PRNO's is torch's own and may."""
    x = wide_noise(2, 4, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        grad = gradient(CALLS[name], x)
    assert torch.equal(grad, gradient(CALLS[name], x))


# ---------------------------------------------------------------- torch.func


def test_func_grad(call):
    x = wide_noise(3, 64, dtype=torch.float64)
    torch.testing.assert_close(torch.func.grad(call)(x), gradient(call, x))
    grad, value = torch.func.grad_and_value(call)(x)
    torch.testing.assert_close(value, call(x))
    torch.testing.assert_close(grad, gradient(call, x))
    torch.testing.assert_close(torch.func.vjp(call, x)[1](torch.tensor(2.0).double())[0], 2 * grad)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_func_vmap(call):
    x = wide_noise(4, 2, 64, dtype=torch.float64)
    want = torch.stack([call(row, reduction="none") for row in x])
    torch.testing.assert_close(torch.func.vmap(functools.partial(call, reduction="none"))(x), want)
    inner = torch.func.vmap(call, in_dims=1)(x)
    torch.testing.assert_close(inner, torch.stack([call(x[:, b]) for b in range(2)]))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_func_vmap_of_grad(call):
    x = wide_noise(4, 2, 64, dtype=torch.float64)
    want = torch.stack([gradient(call, row) for row in x])
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(call))(x), want)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_func_jacrev(call):
    x = wide_noise(3, 64, dtype=torch.float64)
    jacobian = torch.func.jacrev(functools.partial(call, reduction="none"))(x)
    grads = gradient(call, x, reduction="none")
    want = torch.zeros(3, 3, 64, dtype=torch.float64)
    want[range(3), range(3)] = grads  # samples do not see each other
    torch.testing.assert_close(jacobian, want)


@pytest.mark.parametrize("name", FUSED)
def test_forward_mode_raises(name):
    x, tangent = wide_noise(2, 64), torch.ones(2, 64)
    with pytest.raises(RuntimeError, match="forward mode AD"):
        torch.func.jvp(CALLS[name], (x,), (tangent,))
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="forward mode AD"):
        CALLS[name](forward_ad.make_dual(x, tangent))


def test_forward_mode_of_prno(compare):
    """Plain autograd, so that forward mode is there: it must be the gradient's dot product."""
    x, tangent = (
        wide_noise(2, 64, dtype=torch.float64),
        wide_noise(2, 64, seed=1, dtype=torch.float64),
    )
    want = (gradient(CALLS["prno"], x) * tangent).sum()
    compare.values(torch.func.jvp(CALLS["prno"], (x,), (tangent,))[1], want, 1e-10)
    with forward_ad.dual_level():
        dual = CALLS["prno"](forward_ad.make_dual(x, tangent))
        compare.values(forward_ad.unpack_dual(dual).tangent, want, 1e-10)


# ---------------------------------------------------------------- backends


@pytest.mark.parametrize("permutation", ["shared", "per_sample"])
@pytest.mark.parametrize("dimension", [64, 101])
def test_backends_agree(compare, permutation, dimension):
    able = [name for name, state in gf.backends().items() if state == "available"]
    x = wide_noise(3, dimension)
    options = {"seed": 7, "permutation": permutation, "reduction": "none"}
    want, want_grad = gf.gaussianity_value_and_grad(x.double(), backend="torch", **options)
    for backend in [*able, "auto"]:
        value, grad = gf.gaussianity_value_and_grad(x, backend=backend, **options)
        compare.values(value, want, 1e-5)
        compare.vectors(grad, want_grad, 1e-4)


def test_backends_agree_on_the_permutation():
    for backend in [name for name, state in gf.backends().items() if state == "available"]:
        for size in (2, 33, 64, 1000):
            for samples in (0, 3):
                for inverse in (False, True):
                    args = (SEED, size, samples, inverse)
                    assert torch.equal(
                        OPS.permutation(*args, backend), OPS.permutation(*args, "torch")
                    )
