"""The compiled drift and memory: how it reads lists and writes gradients."""

import itertools
import warnings

import pytest
import torch
from backends_here import needs_native
from torch import nn

import gaussreg_fast as gf
from bench.harness import machine
from bench.harness.errors import BadInput
from bench.studies import drift_memory
from gaussreg_fast import checks
from gaussreg_fast.backends import native
from gaussreg_fast.backends._lists import NUMBERS

pytestmark = needs_native
EXCHANGE = pytest.mark.skipif(
    native._module.EXCHANGE is None, reason="torch without the exchange API"
)
FLOATS = [torch.float32, torch.bfloat16, torch.float16]
SIZES = (1, 15, 16, 17, 63, 4096, 4113, 32767, 32769, 100003)
NEVER, ALWAYS = 1 << 60, 0  # from how many bytes on gradients go past the caches


def lists(dtype, base_dtype, offset=0, sizes=SIZES):
    """Parameters, base and memory for gradients, all `offset` numbers into their allocations."""
    generator = torch.Generator().manual_seed(0)

    def numbers(n, dtype):
        return torch.randn(n + offset, generator=generator).to(dtype)[offset:]

    params = [numbers(n, dtype) for n in sizes]
    base = [numbers(n, base_dtype) for n in sizes]
    return params, base


def run(params, base, grads, streamed, threads=1):
    call = native.module().drift
    codes = [[NUMBERS[t.dtype] for t in one] for one in (params, base)]
    addresses = [[t.data_ptr() for t in one] for one in (params, base, grads)]
    sizes, scales = [p.numel() for p in params], [0.3 + 0.1 * i for i in range(len(params))]
    return call("gradient", *addresses, sizes, *codes, scales, 0.7, threads, streamed)


@pytest.mark.parametrize(("dtype", "base_dtype"), list(itertools.product(FLOATS, FLOATS)))
@pytest.mark.parametrize("offset", [0, 1, 8])
def test_stores_past_the_caches_change_no_bits(dtype, base_dtype, offset):
    """Nor does where gradients begin; nothing is written beside them."""
    params, base = lists(dtype, base_dtype, offset)
    found = []
    for streamed, threads in ((NEVER, 1), (ALWAYS, 1), (ALWAYS, 2)):
        held = [torch.full((n + 64,), 7.0, dtype=dtype) for n in SIZES]
        grads = [h[offset : offset + n] for h, n in zip(held, SIZES, strict=True)]
        found.append((run(params, base, grads, streamed, threads), grads))
        for h, n in zip(held, SIZES, strict=True):
            assert (h[:offset] == 7).all()
            assert (h[offset + n :] == 7).all()
    for value, grads in found[1:]:
        assert value == found[0][0]
        assert all(map(torch.equal, grads, found[0][1]))
    scales = [0.3 + 0.1 * i for i in range(len(SIZES))]
    for g, p, b, scale in zip(grads, params, base, scales, strict=True):
        want = 0.7 * scale * (p.double() - b.double())
        torch.testing.assert_close(g.double(), want, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("numbers", [11_000_000, 11_300_003])
def test_lists_on_both_sides_of_the_threshold(numbers):
    """132 and 135.6 MB of traffic, the threshold being 134.2; pages asked for in large pieces."""
    assert (numbers * 12 >= 128 << 20) == (numbers > 11_200_000)
    p, b = torch.randn(numbers), torch.randn(numbers)
    value, (grad,) = gf.parameter_drift_value_and_grad([p], [b], weight=0.5)
    assert torch.equal(grad, p - b)
    assert value.item() == pytest.approx(0.5 * (p - b).double().square().sum().item(), rel=1e-6)


# ---------------------------------------------------------------- how lists are read


def subclass():
    return torch.ones(6).as_subclass(type("Tagged", (torch.Tensor,), {}))


def rows(x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls them beta
        return x.to_sparse_csr()


SQUARE = torch.ones(6, 6)
CASES = {
    "uniform": ([torch.ones(6), SQUARE], [torch.ones(6).half(), SQUARE], True),
    "parameters": ([nn.Parameter(torch.ones(6))], [torch.ones(6)], True),
    "empty ones": ([torch.ones(0, 4), torch.ones(())], [torch.ones(0, 4), torch.ones(())], True),
    "lengths of 1": ([torch.ones(6, 6)[:, :1][:1]], [torch.ones(1, 1)], True),
    "no base": ([torch.ones(6)], [], True),
    "every other": ([SQUARE[:, ::2]], [torch.ones(6, 3)], False),
    "transposed": ([torch.ones(2, 3)], [torch.ones(3, 2).T], False),
    "other shape": ([SQUARE], [torch.ones(36)], False),
    "fewer": ([SQUARE], [torch.ones(5, 6)], False),
    "expanded": ([torch.ones(1).expand(6)], [torch.ones(6)], False),
    "float64": ([torch.ones(6).double()], [torch.ones(6)], False),
    "integers": ([torch.ones(6).int()], [torch.ones(6)], False),
    "complex": ([torch.ones(6)], [torch.ones(6).to(torch.complex64)], False),
    "8 bits": ([torch.ones(6).to(torch.float8_e4m3fn)], [torch.ones(6)], False),
    "sparse": ([SQUARE.to_sparse()], [SQUARE], False),
    "sparse rows": ([SQUARE], [rows(SQUARE)], False),
    "mkldnn": ([SQUARE.to_mkldnn()], [SQUARE], False),
    "subclass": ([subclass()], [torch.ones(6)], False),
    "no tensor": ([torch.ones(6), 3.0], [torch.ones(6), torch.ones(6)], False),
    "base with gradient": ([torch.ones(6)], [torch.ones(6).requires_grad_()], False),
    "meta": ([torch.ones(6, device="meta")], [torch.ones(6, device="meta")], False),
}  # fmt: skip


@EXCHANGE
@pytest.mark.parametrize("case", CASES)
def test_what_is_plain(case):
    params, base, want = CASES[case]
    assert native.uniform(params, base) is want
    assert checks.uniform(params, base) is (want or case == "meta")  # it is for any device


@EXCHANGE
def test_tensors_are_what_their_addresses_are():
    call = native.module().drift_tensors
    params, base = lists(torch.bfloat16, torch.float32)
    scales = [0.3 + 0.1 * i for i in range(len(SIZES))]
    ours, theirs = ([torch.zeros_like(p) for p in params] for _ in range(2))
    options = native._module.EXCHANGE, native._module.TYPES, "gradient"
    value = call(*options, params, base, ours, scales, 0.7, 1)
    assert value == run(params, base, theirs, NEVER)
    assert all(map(torch.equal, ours, theirs))
    for wrong in (torch.zeros(15, dtype=torch.float32), torch.zeros(16, dtype=torch.bfloat16)):
        assert call(*options, params, base, [ours[0], wrong, *ours[2:]], scales, 0.7, 1) is None
    for lengths in ((params, base[1:], ours), (params, base, ours[1:]), (params[1:], base, ours)):
        with pytest.raises(ValueError, match="of one length"):
            call(*options, *lengths, scales, 0.7, 1)
    with pytest.raises(ValueError, match="unknown task"):
        call(*options[:2], "backward", params, base, ours, scales, 0.7, 1)


@EXCHANGE
def test_nothing_changes_without_the_exchange_api(monkeypatch):
    """Some releases of torch do not have it."""

    def results():
        torch.manual_seed(0)
        layer = nn.Linear(40, 30).bfloat16()
        base = [p.detach().float() + 0.1 for p in layer.parameters()]
        value = gf.parameter_drift(layer, base)
        value.backward()
        added = gf.accumulate_parameter_drift(layer, base)
        grads = [p.grad.clone() for p in layer.parameters()]
        gf.parameter_drift_decay_(layer, base, rate=0.1)
        return [value.detach(), added, *grads, *(p.detach() for p in layer.parameters())]

    want = results()
    monkeypatch.setattr(native._module, "EXCHANGE", None)
    assert all(map(torch.equal, results(), want))


def test_a_parameter_that_lies_otherwise_before_backward():
    """Memory and version stay the same: only the strides show the difference."""
    p, b = torch.randn(30, 30, requires_grad=True), torch.randn(30, 30)
    value = gf.parameter_drift([p], [b])
    p.data = p.data.t()
    value.backward()
    torch.testing.assert_close(p.grad, 2 * (p.detach() - b))


# ---------------------------------------------------------------- the benchmark of memory


def test_the_benchmark_of_memory_asks_first(monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda device: 5 << 30)
    with pytest.raises(BadInput, match=r"needs 7.6 GiB of free memory, got 5.0"):
        drift_memory.measure()


@pytest.mark.memory
def test_the_benchmark_of_memory():
    case = drift_memory.measure(4 * 10**7)
    for task, taken in case["bytes"].items():
        assert taken["peak"] - taken["new gradients"] < 4e6, task
    assert len(list(drift_memory.lines(case))) == 1 + len(case["bytes"])
