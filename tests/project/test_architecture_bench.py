"""The rooms of bench: who imports whom, at the top of a module or later."""

import ast
import graphlib

from read_imports import imports

from bench import ROOT

BENCH = ROOT / "bench"
# Room of bench -> rooms it may import. The commands (cli) import any; the top level holds paths.
BENCH_ALLOWED = {
    "harness": set(),
    "compiled": {"harness"},
    "subjects": {"harness"},
    "simulator": {"harness", "compiled"},
    "report": {"harness", "compiled", "subjects"},
    "check": {"harness", "compiled", "subjects"},
    "studies": {"harness", "subjects", "report"},
    "pytest_suites": {"harness", "subjects", "report"},
    "gpu": {"harness", "compiled", "subjects", "simulator", "report"},
    "tools": {"harness", "subjects", "simulator", "report", "studies", "gpu"},
}


def without_types(source):
    """A module without what it imports for annotations alone, which never runs."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    return ast.unparse(tree)


def bench_imports():
    """Module of bench -> modules of bench that it imports, at its top or later."""
    sources = {}
    for path in sorted(BENCH.rglob("*.py")):
        parts = ("bench", *path.relative_to(BENCH).with_suffix("").parts)
        is_package = path.stem == "__init__"
        sources[".".join(parts[:-1] if is_package else parts)] = (path, is_package)
    found = {}
    for module, (path, is_package) in sources.items():
        found[module] = set()
        for name in imports(without_types(path.read_text(encoding="utf-8")), module, is_package):
            while name.startswith("bench") and name not in sources:
                name = name.rpartition(".")[0]
            if name in sources and name != module:
                found[module].add(name)
    return found


def test_the_rooms_of_bench_import_one_way():
    graphlib.TopologicalSorter(BENCH_ALLOWED).prepare()
    wrong, seen = [], set()
    for module, targets in bench_imports().items():
        here = module.split(".")[1] if "." in module else ""
        for target in targets - {"bench"}:
            there = target.split(".")[1]
            seen.add((here, there))
            if here not in ("cli", "__main__", there) and there not in BENCH_ALLOWED.get(here, ()):
                wrong.append(f"{module} imports {target}")
    assert not wrong, wrong
    assert {("__main__", "cli"), ("report", "subjects"), ("gpu", "simulator")} <= seen


def test_every_module_of_bench_is_in_a_room():
    assert {path.stem for path in BENCH.glob("*.py")} == {"__init__", "__main__", "cli"}
    assert {path.parent.name for path in BENCH.glob("*/__init__.py")} == set(BENCH_ALLOWED)


def test_no_modules_of_bench_import_each_other():
    graphlib.TopologicalSorter(bench_imports()).prepare()  # raises CycleError
