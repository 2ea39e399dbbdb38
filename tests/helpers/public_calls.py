"""A call of every public function and class with numbers as its result, for tests of them all.

`inputs` makes what the calls take; `CALLS` maps names to functions of that and of a backend.
"""

import copy

import numpy as np
import torch
from draws import noise
from losses_called import CALLS as LOSSES
from losses_called import with_gradient
from torch import nn

import gaussreg_fast as gf
from gaussreg_fast import arrays

KINDS = ("kl", "forward_kl", "gamma", "chi2", "js")
STEP = {"alpha_cumprod": 0.5, "alpha_cumprod_prev": 0.7}
SCHEDULE = {name: torch.tensor([value, value + 0.1]) for name, value in STEP.items()}


class Inputs:
    """Tensors for the calls, made before the state that a test sets."""

    def __init__(self):
        self.x = noise(3, 4, 8, 8, scale=1.3, offset=0.2, seed=1)
        self.pairs = [(noise(2, 9, seed=2), noise(7, 2, seed=3))]
        self.net = nn.Sequential(nn.Linear(9, 7), nn.Linear(7, 5))
        for i, p in enumerate(self.net.parameters()):
            p.data.copy_(noise(*p.shape, seed=4 + i))
            p.grad = noise(*p.shape, seed=30 + i)
        self.base = {n: p.detach() + 0.1 * (i + 1) for i, (n, p) in enumerate(self.params())}
        self.dmu, self.sigma = noise(2, 3, 4, 8, seed=20), torch.tensor([0.5, 2.0])
        self.reward = noise(12, seed=21)
        self.group = torch.arange(12) % 2
        self.index = torch.randperm(256, generator=torch.Generator().manual_seed(0))

    def params(self):
        return self.net.named_parameters()


def _drift(call):
    """Returns a call on parameters, base and backend, and all that it may write to."""

    def run(i, backend):
        net = copy.deepcopy(i.net)
        for p, q in zip(net.parameters(), i.net.parameters(), strict=True):
            p.grad = q.grad.clone()
        result = call(net, i.base, backend)
        written = [t for p in net.parameters() for t in (p.detach(), p.grad)]
        return written if result is None else [result, *written]

    return run


def _decayed(net, base, backend):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    gf.DriftDecay(optimizer, net, base, backend=backend)
    optimizer.step()


def _projected(i, backend):
    latents = i.x.detach().clone().requires_grad_()
    latents.grad = i.x * 2
    adam = torch.optim.SGD([latents], lr=0.5)
    gf.WhiteNoiseProjection(adam, [latents], "both", backend=backend).step()
    return latents.detach()


def _path(i, backend):
    kl = gf.PathKL(backend=backend)
    costs = [kl.add(i.dmu[0], 0.5), kl.add(i.dmu[1], i.sigma[1])]
    return [*costs, kl.value]


def _diagnosed(i, backend):
    d = gf.diagnose(i.x)
    return [d.moments, d.moment_z, d.lag1, d.power, d.power_z, d.p_value, *d.p_values.values()]


CALLS = {
    "gaussianity_loss": lambda i, b: gf.gaussianity_loss(i.x, seed=3, backend=b),
    "gaussianity_loss, indexed": lambda i, b: gf.gaussianity_loss(
        i.x, permutation=i.index, reduction="none", backend=b
    ),
    "gaussianity_value_and_grad": lambda i, b: gf.gaussianity_value_and_grad(
        i.x, orders=(1, 2, 5), permutation="per_sample", seed=3, backend=b
    ),
    "permuted_statistics": lambda i, b: gf.permuted_statistics(
        i.x, orders=(1, 4), seed=3, backend=b
    ),
    "moment_loss": lambda i, b: gf.moment_loss(i.x, orders=(1, 2, 3), backend=b),
    "power_spectrum_loss": lambda i, b: gf.power_spectrum_loss(i.x, seed=3, backend=b),
    "kl_loss": lambda i, b: gf.kl_loss(i.x, backend=b),
    "kurtosis_loss": lambda i, b: gf.kurtosis_loss(i.x, backend=b),
    "norm_loss": lambda i, b: gf.norm_loss(i.x, backend=b),
    "covariance_loss": lambda i, b: gf.covariance_loss(i.x, permutation="shared", seed=3),
    "prno_loss": lambda i, b: gf.prno_loss(i.x, seed=3, shuffles=4),
    "project_white_noise": lambda i, b: gf.project_white_noise(i.x, backend=b),
    "permutation": lambda i, b: [gf.permutation(3, 1000), gf.permutation(3, 1000, inverse=True)],
    "parameter_drift": _drift(lambda net, base, b: gf.parameter_drift(net, base, backend=b)),
    "parameter_drift_value_and_grad": lambda i, b: [
        t
        for part in gf.parameter_drift_value_and_grad(i.net, i.base, backend=b)
        for t in (part if isinstance(part, list) else [part])
    ],
    "accumulate_parameter_drift": _drift(
        lambda net, base, b: gf.accumulate_parameter_drift(net, base, backend=b)
    ),
    "parameter_drift_decay_": _drift(
        lambda net, base, b: gf.parameter_drift_decay_(net, base, rate=0.3, backend=b)
    ),
    "ParameterDrift": _drift(lambda net, base, b: gf.ParameterDrift(base, backend=b)(net)),
    "DriftDecay": _drift(_decayed),
    "lora_drift": lambda i, b: [
        gf.lora_drift(i.pairs, form=f, backend=b) for f in ("factors", "product")
    ],
    "LoraDrift": lambda i, b: gf.LoraDrift(backend=b)(i.pairs),
    "path_kl": lambda i, b: gf.path_kl(i.dmu, i.sigma, backend=b),
    "path_kl_value_and_grad": lambda i, b: gf.path_kl_value_and_grad(i.dmu, i.sigma, backend=b),
    "PathKL": _path,
    "ddim_step_kl_terms": lambda i, b: [
        *gf.ddim_step_kl_terms(i.dmu, **STEP, eta=0.8),
        *gf.ddim_step_kl_terms(i.dmu, **SCHEDULE, eta=1.0, prediction_type="v_prediction"),
    ],
    "ddpm_step_kl_terms": lambda i, b: [
        *gf.ddpm_step_kl_terms(i.dmu, **STEP),
        *gf.ddpm_step_kl_terms(i.dmu, **SCHEDULE, variance_type="fixed_large"),
    ],
    "flow_step_kl_terms": lambda i, b: [
        *gf.flow_step_kl_terms(i.dmu, t=0.6, dt=0.1, noise_scale=0.7),
        *gf.flow_step_kl_terms(i.dmu, t=i.sigma / 4, dt=0.1, noise_scale=i.sigma),
    ],
    "f_divergence": lambda i, b: [
        gf.f_divergence(i.reward, kind, samples=samples)
        for kind in (*KINDS, "tv")
        for samples in ("p", "q")
    ],
    "surrogate_reward": lambda i, b: [
        gf.surrogate_reward(i.reward, kind, alpha=0.7, group=group)
        for kind in KINDS
        for group in (None, i.group)
    ],
    "diagnose": _diagnosed,
    "WhiteNoiseProjection": _projected,
    "GaussianityLoss": lambda i, b: gf.GaussianityLoss(backend=b)(i.x, seed=3),
    "PreparedLoss": lambda i, b: gf.PreparedLoss(i.x, backend=b)(i.x, seed=3),
    "MomentLoss": lambda i, b: gf.MomentLoss(backend=b)(i.x),
    "PowerSpectrumLoss": lambda i, b: gf.PowerSpectrumLoss(backend=b)(i.x, seed=3),
    "KLLoss": lambda i, b: gf.KLLoss(backend=b)(i.x),
    "KurtosisLoss": lambda i, b: gf.KurtosisLoss(backend=b)(i.x),
    "NormLoss": lambda i, b: gf.NormLoss(backend=b)(i.x),
    "CovarianceLoss": lambda i, b: gf.CovarianceLoss(permutation="none")(i.x),
    "PRNOLoss": lambda i, b: gf.PRNOLoss(shuffles=2)(i.x, seed=3),
    "arrays.gaussianity_value_and_grad": lambda i, b: arrays.gaussianity_value_and_grad(
        i.x.numpy(), seed=3, backend=b
    ),
}
NO_NUMBERS = {"Diagnosis", "__version__", "backends", "warmup"}
# Calls that record a graph: they need a mode in which gradients are recorded.
GRADIENTS = {
    f"gradient of {name}": lambda i, b, loss=loss: with_gradient(loss, i.x)
    for name, loss in LOSSES.items()
}


def _gradient_of_surrogates(i, b):
    reward = i.reward.clone().requires_grad_()
    total = sum(gf.surrogate_reward(reward, k, alpha=0.7, group=i.group)[::3].sum() for k in KINDS)
    return torch.autograd.grad(total + gf.f_divergence(reward, "js"), reward)


def _gradient_of_drift(i, b):
    pairs = [tuple(t.clone().requires_grad_() for t in pair) for pair in i.pairs]
    value = gf.parameter_drift(i.net, i.base, backend=b) + gf.lora_drift(pairs, form="product")
    return torch.autograd.grad(value, [*i.net.parameters(), *pairs[0]])


def _gradient_of_path_kl(i, b):
    dmu, sigma = i.dmu.clone().requires_grad_(), i.sigma.clone().requires_grad_()
    return torch.autograd.grad(gf.path_kl(dmu, sigma, backend=b).sum(), [dmu, sigma])


GRADIENTS |= {
    "gradient of surrogate_reward": _gradient_of_surrogates,
    "gradient of parameter_drift": _gradient_of_drift,
    "gradient of path_kl": _gradient_of_path_kl,
}


def numbers(result):
    """Returns the tensors and arrays of a result, as a list of NumPy arrays."""
    listed = result if isinstance(result, (list, tuple)) else [result]
    return [
        r.detach().numpy().copy() if isinstance(r, torch.Tensor) else np.array(r) for r in listed
    ]
