"""Public functions called with any arguments: a result, or an error that names the argument."""

import decimal
import fractions
import inspect
import re

import numpy as np
import pytest
import torch
from backends_here import quiet_interpreter
from hypothesis import given
from hypothesis import strategies as st
from public_calls import STEP
from random_tensors import calls

import gaussreg_fast as gf
from gaussreg_fast import arrays

# Other libraries warn of constant samples and of deprecated tensors.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore"), quiet_interpreter]
OPTIONS = {
    "orders": (1, 2), "power_weight": 25.0, "form": "root", "block_size": 16, "target": "exact",
    "statistic": "amplitude", "permutation": "shared", "seed": 3, "generator": None,
    "reduction": "mean", "backend": "auto", "precision": "fp32",
}  # fmt: skip


def _x():
    return torch.linspace(-2, 2, 3 * 64).reshape(3, 4, 16)


def _some(*names):
    return {name: OPTIONS[name] for name in names}


def _lists():
    return {
        "params": [torch.ones(3, 2), torch.ones(5)],
        "base": [torch.zeros(3, 2), torch.zeros(5)],
    }


SPECTRAL = ("block_size", "statistic", "permutation", "seed", "generator", "backend", "precision")
DRIFT = {"weight": 1.0, "reduction": "sum", "backend": "auto"}
PARAMETER = torch.nn.Parameter(_x())


def _module(x, **options):
    return gf.GaussianityLoss(**options)(x)


def _step(dmu, sigma, *, backend):
    return gf.PathKL(backend=backend).add(dmu, sigma)


def _drift_module(params, **options):
    return gf.ParameterDrift(params, **options)(_lists()["params"])


def _lora_module(pairs, *, form):
    return gf.LoraDrift(form=form)(pairs)


def _projected(params, **options):
    return gf.WhiteNoiseProjection(torch.optim.SGD([PARAMETER], lr=0.1), params, **options)


# Arguments that are right, for each function. Any of them may be replaced.
FUNCTIONS = {
    gf.gaussianity_loss: lambda: {"x": _x(), **OPTIONS},
    gf.gaussianity_value_and_grad: lambda: {"x": _x(), **OPTIONS},
    gf.permuted_statistics: lambda: {"x": _x(), "orders": (1, 2), **_some(*SPECTRAL)},
    gf.moment_loss: lambda: {"x": _x(), **_some("orders", "form", "reduction", "backend")},
    gf.power_spectrum_loss: lambda: {"x": _x(), **_some("target", "reduction", *SPECTRAL)},
    gf.kl_loss: lambda: {"x": _x(), **_some("reduction", "backend")},
    gf.kurtosis_loss: lambda: {"x": _x(), **_some("reduction", "backend")},
    gf.norm_loss: lambda: {"x": _x(), **_some("reduction", "backend")},
    gf.covariance_loss: lambda: {
        "x": _x(),
        **_some("permutation", "seed", "generator", "reduction"),
    },
    gf.prno_loss: lambda: {
        "x": _x(),
        "factor": 4,
        "shuffles": 2,
        **_some("seed", "generator", "reduction"),
    },
    gf.project_white_noise: lambda: {"x": _x(), **_some("block_size", "backend")},
    gf.permutation: lambda: {"seed": 3, "D": 100, "inverse": False, "device": "cpu"},
    gf.parameter_drift: lambda: {**_lists(), **DRIFT},
    gf.parameter_drift_value_and_grad: lambda: {**_lists(), **DRIFT},
    gf.accumulate_parameter_drift: lambda: {**_lists(), **DRIFT},
    gf.parameter_drift_decay_: lambda: {**_lists(), **DRIFT, "rate": 0.1},
    gf.lora_drift: lambda: {
        "pairs": [(torch.ones(2, 3), torch.ones(4, 2))],
        "weight": 1.0,
        "form": "factors",
        "backend": "auto",
    },
    gf.path_kl: lambda: {"dmu": _x(), "sigma": torch.ones(3), "backend": "auto"},
    gf.path_kl_value_and_grad: lambda: {"dmu": _x(), "sigma": torch.ones(3), "backend": "auto"},
    gf.ddim_step_kl_terms: lambda: {
        "difference": _x(),
        **STEP,
        "eta": 1.0,
        "prediction_type": "epsilon",
    },
    gf.ddpm_step_kl_terms: lambda: {
        "difference": _x(),
        **STEP,
        "prediction_type": "epsilon",
        "variance_type": "fixed_small",
    },
    gf.flow_step_kl_terms: lambda: {"difference": _x(), "t": 0.5, "dt": 0.1, "noise_scale": 1.0},
    gf.f_divergence: lambda: {
        "log_ratio": _x(),
        "kind": "gamma",
        "gamma": 0.5,
        "samples": "p",
        "reduction": "mean",
    },
    gf.surrogate_reward: lambda: {
        "reward": torch.arange(4.0),
        "kind": "gamma",
        "alpha": 1.0,
        "gamma": 0.5,
        "group": torch.tensor([0, 0, 1, 1]),
    },
    gf.diagnose: lambda: {"x": _x()},
    arrays.gaussianity_value_and_grad: lambda: {"x": _x().numpy(), **OPTIONS},
    _module: lambda: {
        "x": _x(),
        "orders": (1, 2),
        **_some(*(set(SPECTRAL) - {"seed", "generator"})),
    },
    _step: lambda: {"dmu": _x(), "sigma": torch.ones(3), "backend": "auto"},
    _drift_module: lambda: {
        "params": _lists()["params"],
        **DRIFT,
        "dtype": torch.bfloat16,
        "device": "cpu",
    },
    _lora_module: lambda: {"pairs": [(torch.ones(2, 3), torch.ones(4, 2))], "form": "product"},
    _projected: lambda: {
        "params": [PARAMETER],
        "project": "both",
        **_some("block_size", "backend"),
    },
    gf.warmup: lambda: {
        "shape": (2, 64),
        "dtype": torch.float32,
        "device": "cpu",
        "backward": True,
    },
}
PLAIN = [
    *(None, True, False, 0, -1, 7, 2**70, 10**400, 1.5, -0.0, 1e-300, 1j),
    *(float("nan"), float("inf"), fractions.Fraction(1, 3), decimal.Decimal("0.5")),
    *("", "x", "cuda", b"root", [], (), {}, [[]], {1: 2}, [None], (1, 2), [1, 1], {3, 5}, {1, "a"}),
    *(range(1, 4), ["a", "b"], object(), print, int, torch.float32, torch.device("meta")),
    *(np.float32(1), np.int64(-3), np.bool_(1), np.float64("nan"), np.array("text"), np.arange(4)),
    *(np.zeros((2, 3)), np.ma.zeros((2, 64)), np.zeros((2, 64), "V0")),
]


def _tensors():
    """Returns tensors, modules and lists of them that are wrong for most arguments."""
    x, w = torch.ones(2, 64), torch.ones(3, 2)
    kinds = (torch.int32, torch.complex64, torch.bool, torch.float8_e4m3fn)
    numbers = (torch.nan, -1.0, torch.inf)
    return [
        *(x, x.to_sparse(), x.to("meta"), x.expand(4, 2, 64), torch.ones(1, 1).expand(2, 64)),
        *(x.to(kind) for kind in kinds),
        *(torch.full(shape, number) for number in numbers for shape in ((3, 64), (3,), (4,))),
        *(torch.ones(shape) for shape in ((), (3,), (0, 64), (3, 0), (64,))),
        *(torch.tensor(3), torch.tensor([3]), torch.arange(64), torch.arange(64).flip(0).int()),
        torch.zeros(64, dtype=torch.int64),
        torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
        torch.ones(3, 4, 16, requires_grad=True) * 2,
        *(torch.nn.Parameter(x), torch.nn.Linear(2, 3), torch.Generator()),
        *([w], {"a": w}, [w, None], [("a", w), 3], [(w, w)], [([], w)], [w] * 2),
        *([w, torch.ones(5, requires_grad=True)], [w.long(), torch.ones(5)], [(x, x[0])]),
    ]


@st.composite
def wrong_calls(draw):
    """A function, arguments, and the names of those that were replaced by anything."""
    function = draw(st.sampled_from(list(FUNCTIONS)))
    arguments = FUNCTIONS[function]()
    names = draw(st.lists(st.sampled_from(sorted(arguments)), min_size=1, max_size=2, unique=True))
    anything = [*PLAIN, *_tensors()]
    places = [draw(st.integers(0, len(anything) - 1)) for _ in names]
    if function is gf.warmup:
        names.append("x")  # the errors of the function that it calls name its argument
    return (
        function,
        arguments | dict(zip(names, (anything[i] for i in places), strict=False)),
        names,
    )


@calls(1500)
@given(wrong_calls())
def test_any_argument_gives_a_result_or_an_error_that_names_it(case):
    function, arguments, replaced = case
    positional = [
        arguments.pop(name)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    said = None
    try:
        function(*positional, **arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        said = str(error)
    assert said is None or any(re.search(rf"\b{name}\b", said) for name in replaced), said
