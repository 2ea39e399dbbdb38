"""Gaussianity losses for latent optimisation of one-step text-to-image models.

    from gaussreg_fast import gaussianity_loss
    loss = -reward(decode(x)) + gaussianity_loss(x)

Importing the package touches no GPU, imports no triton and loads no compiled module.
"""

from importlib.metadata import PackageNotFoundError, version

from gaussreg_fast.diagnostics import Diagnosis, diagnose
from gaussreg_fast.drift import DriftDecay, LoraDrift, ParameterDrift
from gaussreg_fast.functional import (
    PreparedLoss,
    accumulate_parameter_drift,
    backends,
    covariance_loss,
    ddim_step_kl_terms,
    ddpm_step_kl_terms,
    f_divergence,
    flow_step_kl_terms,
    gaussianity_loss,
    gaussianity_value_and_grad,
    kl_loss,
    kurtosis_loss,
    lora_drift,
    moment_loss,
    norm_loss,
    parameter_drift,
    parameter_drift_decay_,
    parameter_drift_value_and_grad,
    path_kl,
    path_kl_value_and_grad,
    permutation,
    permuted_statistics,
    power_spectrum_loss,
    prno_loss,
    project_white_noise,
    surrogate_reward,
    warmup,
)
from gaussreg_fast.modules import (
    CovarianceLoss,
    GaussianityLoss,
    KLLoss,
    KurtosisLoss,
    MomentLoss,
    NormLoss,
    PowerSpectrumLoss,
    PRNOLoss,
)
from gaussreg_fast.optim import WhiteNoiseProjection
from gaussreg_fast.path import PathKL

try:
    __version__ = version("gaussreg_fast")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = [
    "CovarianceLoss",
    "Diagnosis",
    "DriftDecay",
    "GaussianityLoss",
    "KLLoss",
    "KurtosisLoss",
    "LoraDrift",
    "MomentLoss",
    "NormLoss",
    "PRNOLoss",
    "ParameterDrift",
    "PathKL",
    "PowerSpectrumLoss",
    "PreparedLoss",
    "WhiteNoiseProjection",
    "__version__",
    "accumulate_parameter_drift",
    "backends",
    "covariance_loss",
    "ddim_step_kl_terms",
    "ddpm_step_kl_terms",
    "diagnose",
    "f_divergence",
    "flow_step_kl_terms",
    "gaussianity_loss",
    "gaussianity_value_and_grad",
    "kl_loss",
    "kurtosis_loss",
    "lora_drift",
    "moment_loss",
    "norm_loss",
    "parameter_drift",
    "parameter_drift_decay_",
    "parameter_drift_value_and_grad",
    "path_kl",
    "path_kl_value_and_grad",
    "permutation",
    "permuted_statistics",
    "power_spectrum_loss",
    "prno_loss",
    "project_white_noise",
    "surrogate_reward",
    "warmup",
]
