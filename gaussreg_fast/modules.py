"""nn.Module twins of the losses: the constructor takes the options, the call takes the latents.

`GaussianityLoss(power_weight=10)(x)` is `gaussianity_loss(x, power_weight=10)`. Keyword
arguments of a call (`seed=`, `generator=`) override those of the constructor.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn

from gaussreg_fast import functional
from gaussreg_fast.functional._options import check_options

__all__ = [
    "CovarianceLoss",
    "GaussianityLoss",
    "KLLoss",
    "KurtosisLoss",
    "MomentLoss",
    "NormLoss",
    "PRNOLoss",
    "PowerSpectrumLoss",
]


class _Loss(nn.Module):
    """A loss function with its options. The constructor raises for wrong options."""

    function: ClassVar[Callable[..., Tensor]]

    def __init__(self, **options: Any) -> None:
        super().__init__()
        known = list(inspect.signature(self.function).parameters)[1:]
        for name in options:
            if name not in known:
                raise TypeError(
                    f"{type(self).__name__} has no option {name!r}; its options are "
                    f"{', '.join(known)}"
                )
        self.options = options
        check_options(self.function, options)

    def forward(self, x: Tensor, **overrides: Any) -> Tensor:
        """Return the loss of x, `(B, *latent)`; `overrides` replace options for this call."""
        return type(self).function(x, **{**self.options, **overrides})

    def extra_repr(self) -> str:
        """Return the options given to the constructor."""
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())


class GaussianityLoss(_Loss):
    """Module form of `gaussianity_loss`."""

    function = staticmethod(functional.gaussianity_loss)

    def prepare(self, x: Tensor) -> functional.PreparedLoss:
        """Return the loss and gradient for tensors like x, with buffers that each call overwrites.

        See `PreparedLoss` for the call, and for its errors.
        """
        return functional.PreparedLoss(x, **self.options)


class MomentLoss(_Loss):
    """Module form of `moment_loss`."""

    function = staticmethod(functional.moment_loss)


class PowerSpectrumLoss(_Loss):
    """Module form of `power_spectrum_loss`."""

    function = staticmethod(functional.power_spectrum_loss)


class KLLoss(_Loss):
    """Module form of `kl_loss`."""

    function = staticmethod(functional.kl_loss)


class KurtosisLoss(_Loss):
    """Module form of `kurtosis_loss`."""

    function = staticmethod(functional.kurtosis_loss)


class NormLoss(_Loss):
    """Module form of `norm_loss`."""

    function = staticmethod(functional.norm_loss)


class CovarianceLoss(_Loss):
    """Module form of `covariance_loss`."""

    function = staticmethod(functional.covariance_loss)


class PRNOLoss(_Loss):
    """Module form of `prno_loss`."""

    function = staticmethod(functional.prno_loss)
