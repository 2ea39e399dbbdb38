"""The stateless public functions. Each checks its arguments once and calls an operator.

In all of them `x` is a batch of samples, shape `(B, *latent)`, float32, float64, float16 or
bfloat16. A sample is the flattened vector of `D = prod(latent)` numbers that ought to be
i.i.d. N(0, 1). Half-precision inputs are computed in float32; losses and statistics are
float32 (float64 for float64 inputs), gradients have x's dtype. A sample that holds NaN or inf
gets a NaN loss and leaves the other samples as they are.

Errors, raised before anything is computed: TypeError for a tensor that is not dense and
floating-point, ValueError for any other argument out of range, RuntimeError for a backend that
cannot run here.
"""

from gaussreg_fast.backends import backends
from gaussreg_fast.functional._divergence import f_divergence, surrogate_reward
from gaussreg_fast.functional._drift import (
    Pairs,
    Tensors,
    accumulate_parameter_drift,
    lora_drift,
    parameter_drift,
    parameter_drift_decay_,
    parameter_drift_value_and_grad,
)
from gaussreg_fast.functional._losses import (
    gaussianity_loss,
    gaussianity_value_and_grad,
    kl_loss,
    kurtosis_loss,
    moment_loss,
    norm_loss,
    permuted_statistics,
    power_spectrum_loss,
)
from gaussreg_fast.functional._path_kl import (
    ddim_step_kl_terms,
    ddpm_step_kl_terms,
    flow_step_kl_terms,
    path_kl,
    path_kl_value_and_grad,
)
from gaussreg_fast.functional._peers import (
    covariance_loss,
    prno_loss,
)
from gaussreg_fast.functional._permutation import permutation
from gaussreg_fast.functional._prepared import PreparedLoss
from gaussreg_fast.functional._projection import project_white_noise
from gaussreg_fast.functional._warmup import warmup

__all__ = [
    "Pairs",
    "PreparedLoss",
    "Tensors",
    "accumulate_parameter_drift",
    "backends",
    "covariance_loss",
    "ddim_step_kl_terms",
    "ddpm_step_kl_terms",
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
