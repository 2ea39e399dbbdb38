"""The specification in code: every loss of this package in plain torch.

It is short, right before fast, and computes in float64 too. The `torch` backend calls it, and
every other backend is tested against it. Shapes: `x` is `(B, D)`, one flattened sample per row,
float32 or float64; `index` is `(D,)`, `(B, D)` or None for no permutation. The functions validate
nothing (`checks.py` does that) and import nothing else of this package.

Sources: MPGR (arXiv 2509.07027), GPER (arXiv 2602.08646), PRNO (arXiv 2405.18881),
ReNO (arXiv 2406.04312), P&P (arXiv 2505.19519), Tang and Zhou (arXiv 2403.06279).
"""

from gaussreg_fast.reference._divergence import (
    Groups,
    dual,
    f_of_log,
    tilt,
    weight_slope,
)
from gaussreg_fast.reference._drift import (
    drift,
    lora_product,
)
from gaussreg_fast.reference._losses import (
    full_power_spectrum_loss,
    loss_and_gradient,
    permuted_statistics,
    permuted_statistics_pullback,
)
from gaussreg_fast.reference._moments import (
    moments,
    target_moment,
)
from gaussreg_fast.reference._path_kl import (
    ddim_terms,
    ddpm_terms,
    flow_terms,
    path_kl,
    path_kl_by_sigma,
    path_kl_pullback,
)
from gaussreg_fast.reference._peers import (
    autocovariance,
    autocovariance_pullback,
    covariance_terms,
    prno_log_probability,
    prno_loss,
)
from gaussreg_fast.reference._permutation import (
    gather,
    permutation,
    scatter,
)
from gaussreg_fast.reference._projection import (
    project_white_noise,
)
from gaussreg_fast.reference._spectrum import (
    FLOOR,
    RAYLEIGH_MEAN,
    RAYLEIGH_VAR,
    block_means,
    block_sizes,
    block_target,
    compact_adjoint,
    compact_spectrum,
)

__all__ = [
    "FLOOR",
    "RAYLEIGH_MEAN",
    "RAYLEIGH_VAR",
    "Groups",
    "autocovariance",
    "autocovariance_pullback",
    "block_means",
    "block_sizes",
    "block_target",
    "compact_adjoint",
    "compact_spectrum",
    "covariance_terms",
    "ddim_terms",
    "ddpm_terms",
    "drift",
    "dual",
    "f_of_log",
    "flow_terms",
    "full_power_spectrum_loss",
    "gather",
    "lora_product",
    "loss_and_gradient",
    "moments",
    "path_kl",
    "path_kl_by_sigma",
    "path_kl_pullback",
    "permutation",
    "permuted_statistics",
    "permuted_statistics_pullback",
    "prno_log_probability",
    "prno_loss",
    "project_white_noise",
    "scatter",
    "target_moment",
    "tilt",
    "weight_slope",
]
