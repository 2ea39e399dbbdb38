"""The drawing of the package stays true: who imports whom, and the shape of the public names."""

import ast
import graphlib
import importlib
import inspect

import pytest
import torch
from read_imports import imports

import gaussreg_fast
from bench import ROOT

PACKAGE = ROOT / "gaussreg_fast"
KERNELS = ROOT / "kernels"

# Room -> rooms it may import; a new module must be entered here. A folder stands for all
# its modules, which may import each other; "" is the package's own top level.
ALLOWED = {
    "": {"functional", "modules", "diagnostics", "drift", "optim", "path"},
    "_torch_internals": set(),
    "reference": {"reference"},
    "checks": {"_torch_internals"},
    "_path_checks": {"_torch_internals", "checks"},
    "spec": set(),
    "_wrappers": set(),
    "_ambient": set(),
    "_numpy": set(),
    "_precision": set(),
    "tensor_lists": {"_wrappers", "checks"},
    "backends": {
        "_native",
        "_precision",
        "_torch_internals",
        "backends",
        "checks",
        "kernels",
        "reference",
        "spec",
    },
    "ops": {
        "_path_checks", "_precision", "_torch_internals", "backends", "checks", "ops", "reference",
        "spec",
    },
    "functional": {
        "_ambient", "_path_checks", "_precision", "backends", "checks", "functional", "ops",
        "reference", "spec", "tensor_lists",
    },
    "modules": {"checks", "functional"},
    "drift": {"_ambient", "_wrappers", "checks", "functional", "tensor_lists"},
    "optim": {"_wrappers", "checks", "functional"},
    "arrays": {"_numpy", "functional"},
    "path": {"_path_checks", "_precision", "checks", "functional"},
    "_noise_tests": {"functional", "reference"},
    "diagnostics": {"_noise_tests", "checks", "reference"},
    "errors": set(),
    "_exit_codes": {"errors"},
    "_files": {"errors"},
    "_markdown": set(),
    "_progress": set(),
    "_environment": {""},
    "digits": {"_environment", "_exit_codes", "_files", "_progress", "digits", "errors"},
    "latent": {
        "", "_ambient", "_environment", "_files", "_markdown", "_numpy", "_wrappers", "diagnostics",
        "digits", "errors", "functional", "latent",
    },
    "experiments": {
        "", "_environment", "_files", "_markdown", "diagnostics", "digits", "errors",
        "experiments", "functional", "latent",
    },
    "cli": {"", "_exit_codes", "_files", "_progress", "cli", "errors", "experiments", "latent"},
    "__main__": {"_exit_codes", "cli", "errors"},
    "kernels": {"kernels"},
}  # fmt: skip


def room(dotted):
    """Return a module's room, gaussreg_fast.latent.models -> latent; None if it is not ours."""
    first, *rest = dotted.split(".")
    if first in ("kernels", "tests", "bench"):  # ours, but never importable by these names
        return f"top-level {first}"
    if first != "gaussreg_fast":
        return None
    if not rest or (len(rest) == 1 and rest[0] in gaussreg_fast.__all__):
        return ""  # a public name is the top level's, also where a module is called the same
    return rest[0]


def edges():
    """(importing room, imported room, file, name) over the package and the kernels."""
    found = []
    for folder, dotted in ((PACKAGE, "gaussreg_fast"), (KERNELS, "gaussreg_fast.kernels")):
        for path in sorted(folder.rglob("*.py")):
            is_package = path.stem == "__init__"
            parts = path.relative_to(folder).with_suffix("").parts
            module = ".".join([dotted, *(parts[:-1] if is_package else parts)])
            source = path.read_text(encoding="utf-8")
            for name in imports(source, module, is_package):
                if (target := room(name)) is not None:
                    source_room = module.split(".")[1] if "." in module else ""
                    found.append((source_room, target, path.relative_to(ROOT), name))
    return found


# ---------------------------------------------------------------- imports


def test_imports_go_one_way():
    wrong = [
        f"{path} imports {name}"
        for source, target, path, name in edges()
        if target not in ALLOWED.get(source, set())
    ]
    assert not wrong, wrong
    assert {
        ("", "functional"),
        ("functional", "ops"),
        ("ops", "backends"),
        ("backends", "_native"),
    } <= {edge[:2] for edge in edges()}


def test_every_module_is_in_the_table():
    here = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    here |= {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert here <= set(ALLOWED), here - set(ALLOWED)


def test_the_table_has_no_cycle():
    graph = {room: targets - {room} for room, targets in ALLOWED.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("import gaussreg_fast.ops", "gaussreg_fast.ops"),
        ("import gaussreg_fast.ops as o", "gaussreg_fast.ops"),
        ("from gaussreg_fast import checks, ops", "gaussreg_fast.ops"),
        ("from gaussreg_fast.ops import loss", "gaussreg_fast.ops.loss"),
        ("def f():\n    from gaussreg_fast import ops", "gaussreg_fast.ops"),
        ("if TYPE_CHECKING:\n    import gaussreg_fast.ops", "gaussreg_fast.ops"),
        ("from .. import ops", "gaussreg_fast.ops"),
        ("from ..ops import loss", "gaussreg_fast.ops.loss"),
        ("from . import ops", "gaussreg_fast.latent.ops"),
        ("importlib.import_module('gaussreg_fast.ops')", "gaussreg_fast.ops"),
        ("import_module(name)", "gaussreg_fast.<computed>"),
        ("import_module('.ops', 'gaussreg_fast')", "gaussreg_fast.<computed>"),
        ("__import__('gaussreg_fast.ops')", "gaussreg_fast.ops"),
    ],
)
def test_the_walk_sees_every_kind_of_import(line, name):
    assert name in imports(line, "gaussreg_fast.latent.models")


def test_rooms():
    assert room("gaussreg_fast.ops.loss") == "ops"
    assert room("gaussreg_fast.latent.models") == "latent"
    assert room("gaussreg_fast.<computed>") not in ALLOWED
    assert room("gaussreg_fast") == room("gaussreg_fast.backends") == ""
    assert room("gaussreg_fast.backends.choice.resolve") == "backends"
    assert room("torch.ops") is None
    assert {room("tests.x"), room("bench"), room("kernels.fft")}.isdisjoint(ALLOWED)


def test_kernels_is_never_a_package():
    """With an __init__.py it would shadow, or be shadowed by, the package of that name on PyPI."""
    assert KERNELS.is_dir()
    assert not list(KERNELS.rglob("__init__.py"))
    assert not list((ROOT / "tests").rglob("__init__.py"))


# ---------------------------------------------------------------- public names

NAMES = [name for name in gaussreg_fast.__all__ if name != "__version__"]
FUNCTIONS = [name for name in NAMES if inspect.isfunction(getattr(gaussreg_fast, name))]
LOSSES = [name for name in FUNCTIONS if name.endswith("_loss")]
# Parameters that may be passed by position; of every other function only `x`.
POSITIONAL = {
    "backends": [],
    "permutation": ["seed", "D"],
    "path_kl": ["dmu", "sigma"],
    "path_kl_value_and_grad": ["dmu", "sigma"],
    "ddim_step_kl_terms": ["difference"],
    "ddpm_step_kl_terms": ["difference"],
    "flow_step_kl_terms": ["difference"],
    "f_divergence": ["log_ratio", "kind"],
    "surrogate_reward": ["reward", "kind"],
    "lora_drift": ["pairs"],
    "parameter_drift": ["params", "base"],
    "parameter_drift_value_and_grad": ["params", "base"],
    "parameter_drift_decay_": ["params", "base"],
    "accumulate_parameter_drift": ["params", "base"],
    "warmup": ["shape", "dtype", "device"],
}


def test_all_is_sorted_whole_and_has_no_repetition():
    names = gaussreg_fast.__all__
    assert len(set(names)) == len(names)
    public = {
        name
        for name, value in vars(gaussreg_fast).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert public - {"PackageNotFoundError", "version"} == set(NAMES)
    assert len(LOSSES) >= 8


@pytest.mark.parametrize("name", NAMES)
def test_public_names_can_be_imported_and_are_documented(name):
    value = getattr(gaussreg_fast, name)
    assert callable(value)
    assert value.__doc__
    assert value.__doc__.strip()
    assert value.__module__.startswith("gaussreg_fast.")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_only_the_tensor_is_positional(name):
    parameters = inspect.signature(getattr(gaussreg_fast, name)).parameters.values()
    by_keyword = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
    positional = [p.name for p in parameters if p.kind not in by_keyword]
    assert positional == POSITIONAL.get(name, ["x"])
    assert all(p.annotation is not p.empty for p in parameters)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_has_a_module_twin(name):
    twins = [n for n in NAMES if n.lower() == name.replace("_", "")]
    assert len(twins) == 1
    twin, function = getattr(gaussreg_fast, twins[0]), getattr(gaussreg_fast, name)
    assert issubclass(twin, torch.nn.Module)
    seed = {"seed": 1} if "seed" in inspect.signature(function).parameters else {}
    x = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(twin(reduction="sum", **seed)(x), function(x, reduction="sum", **seed))


# ---------------------------------------------------------------- kernels and their launches


def test_launchers_pass_every_argument_by_keyword():
    """Kernels have up to sixteen arguments, stand-ins among them: in a row they change places."""
    calls = 0
    for path in sorted((PACKAGE / "backends" / "triton").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Subscript):
                continue
            if isinstance(node.func.value, ast.Name):  # kernel[grid](...)
                calls += 1
                assert not node.args, f"{path.name}:{node.lineno}"
    assert calls >= 15


def test_no_kernel_reads_a_global_that_differs_from_itself():
    """Triton compares a kernel's globals at every launch, and refuses it where one has changed."""
    pytest.importorskip("triton", reason="there is no triton here")
    seen = 0
    for path in sorted(KERNELS.glob("*.py")):
        module = importlib.import_module(f"gaussreg_fast.kernels.{path.stem}")
        for name, value in vars(module).items():
            value = getattr(value, "value", value)
            if isinstance(value, int | float | complex | str | tuple):
                seen += 1
                assert value == value, f"{path.name}: {name}"
    assert seen > 20
