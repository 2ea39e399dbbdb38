"""torch's ambient state: what callers may have set around a call, and no result may depend on.

The package's own code names dtypes and devices. Code of other packages that it calls leaves them
to torch's defaults, so it runs under `usual`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def recordable() -> Iterator[None]:
    """Leave inference mode for a while, because autograd cannot use tensors that were made in it.

    Whether gradients are recorded stays as it is.
    """
    if not torch.is_inference_mode_enabled():
        yield
        return
    recorded = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(recorded):
        yield


@contextmanager
def usual() -> Iterator[None]:
    """Restore what torch starts with for a while: float32 on the CPU, no autocast, no inference.

    Grad mode, the precision of products (TF32) and deterministic mode stay as they are.
    """
    with ExitStack() as stack:
        stack.enter_context(recordable())
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if (dtype := torch.get_default_dtype()) != torch.float32:
            stack.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        yield
