"""Files and functions stay as short as CONTRIBUTING says."""

import ast

import pytest

from bench import ROOT

FILES = {"gaussreg_fast": 300, "bench": 300, "kernels": 300, "tests": 400}
FUNCTION = 40


def long_functions(source):
    """(name, lines) of functions over the limit, without docstrings, Triton's kernels excepted."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if any("jit" in ast.unparse(decorator) for decorator in node.decorator_list):
            continue
        lines = node.end_lineno - node.lineno + 1
        if ast.get_docstring(node, clean=False) is not None:
            lines -= node.body[0].end_lineno - node.body[0].lineno + 1
        if lines > FUNCTION:
            found.append((node.name, lines))
    return found


@pytest.mark.parametrize("folder", FILES)
def test_files_are_short(folder):
    paths = [p for end in ("py", "h", "cpp") for p in (ROOT / folder).rglob(f"*.{end}")]
    assert len(paths) > 10
    lines = {
        str(p.relative_to(ROOT)): len(p.read_text(encoding="utf-8").splitlines()) for p in paths
    }
    long = {path: count for path, count in lines.items() if count > FILES[folder]}
    assert not long, long


@pytest.mark.parametrize("folder", ["gaussreg_fast", "bench"])
def test_functions_are_short(folder):
    long = {
        str(path.relative_to(ROOT)): found
        for path in sorted((ROOT / folder).rglob("*.py"))
        if (found := long_functions(path.read_text(encoding="utf-8")))
    }
    assert not long, long


def test_neither_docstrings_nor_kernels_count():
    body = "    x = 1\n" * FUNCTION
    assert long_functions(f"def f():\n{body}") == [("f", FUNCTION + 1)]
    assert long_functions(f'async def f():\n    """a\n    b"""\n{body}') == [("f", FUNCTION + 1)]
    assert not long_functions(f'def f():\n    """a\n    b"""\n{body[10:]}')
    assert not long_functions(f"@triton.jit\ndef f():\n{body}")
