"""The package names dtype and device of what it makes, so that torch's defaults decide nothing."""

import ast

import pytest

from bench import ROOT

PACKAGE = ROOT / "gaussreg_fast"
FACTORIES = {
    "arange", "as_tensor", "empty", "empty_strided", "eye", "full", "linspace", "logspace",
    "normal", "ones", "rand", "randint", "randn", "randperm", "scalar_tensor", "tensor", "zeros",
}  # fmt: skip
INTEGERS = {"randint", "randperm"}  # int64 whatever the default is


def undecided(source):
    """(line, missing keywords) of each call of a factory of torch that leaves some to defaults."""
    found = []
    for node in ast.walk(ast.parse(source)):
        function = getattr(node, "func", None)
        if not (
            isinstance(node, ast.Call)
            and isinstance(function, ast.Attribute)
            and isinstance(function.value, ast.Name)
            and function.value.id == "torch"
            and function.attr in FACTORIES
        ):
            continue
        given = {keyword.arg for keyword in node.keywords}
        wanted = {"device"} if function.attr in INTEGERS else {"device", "dtype"}
        if None not in given and (missing := wanted - given):  # None: **options
            found.append((node.lineno, sorted(missing)))
    return found


def test_factories_name_dtype_and_device():
    wrong = {
        str(path.relative_to(ROOT)): found
        for path in sorted(PACKAGE.rglob("*.py"))
        if (found := undecided(path.read_text(encoding="utf-8")))
    }
    assert not wrong


@pytest.mark.parametrize(
    ("line", "missing"),
    [
        ("torch.zeros(3)", ["device", "dtype"]),
        ("torch.randn(3, dtype=torch.float32)", ["device"]),
        ("torch.randperm(3, generator=g)", ["device"]),
        ("torch.tensor(3.0, device=d)", ["dtype"]),
    ],
)
def test_calls_that_leave_something_to_defaults_are_seen(line, missing):
    assert undecided(line) == [(1, missing)]


@pytest.mark.parametrize(
    "line", ["torch.zeros(3, dtype=t, device=d)", "torch.randint(9, (2,), device=d)", "x.zeros(3)"]
)
def test_other_calls_are_left_alone(line):
    assert not undecided(line)
