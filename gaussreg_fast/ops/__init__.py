"""The torch operators: schemas, fake and device implementations, autograd.

Operators are registered here only. Each is data for the class `Operator`, which has three
entrances, tried in this order:

- eager calls on ordinary tensors run the implementation directly (a trip through the
  dispatcher costs more than a small kernel: `bench/studies/call_overhead.py`);
- `torch.compile`, fake tensors and other tracers go through `torch.ops.gaussreg_fast`;
- torch.func transforms go through the operator's `autograd.Function`.

One backward serves all three. Forward-mode AD through an operator raises, and so does double
backward, except for `path_kl` and `tilt`.

Four functions need no operator. `prno` and `lora_product` are plain torch, and support forward-mode
AD and double backward. `covariance` and `sharded_drift` are `autograd.Function`s, without either.
"""

from gaussreg_fast.backends.lists import uniform
from gaussreg_fast.ops._call_cache import CallCache, prepare
from gaussreg_fast.ops._drift import drift, lora_product
from gaussreg_fast.ops._drift_run import drift_in_place, move_towards, new_like
from gaussreg_fast.ops._drift_shards import eager, local, sharded, sharded_drift, shards
from gaussreg_fast.ops._loss import loss
from gaussreg_fast.ops._path_kl import path_kl
from gaussreg_fast.ops._peers import covariance, prno
from gaussreg_fast.ops._permutation import index, permutation
from gaussreg_fast.ops._projection import project_white_noise
from gaussreg_fast.ops._statistics import statistics
from gaussreg_fast.ops._tilt import tilt

__all__ = [
    "CallCache",
    "covariance",
    "drift",
    "drift_in_place",
    "eager",
    "index",
    "local",
    "lora_product",
    "loss",
    "move_towards",
    "new_like",
    "path_kl",
    "permutation",
    "prepare",
    "prno",
    "project_white_noise",
    "sharded",
    "sharded_drift",
    "shards",
    "statistics",
    "tilt",
    "uniform",
]
