"""The device of the Triton kernels, fixtures, and a tally of all comparisons with a reference."""

import os
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch

# Without a GPU the Triton kernels run in the interpreter. Triton reads this when it is imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

_TALLY = pytest.StashKey[dict]()

# The tensors are small: threads would only wait for one another, and the more so on a busy machine.
torch.set_num_threads(1)


def _array(a):
    if isinstance(a, torch.Tensor):
        return a.detach().cpu().double().numpy()
    return np.asarray(a, dtype=np.float64)


class Compare:
    """Asserts closeness to a reference and records the error."""

    def __init__(self, tally):
        self.tally = tally

    def _record(self, what, got, error, tol):
        label = str(got.dtype).removeprefix("torch.") if hasattr(got, "dtype") else "float64"
        count, worst = self.tally.get((what, label), (0, 0.0))
        self.tally[what, label] = count + 1, max(worst, error)
        assert error <= tol, f"relative error of the {what} is {error:.3g}, allowed {tol:.3g}"

    def leave_out(self, what, number):
        """Notes how many ill-conditioned places kept a case from being compared."""
        count, _ = self.tally.get(("left out", what), (0, 0.0))
        self.tally["left out", what] = count + number, 0.0

    def values(self, got, want, tol):
        """Element by element: the worst |got - want| / |want|; where want is 0, |got|."""
        g, w = _array(got), _array(want)
        assert g.shape == w.shape
        scale = np.where(w == 0, 1, np.abs(w))
        error = float(np.max(np.abs(g - w) / scale, initial=0.0))
        self._record("value", got, error if np.isfinite(g).all() else np.inf, tol)

    def vectors(self, got, want, tol, what="gradient"):
        """Row by row: the worst ||got - want|| / ||want||; where want is 0, ||got||."""
        g, w = _array(got), _array(want)
        assert g.shape == w.shape
        g, w = g.reshape(len(g), -1), w.reshape(len(w), -1)
        norm = np.linalg.norm(w, axis=1)
        gap = np.linalg.norm(g - w, axis=1) / np.where(norm == 0, 1, norm)
        error = float(np.max(gap, initial=0.0))
        self._record(what, got, error if np.isfinite(g).all() else np.inf, tol)


@dataclass
class Ended:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def cli(monkeypatch, capsys):
    """Runs the command line in this process; a new one costs seconds for its imports."""
    from gaussreg_fast.__main__ import main

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["gaussreg-fast", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return Ended(end.value.code or 0, *capsys.readouterr())

    return run


@pytest.fixture
def refused(monkeypatch, capsys):
    """refused(words, code=2): the one line on stderr of a `python -m bench` that ends with it."""
    from bench.cli import main

    monkeypatch.setenv("TRITON_INTERPRET", "1")  # commands take it away

    def run(words, code=2):
        assert main(words) == code
        told = capsys.readouterr().err
        assert len(told.strip().splitlines()) == 1
        return told

    return run


@pytest.fixture
def poison():
    """New memory that torch hands out holds NaN, or the largest integer."""
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def pytest_configure(config):
    config.stash[_TALLY] = {}


@pytest.fixture(scope="session")
def compare(pytestconfig):
    return Compare(pytestconfig.stash[_TALLY])


def pytest_sessionfinish(session):
    """Pass the comparisons of a worker process to the process that prints them."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        tally = session.config.stash[_TALLY]
        output["tally"] = [[*key, count, float(worst)] for key, (count, worst) in tally.items()]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    tally = node.config.stash[_TALLY]
    for *key, count, worst in getattr(node, "workeroutput", {}).get("tally", ()):
        before, worse = tally.get(tuple(key), (0, 0.0))
        tally[tuple(key)] = before + count, max(worst, worse)


def pytest_terminal_summary(terminalreporter, config):
    tally = config.stash[_TALLY]
    if tally:
        rows = sorted(tally.items(), key=lambda item: item[0][::-1])
        for text, parts in (
            ("compared with references: ", [r for r in rows if r[0][0] != "left out"]),
            ("left out as ill-conditioned: ", [r for r in rows if r[0][0] == "left out"]),
        ):
            shown = (
                f"{n} x {label}" if what == "left out" else f"{label} {what} {n} (worst {w:.1e})"
                for (what, label), (n, w) in parts
            )
            terminalreporter.write_line(text + (", ".join(shown) or "none"))
