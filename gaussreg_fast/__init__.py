"""Gaussianity losses for latent optimisation of one-step text-to-image models.

    from gaussreg_fast import gaussianity_loss
    loss = -reward(decode(x)) + gaussianity_loss(x)

Importing the package touches no GPU, imports no triton and loads no compiled module.
"""

from importlib.metadata import PackageNotFoundError, version

from gaussreg_fast.diagnostics import Diagnosis, diagnose
from gaussreg_fast.functional import (
    backends,
    covariance_loss,
    gaussianity_loss,
    gaussianity_value_and_grad,
    kl_loss,
    kurtosis_loss,
    moment_loss,
    norm_loss,
    permutation,
    permuted_statistics,
    power_spectrum_loss,
    prno_loss,
    project_white_noise,
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

try:
    __version__ = version("gaussreg_fast")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = [
    "CovarianceLoss",
    "Diagnosis",
    "GaussianityLoss",
    "KLLoss",
    "KurtosisLoss",
    "MomentLoss",
    "NormLoss",
    "PRNOLoss",
    "PowerSpectrumLoss",
    "WhiteNoiseProjection",
    "__version__",
    "backends",
    "covariance_loss",
    "diagnose",
    "gaussianity_loss",
    "gaussianity_value_and_grad",
    "kl_loss",
    "kurtosis_loss",
    "moment_loss",
    "norm_loss",
    "permutation",
    "permuted_statistics",
    "power_spectrum_loss",
    "prno_loss",
    "project_white_noise",
]
