"""ParameterDrift and DriftDecay, and what lists of tensors are refused for."""

import copy
import math
import re

import numpy as np
import pytest
import torch
from drift_lists import model

import gaussreg_fast as gf

P = [torch.ones(3), torch.ones(2, 2), torch.ones(4)]


# ---------------------------------------------------------------- ParameterDrift


def test_module_is_the_function_from_where_it_was_made():
    net = model()
    drift = gf.ParameterDrift(net, weight=3.0, reduction="tensor_mean")
    base = copy.deepcopy(net).requires_grad_(False)
    assert drift(net).item() == 0
    assert not list(drift.parameters())
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p))
    options = {"weight": 3.0, "reduction": "tensor_mean"}
    want = gf.parameter_drift(net, base, **options)
    assert torch.equal(drift(net), want)
    assert torch.equal(drift(net.named_parameters()), want)
    assert torch.equal(drift(net.parameters()), want)
    value, grads = drift.value_and_grad(net)
    assert torch.equal(value, want)
    assert torch.equal(drift.accumulate(net), want)
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), grads, strict=True))
    assert list(drift.base) == [name for name, _ in net.named_parameters()]
    assert "4 tensors" in repr(drift)


def test_module_keeps_its_base_as_asked_for():
    net = model()
    drift = gf.ParameterDrift(net, dtype=torch.bfloat16, device="cpu")
    assert all(b.dtype == torch.bfloat16 for b in drift.base.values())
    state = drift.state_dict()
    assert len(state) == 4
    other = gf.ParameterDrift(model(5), dtype=torch.bfloat16)
    other.load_state_dict(state)
    assert torch.equal(other(net), drift(net))
    assert not gf.ParameterDrift(net, persistent=False).state_dict()
    listed = gf.ParameterDrift(net.parameters())
    assert isinstance(listed.base, list)
    assert listed(net).item() == 0
    listed.to(torch.float64)
    assert listed.base[0].dtype == torch.float64


def test_module_of_a_part_of_a_model():
    net = model()
    net[0].requires_grad_(False)

    def part():
        return [(n, p) for n, p in net.named_parameters() if p.requires_grad]

    drift = gf.ParameterDrift(part())
    assert drift(part()).item() == 0
    with pytest.raises(ValueError, match=r"base has no tensor for params\[0\], '0.weight'"):
        drift(net)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"weight": -1}, ValueError, "weight"),
        ({"reduction": "mean"}, ValueError, "reduction must be one of 'sum', 'tensor_mean'"),
        ({"backend": "cpu"}, ValueError, "backend"),
        ({"dtype": torch.int8}, TypeError, "dtype must be float32"),
    ],
)
def test_module_checks_its_options(options, error, match):
    with pytest.raises(error, match=match):
        gf.ParameterDrift(model(), **options)


# ---------------------------------------------------------------- DriftDecay


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_decay_follows_the_step(kind):
    """Against the same optimiser by hand, with two groups and a schedule of their rates."""
    nets = [model(1), model(1)]
    base = [p.detach().clone() + 0.1 for p in nets[0].parameters()]
    opts, plans = [], []
    for net in nets:
        groups = [{"params": net[0].parameters(), "lr": 0.1}, {"params": net[2].parameters()}]
        opts.append(kind(groups, lr=0.02))
        plans.append(torch.optim.lr_scheduler.StepLR(opts[-1], 2, 0.5))
    decay = gf.DriftDecay(opts[0], nets[0].parameters(), base, weight=2.0)
    x = torch.randn(4, 5)
    for _ in range(5):
        rates = [group["lr"] for group in opts[1].param_groups for _ in range(2)]
        for net, opt, plan in zip(nets, opts, plans, strict=True):
            opt.zero_grad()
            net(x).square().sum().backward()
            opt.step()
            plan.step()
        with torch.no_grad():
            for p, b, rate in zip(nets[1].parameters(), base, rates, strict=True):
                p.copy_(b + (p - b) * math.exp(-2 * rate * 2.0))
    for p, q in zip(*(net.parameters() for net in nets), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
    decay.remove()
    before = [p.detach().clone() for p in nets[0].parameters()]
    opts[0].zero_grad()
    opts[0].step()
    if kind is torch.optim.SGD:
        assert all(torch.equal(p, b) for p, b in zip(nets[0].parameters(), before, strict=True))


def test_decay_of_some_parameters_until_the_end_of_a_block():
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    some = dict(net[2].named_parameters())
    base = {name: torch.zeros_like(p) for name, p in some.items()}
    start = {name: p.detach().clone() for name, p in net.named_parameters()}
    with gf.DriftDecay(optimizer, some, base, weight=0.5 * math.log(2)):
        optimizer.step()  # no gradients: nothing but the decay
    optimizer.step()
    for name, p in net.named_parameters():
        factor = 0.5 if name.startswith("2") else 1.0
        torch.testing.assert_close(p.detach(), factor * start[name])


def test_decay_keeps_a_model_near_its_base():
    """Towards a far target, the stronger the nearer to the base."""
    ends = []
    for weight in (0.0, 1.0, 10.0):
        p, base = torch.zeros(50, requires_grad=True), torch.zeros(50)
        optimizer = torch.optim.AdamW([p], lr=0.05, weight_decay=0)
        with gf.DriftDecay(optimizer, [p], [base], weight=weight):
            for _ in range(200):
                optimizer.zero_grad()
                (p - 3).square().sum().backward()
                optimizer.step()
        ends.append(p.detach().norm().item())
    assert ends[0] == pytest.approx(3 * math.sqrt(50), rel=1e-2)
    assert ends[1] < 0.5 * ends[0]
    assert ends[2] < 0.5 * ends[1]


def test_decay_refuses_what_it_cannot_decay():
    net, other = model(), model()
    base = [p.detach().clone() for p in net.parameters()]
    optimizer = torch.optim.SGD(net[0].parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"params\[2\] must be a parameter of the optimiser"):
        gf.DriftDecay(optimizer, net.parameters(), base)
    with pytest.raises(ValueError, match=r"params\[0\], '0.weight', must be a parameter of the"):
        gf.DriftDecay(optimizer, other, base)
    with pytest.raises(TypeError, match=r"optimizer must be a .*Optimizer, got Linear"):
        gf.DriftDecay(net[0], net.parameters(), base)
    with pytest.raises(ValueError, match="weight"):
        gf.DriftDecay(optimizer, net[0].parameters(), base[:2], weight=math.nan)


# ---------------------------------------------------------------- bad input

CALLS = {
    "value": gf.parameter_drift,
    "value_and_grad": gf.parameter_drift_value_and_grad,
    "accumulate": gf.accumulate_parameter_drift,
    "decay": lambda p, b, **o: gf.parameter_drift_decay_(p, b, rate=0.1, **o),
}


def changed(i, tensor):
    return [*P[:i], tensor, *P[i + 1 :]]


BAD = [
    ([], P, ValueError, "params must hold at least one tensor, got none"),
    (P, {}, ValueError, "base must hold at least one tensor, got none"),
    (iter([]), P, ValueError, "params must hold at least one"),
    (P[0], P, TypeError, "params must be a module, a mapping.*got Tensor"),
    (P, 3, TypeError, "base must be a module, a mapping.*got int"),
    (P, "base", TypeError, "base must be a module.*got str"),
    (P, P[:2], ValueError, r"must have as many tensors, got 3 and 2: params\[2\] has no"),
    (P[:2], P, ValueError, r"must have as many tensors, got 2 and 3: base\[2\] has no"),
    (P, changed(1, torch.ones(4)), ValueError, r"params\[1\] must have.*\(2, 2\) and \(4,\)"),
    (
        {"a": P[0], "b": P[1]}, [P[0], P[0]],
        ValueError, r"params\[1\], 'b', must have the shape of its base, got \(2, 2\) and \(3,\)",
    ),
    (
        {"a": P[0], "b": P[1]}, {"b": P[1], "c": P[0]},
        ValueError, r"base has no tensor for params\[0\], 'a'",
    ),
    ({"b": P[1]}, {"a": P[0], "b": P[1]}, ValueError, r"params has no tensor for base\[0\], 'a'"),
    ([("a", P[0]), ("a", P[1])], P[:2], ValueError, "params must name each tensor once, got 'a'"),
    ([("a", P[0]), P[1]], P[:2], TypeError, r"params\[1\] must be \(name, tensor\)"),
    (P, changed(2, torch.ones(4, requires_grad=True)), ValueError, r"base\[2\] must not require"),
    (
        {"a": P[0], "b": P[1]}, {"a": P[0], "b": torch.ones(2, 2, requires_grad=True)},
        ValueError, r"base\[1\], 'b', must not require grad",
    ),
    (changed(1, torch.ones(2, 2).int()), P, TypeError, r"params\[1\] must be float32.*int32"),
    (P, changed(0, torch.ones(3).to(torch.complex64)), TypeError, r"base\[0\] must be float32"),
    (changed(1, torch.eye(2).to_sparse()), P, TypeError, r"params\[1\] must be a dense tensor"),
    (changed(1, [[1.0]]), P, TypeError, r"params\[1\] must be a torch.Tensor, got list"),
    (changed(1, torch.ones(2, 2, device="meta")), P, ValueError, r"params\[1\] must be on the dev"),
    (P, changed(1, torch.ones(2, 2, device="meta")), ValueError, r"base\[1\] must be on the"),
]  # fmt: skip


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(("params", "base", "error", "match"), BAD)
def test_lists_that_do_not_fit(call, params, base, error, match):
    params = iter([]) if not isinstance(params, (list, dict, torch.Tensor)) else params
    with pytest.raises(error, match=match):
        call(params, base)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"weight": -1.0}, "^weight must be finite and at least 0"),
        ({"weight": math.nan}, "^weight must be finite and at least 0"),
        ({"weight": "1"}, "^weight must be a number"),
        ({"reduction": "mean"}, re.escape("reduction must be one of 'sum', 'tensor_mean', got 'm")),
        ({"backend": "gpu"}, "^backend must be one of"),
    ],
)
def test_options_out_of_range(call, options, match):
    with pytest.raises(ValueError, match=match):
        call(P, [p.clone() for p in P], **options)


DOUBLE = changed(1, P[1].double())


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("backend", ["native", "triton"])
@pytest.mark.parametrize(("params", "base", "name"), [(DOUBLE, P, "params"), (P, DOUBLE, "base")])
def test_a_backend_by_name_refuses_float64(call, backend, params, base, name):
    """In params or base alike, and recommends none that refuses it too; "auto" computes it."""
    params, base = ([t.clone() for t in tensors] for tensors in (params, base))
    why = rf"in float32, {name}\[1\] is float64" if gf.backends()[backend] == "available" else ""
    message = rf"'{backend}' cannot run here: .*{why}; these can: 'torch'$"
    with pytest.raises(RuntimeError, match=message):
        call(params, base, backend=backend)
    call(params, base)
    call(params, base, backend="torch")


@pytest.mark.parametrize("backend", ["native", "triton"])
def test_a_backend_by_name_refuses_float64_in_compiled_code(backend):
    compiled = torch.compile(gf.parameter_drift, backend="eager")
    for params, base in ((DOUBLE, P), (P, DOUBLE)):
        with pytest.raises(RuntimeError, match=f"'{backend}' cannot run here"):
            compiled(params, [b.clone() for b in base], backend=backend)


@pytest.mark.parametrize("backend", ["native", "triton"])
def test_a_backend_by_name_refuses_float64_factors(backend):
    a, b = torch.ones(2, 5), torch.ones(3, 2).double()
    with pytest.raises(RuntimeError, match=f"'{backend}' cannot run here: .*'torch'$") as caught:
        gf.lora_drift([(a, a.T), (a, b)], backend=backend)
    if gf.backends()[backend] == "available":
        assert "B of pairs[1] is float64" in str(caught.value)


def test_lora_drift_as_a_module():
    pairs = [(torch.randn(2, 5), torch.randn(3, 2)), (torch.randn(1, 4), torch.randn(6, 1))]
    for form in ("factors", "product"):
        options = {"weight": 0.5, "form": form, "backend": "torch"}
        module = gf.LoraDrift(**options)
        torch.testing.assert_close(module(pairs), gf.lora_drift(pairs, **options))
        assert f"form='{form}'" in repr(module)
    for wrong in ({"form": "sum"}, {"weight": -1.0}, {"backend": "cuda"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            gf.LoraDrift(**wrong)


def test_what_is_written_to_must_be_apart():
    x = torch.ones(4, requires_grad=True)
    for call in (CALLS["accumulate"], CALLS["decay"]):
        with pytest.raises(ValueError, match=r"params\[1\] must not share memory with params\[0\]"):
            call([x, x], [P[2], P[2]])
        with pytest.raises(
            ValueError, match=r"params\[1\], 'b', must not share memory with params"
        ):
            call({"a": x, "b": x.detach().view(2, 2)}, [P[2], P[1]])
    assert gf.parameter_drift([x, x], [P[2], P[2]]).item() == 0  # what is only read may be twice


def test_gradients_that_cannot_be_added_to():
    leaf = torch.ones(4, requires_grad=True)
    with pytest.raises(ValueError, match=r"params\[0\] must be a leaf"):
        gf.accumulate_parameter_drift([leaf * 2], [P[2]])
    leaf.grad = torch.ones(4, requires_grad=True)
    with pytest.raises(ValueError, match=r"gradient of params\[0\] must be dense"):
        gf.accumulate_parameter_drift([leaf], [P[2]])
    x = torch.ones(2, 2, requires_grad=True)
    x.grad = torch.eye(2).to_sparse()
    with pytest.raises(ValueError, match="must be dense"):
        gf.accumulate_parameter_drift([x], [P[1]])


@pytest.mark.parametrize(
    "rate",
    [-0.1, math.nan, "fast", None, torch.tensor(0.1), [0.1, 0.1], [0.1, 0.1, -1]],
)
def test_rates_out_of_range(rate):
    with pytest.raises(ValueError, match=r"rate must be .*got"):
        gf.parameter_drift_decay_(P, [p.clone() for p in P], rate=rate)


def test_rates_of_numpy():
    found = [torch.ones(3), torch.ones(3)]
    for p, rate in zip(found, (np.float32(0.5), 0.5), strict=True):
        gf.parameter_drift_decay_([p], [torch.zeros(3)], rate=rate)
    assert torch.equal(*found)


A, B = torch.ones(2, 5), torch.ones(7, 2)


@pytest.mark.parametrize("form", ["factors", "product"])
@pytest.mark.parametrize(
    ("pairs", "error", "match"),
    [
        ([], ValueError, "pairs must hold at least one pair"),
        (A, TypeError, "pairs must be an iterable"),
        (None, TypeError, "pairs must be an iterable"),
        ([A, B], TypeError, r"pairs\[0\] must be \(A, B\), got Tensor"),
        ([(A, B), (A,)], TypeError, r"pairs\[1\] must be \(A, B\)"),
        (
            [(A, B), (B, A)],
            ValueError,
            r"pairs\[1\] must be A \(r, n\) and B \(m, r\), got \(7, 2\)",
        ),
        ({"q": (A, B), "k": (B, A)}, ValueError, r"pairs\[1\], 'k', must be A \(r, n\)"),
        ({"q": (A, B[0])}, ValueError, r"B of pairs\[0\], 'q', must have at least"),
        ([(A.int(), B)], TypeError, r"A of pairs\[0\] must be float32"),
        ([(A, B[0])], ValueError, r"B of pairs\[0\] must have at least two dimensions"),
        ([(A, B.to("meta"))], ValueError, "pairs must be on one device"),
    ],
)
def test_pairs_that_do_not_fit(pairs, error, match, form):
    with pytest.raises(error, match=match):
        gf.lora_drift(pairs, form=form)


def test_lora_options_out_of_range():
    with pytest.raises(ValueError, match="form must be one of 'factors', 'product', got 'sum'"):
        gf.lora_drift([(A, B)], form="sum")
    with pytest.raises(ValueError, match="weight must be finite"):
        gf.lora_drift([(A, B)], weight=math.inf)
