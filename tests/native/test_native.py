"""The loader of the compiled module, the choice of backend, and what an import loads."""

import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from fresh_python import printed

import gaussreg_fast
from gaussreg_fast.backends import native
from gaussreg_fast.backends.choice import resolve

# The installation leaves this note only where it found no C++ compiler.
NOTE = Path(native.__file__).parents[2] / "_native_missing.txt"
needs_native = pytest.mark.skipif(NOTE.exists(), reason=f"{NOTE.name} is there")


@pytest.fixture
def without_module(monkeypatch, tmp_path):
    """Makes the compiled module unloadable for one test, and moves the loader off any note."""
    monkeypatch.setitem(sys.modules, "gaussreg_fast._native", None)  # import raises ImportError
    monkeypatch.setattr(native._module, "__file__", str(tmp_path / "a" / "b" / "c.py"))
    native.load.cache_clear()
    yield monkeypatch
    native.load.cache_clear()


@pytest.fixture
def without_module_noted(without_module, tmp_path):
    """The same where the installation left a note that says why."""
    (tmp_path / NOTE.name).write_text("no C++ compiler\n", encoding="utf-8")


# ---------------------------------------------------------------- available or not


def test_backends_say_what_is_there():
    states = gaussreg_fast.backends()
    assert set(states) == {"triton", "native", "torch"}
    assert states["torch"] == "available"
    assert all(isinstance(state, str) and state for state in states.values())
    if NOTE.exists():
        assert states["native"] == NOTE.read_text(encoding="utf-8").strip()


@needs_native
def test_the_compiled_module_is_built_and_loaded_once():
    assert gaussreg_fast.backends()["native"] == "available"
    assert native.module() is native.module() is sys.modules["gaussreg_fast._native"]
    assert native.load() == (native.module(), "available")


def test_a_missing_module_is_reported_with_the_error(without_module):
    module, reason = native.load()
    assert module is None
    assert "cannot be loaded" in reason
    assert "_native" in reason
    assert gaussreg_fast.backends()["native"] == reason


@pytest.mark.usefixtures("without_module_noted")
def test_a_missing_module_is_reported_with_the_note():
    assert native.load() == (None, "no C++ compiler")
    assert gaussreg_fast.backends()["native"] == "no C++ compiler"


@pytest.mark.usefixtures("without_module_noted")
def test_a_missing_module_by_name_is_an_error_and_auto_does_without():
    x = torch.randn(2, 100)
    with pytest.raises(RuntimeError, match=r"'native'.*no C\+\+ compiler.*'torch'"):
        gaussreg_fast.gaussianity_loss(x, backend="native")
    with pytest.raises(RuntimeError, match=r"'native'.*no C\+\+ compiler"):
        native.permutation(0, 10)
    auto = gaussreg_fast.gaussianity_loss(x, seed=1)
    assert torch.equal(auto, gaussreg_fast.gaussianity_loss(x, seed=1, backend="torch"))
    assert resolve("auto", torch.device("cpu")) == "torch"


@needs_native
def test_permutations_are_the_same_without_the_module(without_module):
    without = gaussreg_fast.permutation(5, 1000)
    without_module.undo()
    native.load.cache_clear()
    assert torch.equal(without, gaussreg_fast.permutation(5, 1000))


# ---------------------------------------------------------------- which backend, where


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("gaussianity_loss", {}),
        ("gaussianity_value_and_grad", {}),
        ("power_spectrum_loss", {"permutation": "none"}),
        ("permuted_statistics", {"orders": (1,)}),
        ("moment_loss", {}),
        ("kl_loss", {}),
        ("kurtosis_loss", {}),
        ("norm_loss", {}),
        ("project_white_noise", {}),
    ],
)
@pytest.mark.parametrize("backend", ["native", "triton"])
def test_a_backend_by_name_refuses_tensors_it_cannot_compute_on(name, kwargs, backend):
    """Triton has no kernels for the meta device, native none off the CPU."""
    x = torch.zeros(2, 64, device="meta")
    with pytest.raises(RuntimeError, match=rf"'{backend}' cannot run here.*'torch'"):
        getattr(gaussreg_fast, name)(x, backend=backend, **kwargs)


@pytest.mark.parametrize(
    "call",
    [
        lambda x, **o: gaussreg_fast.gaussianity_loss(x, **o),
        lambda x, **o: gaussreg_fast.permuted_statistics(x, orders=(1,), **o),
        lambda x, **o: gaussreg_fast.kl_loss(x, **o),
        lambda x, **o: gaussreg_fast.project_white_noise(x, **o),
        lambda x, **o: gaussreg_fast.path_kl(x[:, None], torch.ones(2), **o),
        lambda x, **o: gaussreg_fast.parameter_drift([x], [x + 1], **o),
    ],
)
def test_float64_is_torchs(call):
    """ "auto" takes torch; a backend asked for by name that cannot compute in float64 says so."""
    x = torch.randn(2, 64, dtype=torch.float64)
    call(x)
    call(x, backend="torch")
    for backend in ("native", "triton"):
        with pytest.raises(RuntimeError, match=rf"'{backend}' cannot run here: .*'torch'"):
            call(x, backend=backend)
    assert resolve("auto", x.device, x.dtype) == "torch"


@needs_native
def test_permutations_of_float64_are_made_by_the_kernels(monkeypatch):
    """They are integers: "auto" leaves the arithmetic to torch alone."""
    calls = []
    inner = native.permutation
    monkeypatch.setattr(native, "permutation", lambda *a, **k: calls.append(a[1]) or inner(*a, **k))
    x = torch.randn(2, 64, dtype=torch.float64)
    for permutation in ("shared", "per_sample"):
        options = {"seed": 3, "permutation": permutation}
        auto = gaussreg_fast.gaussianity_value_and_grad(x, **options)
        named = gaussreg_fast.gaussianity_value_and_grad(x, backend="torch", **options)
        assert all(torch.equal(a, b) for a, b in zip(auto, named, strict=True))
    assert calls == [64, 64]


def test_the_refusal_names_the_device_and_the_backends_that_can():
    with pytest.raises(RuntimeError) as caught:
        resolve("native", torch.device("meta"))
    message = str(caught.value)
    assert "meta" in message
    assert message.endswith("these can: 'torch'")


def test_auto_falls_back_to_torch_off_the_cpu():
    assert resolve("auto", torch.device("meta")) == "torch"
    assert resolve("torch", torch.device("meta")) == "torch"
    loss = gaussreg_fast.kl_loss(torch.zeros(3, 64, device="meta"), reduction="none")
    assert loss.device.type == "meta"
    assert loss.shape == (3,)


@needs_native
def test_auto_takes_native_on_the_cpu(monkeypatch):
    assert resolve("auto", torch.device("cpu")) == "native"
    tasks = []
    inner = native.loss
    monkeypatch.setattr(native, "loss", lambda *a, **k: tasks.append("loss") or inner(*a, **k))
    x = torch.randn(2, 100)
    auto, named, other = (
        gaussreg_fast.power_spectrum_loss(x, seed=3, backend=backend)
        for backend in ("auto", "native", "torch")
    )
    assert tasks == ["loss", "loss"]
    assert torch.equal(auto, named)
    torch.testing.assert_close(auto, other, rtol=1e-5, atol=0)


# ---------------------------------------------------------------- threads


@needs_native
def test_threads_get_the_results_of_one_thread():
    size, count = 50_000, 8
    want = [native.permutation(seed, size, samples=3) for seed in range(count)]
    got = [None] * count
    start = threading.Barrier(count)

    def work(seed):
        start.wait()
        for _ in range(5):
            got[seed] = native.permutation(seed, size, samples=3)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@needs_native
def test_other_threads_run_while_a_permutation_is_made():
    """The call lets go of the GIL; with this switch interval nothing else would take it away."""
    ticks, done = [0], threading.Event()

    def tick():
        while not done.is_set():
            ticks[0] += 1
            time.sleep(1e-4)

    out = torch.empty(2**24, dtype=torch.int64)
    call = native.module().permutation
    interval = sys.getswitchinterval()
    ticker = threading.Thread(target=tick)
    ticker.start()
    try:
        sys.setswitchinterval(1000)
        before = ticks[0]
        call(1, 0, 1, len(out), False, out.data_ptr(), 1)
        during = ticks[0] - before
    finally:
        sys.setswitchinterval(interval)
        done.set()
        ticker.join()
    assert during > 0


# ---------------------------------------------------------------- imports

LOADED = """
import sys
{code}
names = sorted({{name.split(".")[0] for name in sys.modules}} & {{{heavy}}})
names += [name for name in sys.modules if name == "gaussreg_fast._native"]
print(",".join(names))
"""
HEAVY = ("triton", "matplotlib", "scipy", "typer", "rich", "safetensors", "diffusers")


def loaded_by(code):
    return printed(LOADED.format(code=code, heavy=", ".join(map(repr, HEAVY))))


def test_importing_loads_no_compiled_module_and_nothing_heavy():
    assert loaded_by("import gaussreg_fast") == ""


@needs_native
def test_the_first_use_loads_the_compiled_module():
    """Also shows that the test above would see it."""
    assert loaded_by("import gaussreg_fast as g; g.permutation(0, 9)") == "gaussreg_fast._native"
    assert loaded_by("import gaussreg_fast, scipy") == "scipy"
