"""States that torch can be in around a call: its defaults and its modes, as contexts."""

import contextlib

import torch


@contextlib.contextmanager
def setting(set_to, value, before):
    set_to(value)
    try:
        yield
    finally:
        set_to(before)


@contextlib.contextmanager
def default_device(name):
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)  # takes away the mode, which slows all calls down


def default_dtype(dtype):
    return lambda: setting(torch.set_default_dtype, dtype, torch.float32)


STATES = {
    "default float64": default_dtype(torch.float64),
    "default bfloat16": default_dtype(torch.bfloat16),
    "default float16": default_dtype(torch.float16),
    "on meta": lambda: torch.device("meta"),
    "default meta": lambda: default_device("meta"),
    "deterministic": lambda: setting(torch.use_deterministic_algorithms, True, False),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "another generator": lambda: setting(torch.manual_seed, 99, 0),
}
# Modes in which gradients are not recorded; gradients are asked for in the others only.
WITHOUT_GRAPH = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}
# States in which sums may be added up in another order, or products be computed in float64.
ROUNDING = {
    "products rounded": lambda: setting(torch.set_float32_matmul_precision, "medium", "highest"),
    "two threads": lambda: setting(torch.set_num_threads, 2, 1),
}
