"""Path KL and surrogate rewards under torch's machinery, and their bad input."""

import functools
import math

import draws
import numpy as np
import pytest
import torch
from backends_here import needs_native
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.library import opcheck

import gaussreg_fast as gf

OPS = torch.ops.gaussreg_fast
GROUP = torch.tensor([3, -1, 3, 3, 0, -1, 0])
double_noise = functools.partial(draws.noise, dtype=torch.float64)


def path(dtype=torch.float64, per_sample=True):
    sigma = 0.5 + double_noise(3, 2, seed=1, dtype=dtype).abs()
    return double_noise(3, 2, 4, 5, dtype=dtype), sigma if per_sample else sigma[:, 0].clone()


def surrogate(kind):
    return lambda r: gf.surrogate_reward(r, kind, alpha=0.7, gamma=0.3, group=GROUP)


KINDS = ["kl", "forward_kl", "gamma", "chi2", "js"]

# ---------------------------------------------------------------- operators


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("per_sample", [False, True])
def test_opcheck_path(per_sample, dtype):
    dmu, sigma = path(dtype)
    sigma = (sigma if per_sample else sigma[:, :1].clone()).requires_grad_()
    opcheck(OPS.path_kl.default, (dmu.requires_grad_(), sigma, False, "auto"))
    opcheck(OPS.path_kl.default, (dmu.detach(), sigma.detach(), True, "auto"))
    upstream = double_noise(2, dtype=torch.float32)
    opcheck(OPS.path_kl_backward.default, (dmu.detach(), sigma.detach(), upstream, "auto"))


@pytest.mark.parametrize("group", [None, GROUP])
def test_opcheck_surrogate(group):
    reward = double_noise(7).requires_grad_()
    opcheck(OPS.tilt.default, (reward, group, "gamma", 0.7, 0.3))
    opcheck(OPS.group_sum.default, (reward, group))


@pytest.mark.parametrize("per_sample", [False, True])
def test_path_gradients_of_first_and_second_order(per_sample):
    inputs = tuple(v.requires_grad_() for v in path(per_sample=per_sample))
    assert torch.autograd.gradcheck(gf.path_kl, inputs)
    assert torch.autograd.gradgradcheck(gf.path_kl, inputs)


@pytest.mark.parametrize("which", [0, 1])
def test_path_gradient_of_one_of_both(which):
    inputs = path()
    inputs[which].requires_grad_()
    both = [v.detach().clone().requires_grad_() for v in inputs]
    gf.path_kl(*inputs).sum().backward()
    gf.path_kl(*both).sum().backward()
    assert torch.equal(inputs[which].grad, both[which].grad)
    assert inputs[1 - which].grad is None


@pytest.mark.parametrize("kind", KINDS)
def test_surrogate_gradients_of_first_and_second_order(kind):
    r = (3 * double_noise(7)).requires_grad_()
    if kind == "chi2":  # someone is clipped, and nobody is near that
        assert surrogate(kind)(r).isinf().any()
        call = lambda r: torch.nan_to_num(surrogate(kind)(r), neginf=0.0)  # noqa: E731
    else:
        call = surrogate(kind)
    assert torch.autograd.gradcheck(call, (r,))
    assert torch.autograd.gradgradcheck(call, (r,))


@pytest.mark.parametrize("kind", [*KINDS, "tv"])
@pytest.mark.parametrize("samples", ["p", "q"])
def test_divergence_gradients(kind, samples):
    def call(log_t):
        return gf.f_divergence(log_t, kind, gamma=0.3, samples=samples)

    assert torch.autograd.gradcheck(call, (double_noise(6).requires_grad_(),))


def terms(d):
    dmu, sigma = gf.ddim_step_kl_terms(d, alpha_cumprod=0.3, alpha_cumprod_prev=0.4, eta=0.5)
    return gf.path_kl(dmu[None], sigma[None])


CALLS = {
    "path": lambda x: gf.path_kl(x, torch.tensor([0.5, 2.0], dtype=x.dtype)).sum(),
    "value_and_grad": lambda x: gf.path_kl_value_and_grad(x, x[:, :, 0].exp())[1].sum(),
    "terms": lambda x: terms(x[0]).sum(),
    "surrogate": lambda x: surrogate("gamma")(x[0, 0, :7]).square().sum(),
    "divergence": lambda x: gf.f_divergence(x, "js"),
}


@pytest.mark.parametrize("name", CALLS)
def test_compile(name):
    torch.compiler.reset()
    compiled = torch.compile(CALLS[name], fullgraph=True, backend="aot_eager")
    for dtype in (torch.float32, torch.float64):
        x, y = (double_noise(2, 3, 8, dtype=dtype).requires_grad_() for _ in range(2))
        got, want = compiled(x), CALLS[name](y)
        torch.testing.assert_close(got, want, rtol=1e-6, atol=0)
        if want.requires_grad:
            got.backward()
            want.backward()
            torch.testing.assert_close(x.grad, y.grad, rtol=1e-6, atol=1e-7)


def test_compile_with_changing_shapes():
    torch.compiler.reset()
    compiled = torch.compile(gf.path_kl, fullgraph=True, backend="aot_eager", dynamic=True)
    for steps, batch, size in ((2, 3, 8), (4, 2, 5), (7, 5, 30)):
        x = double_noise(steps, batch, size, dtype=torch.float32)
        s = torch.full((steps,), 0.5)
        torch.testing.assert_close(compiled(x, s), gf.path_kl(x, s), rtol=1e-6, atol=0)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", ["path", "surrogate"])
def test_transforms(name):
    call = CALLS[name]
    xs = double_noise(4, 2, 3, 8)
    grads = []
    for x in xs:
        z = x.clone().requires_grad_()
        call(z).backward()
        grads.append(z.grad)
    torch.testing.assert_close(torch.func.grad(call)(xs[0]), grads[0])
    torch.testing.assert_close(torch.func.vmap(call)(xs), torch.stack([call(x) for x in xs]))
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(call))(xs), torch.stack(grads))
    with pytest.raises(RuntimeError, match="forward mode AD"):
        torch.func.jvp(call, (xs[0],), (xs[0],))


def test_autocast():
    dmu, sigma = path(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(gf.path_kl(dmu, sigma), gf.path_kl(dmu, sigma))
        value = gf.path_kl(dmu, sigma)
    assert torch.equal(value, gf.path_kl(dmu, sigma))


def test_fake_tensors_compute_nothing():
    dmu, sigma = path(torch.float32)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert gf.path_kl(dmu, sigma).shape == (2,)
        assert gf.surrogate_reward(dmu[0, 0, 0], "js", alpha=1.0).shape == (5,)


@needs_native
@pytest.mark.parametrize("shape", [(3,), (2, 2), (4, 2), (3, 3)])
def test_operators_called_by_hand_are_guarded(shape):
    with pytest.raises(ValueError, match="sigma must be"):
        OPS.path_kl(torch.ones(3, 2, 5), torch.ones(shape), False, "native")
    with pytest.raises(ValueError, match="upstream must be"):
        OPS.path_kl_backward(torch.ones(3, 2, 5), torch.ones(3, 1), torch.ones(3), "native")


def test_inputs_are_left_alone():
    dmu, sigma = path(torch.float32)
    kept = dmu.clone(), sigma.clone()
    x = dmu.requires_grad_()
    upstream = torch.tensor([2.0, 3.0])
    gf.path_kl(x, sigma).backward(upstream)
    assert torch.equal(x, kept[0])
    assert torch.equal(sigma, kept[1])
    assert upstream.tolist() == [2.0, 3.0]


# ---------------------------------------------------------------- bad input

D, S = torch.ones(3, 2, 4), torch.ones(3)
ALPHAS = {"alpha_cumprod": 0.3, "alpha_cumprod_prev": 0.4}
FLOW = {"t": 0.5, "dt": 0.1, "noise_scale": 0.7}


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: gf.path_kl([1.0], S), TypeError, "dmu must be a torch.Tensor, got list"),
        (lambda: gf.path_kl(D.long(), S), TypeError, "dmu must be float32.*got torch.int64"),
        (lambda: gf.path_kl(D.to_sparse(), S), TypeError, "dmu must be a dense"),
        (lambda: gf.path_kl(D.cfloat(), S), TypeError, "got torch.complex64"),
        (lambda: gf.path_kl(D, 1.0), TypeError, "sigma must be a torch.Tensor, got float"),
        (lambda: gf.path_kl(D[:, 0, 0], S), ValueError, r"dmu must have shape \(T, B"),
        (lambda: gf.path_kl(D, S[:2]), ValueError, r"sigma must have shape \(3,\) or \(3, 2\)"),
        (lambda: gf.path_kl(D, torch.ones(2, 3)), ValueError, "sigma must have shape"),
        (lambda: gf.path_kl(D, S.to("meta")), ValueError, "sigma must be on the device of dmu"),
        (lambda: gf.path_kl(D, 0 * S), ValueError, "without noise has no finite path KL"),
        (lambda: gf.path_kl(D, -S), ValueError, "sigma must be finite and above 0, got .*-1"),
        (lambda: gf.path_kl(D, S / 0), ValueError, "sigma must be finite"),
        (lambda: gf.path_kl(D, S * torch.nan), ValueError, "sigma must be finite"),
        (lambda: gf.path_kl(D, S, backend="cuda"), ValueError, "backend must be one of"),
        (lambda: gf.path_kl_value_and_grad(D, 0 * S), ValueError, "sigma must be finite"),
        (lambda: gf.PathKL(backend="x"), ValueError, "backend must be one of"),
        (lambda: gf.PathKL().add(D, 0), ValueError, "sigma must be above 0"),
        (lambda: gf.PathKL().add(D, S[:2]), ValueError, r"shape \(\) or \(3,\)"),
        (lambda: gf.PathKL().add(torch.tensor(1.0), 1.0), ValueError, "dmu must have shape"),
        (lambda: gf.ddim_step_kl_terms(D, **ALPHAS, eta=0), ValueError, "deterministic.*infinite"),
        (lambda: gf.ddim_step_kl_terms(D, **ALPHAS, eta=0.0), ValueError, "deterministic"),
        (lambda: gf.ddim_step_kl_terms(D, **ALPHAS, eta=1.5), ValueError, "eta must be.*1.5"),
        (lambda: gf.ddim_step_kl_terms(D, **ALPHAS, eta=np.float32(0)), ValueError, "determinis"),
        (
            lambda: gf.ddim_step_kl_terms(D, **ALPHAS, eta=-1),
            ValueError,
            "eta must be above 0 and at most 1, got -1",
        ),
        (lambda: gf.ddim_step_kl_terms(D, **ALPHAS, eta=math.nan), ValueError, "eta must be"),
        (lambda: gf.ddim_step_kl_terms(D, **ALPHAS, eta="1"), ValueError, "eta must be a number"),
        (lambda: gf.ddim_step_kl_terms(None, **ALPHAS, eta=1), TypeError, "difference must be"),
        (
            lambda: gf.ddim_step_kl_terms(D, alpha_cumprod=0.3, alpha_cumprod_prev=1, eta=1),
            ValueError,
            "leave the last step out",
        ),
        (
            lambda: gf.ddpm_step_kl_terms(D, alpha_cumprod=0.3, alpha_cumprod_prev=0.3),
            ValueError,
            "alpha_cumprod_prev - alpha_cumprod must be above 0",
        ),
        (
            lambda: gf.ddpm_step_kl_terms(D, alpha_cumprod=0.0, alpha_cumprod_prev=0.3),
            ValueError,
            "alpha_cumprod must be above 0 and at most 1, got 0",
        ),
        (
            lambda: gf.ddpm_step_kl_terms(D, alpha_cumprod=0.1, alpha_cumprod_prev="x"),
            TypeError,
            "alpha_cumprod_prev must be a number or a torch.Tensor, got str",
        ),
        (
            lambda: gf.ddpm_step_kl_terms(D, alpha_cumprod=S[:2] / 4, alpha_cumprod_prev=0.3),
            ValueError,
            r"difference must have a shape that begins with the schedule's, \(2,\)",
        ),
        (
            lambda: gf.ddpm_step_kl_terms(D, **ALPHAS, variance_type="learned"),
            ValueError,
            "variance_type must be one of",
        ),
        (
            lambda: gf.ddpm_step_kl_terms(D, **ALPHAS, prediction_type="flow"),
            ValueError,
            "prediction_type must be one of",
        ),
        (lambda: gf.flow_step_kl_terms(D, **(FLOW | {"t": 0})), ValueError, "t must be above 0"),
        (lambda: gf.flow_step_kl_terms(D, **(FLOW | {"t": 1.1})), ValueError, "t must be"),
        (lambda: gf.flow_step_kl_terms(D, **(FLOW | {"dt": -0.1})), ValueError, "dt must be"),
        (lambda: gf.flow_step_kl_terms(D, **(FLOW | {"dt": 0.6})), ValueError, "t - dt must be"),
        (
            lambda: gf.flow_step_kl_terms(D, **(FLOW | {"noise_scale": 0})),
            ValueError,
            "noise_scale must be above 0 and finite, got 0.0: a step without noise",
        ),
        (
            lambda: gf.flow_step_kl_terms(D, **(FLOW | {"noise_scale": math.inf})),
            ValueError,
            "noise_scale must be above 0 and finite, got inf$",
        ),
        (
            lambda: gf.flow_step_kl_terms(D, **(FLOW | {"noise_scale": S / 0})),
            ValueError,
            "noise_scale must be above 0 and finite, got inf$",
        ),
        (lambda: gf.PathKL().add(D, math.inf), ValueError, "sigma must be above 0 and finite"),
        (lambda: gf.f_divergence([0.0], "kl"), TypeError, "log_ratio must be a torch.Tensor"),
        (lambda: gf.f_divergence(S, "renyi"), ValueError, "kind must be one of .*'tv'"),
        (lambda: gf.f_divergence(S, "kl", samples="x"), ValueError, "samples must be one of"),
        (lambda: gf.f_divergence(S, "gamma", gamma=1), ValueError, "gamma must be .*below 1"),
        (lambda: gf.f_divergence(S, "kl", reduction="x"), ValueError, "reduction must be"),
        (lambda: gf.surrogate_reward(S, "tv", alpha=1.0), ValueError, "cannot be inverted"),
        (lambda: gf.surrogate_reward(S, "x", alpha=1.0), ValueError, "kind must be one of"),
        (lambda: gf.surrogate_reward(D, "kl", alpha=1.0), ValueError, r"shape \(N,\)"),
        (lambda: gf.surrogate_reward(S.int(), "kl", alpha=1.0), TypeError, "reward must be float"),
        (lambda: gf.surrogate_reward(S, "kl", alpha=0), ValueError, "alpha must be above 0"),
        (lambda: gf.surrogate_reward(S, "kl", alpha=math.nan), ValueError, "alpha must be"),
        (lambda: gf.surrogate_reward(S, "kl", alpha=math.inf), ValueError, "alpha must be"),
        (lambda: gf.surrogate_reward(S, "gamma", alpha=1, gamma=0), ValueError, "gamma must be"),
        (lambda: gf.surrogate_reward(S, "kl", alpha=1, group=[0]), TypeError, "group must be"),
        (lambda: gf.surrogate_reward(S, "kl", alpha=1, group=S), TypeError, "integer dtype"),
        (
            lambda: gf.surrogate_reward(S, "kl", alpha=1, group=torch.zeros(2).long()),
            ValueError,
            r"group must have the shape of reward, \(3,\), got \(2,\)",
        ),
    ],
)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_batches_that_change():
    kl = gf.PathKL()
    kl.add(torch.ones(2, 3), 1.0)
    with pytest.raises(ValueError, match=r"dmu must have B = 2 .*, got"):
        kl.add(torch.ones(3, 3), 1.0)
