"""Stages in which something goes wrong, for tests of the run: `--plan planted_stages:PLAN`."""

import os
import signal
import sys
import time

import torch

import gaussreg_fast as gf
from bench.gpu import programs
from bench.gpu.stage import LeftOut, Part, Stage


def _loss():
    return gf.gaussianity_value_and_grad(torch.randn(2, 64, device="cuda"), seed=1)


def _measure(_):
    value, _ = _loss()
    return {"value": float(value), "process": os.getpid()}


def _raise(_):
    raise RuntimeError("planted: it raises")


def _leave(_):
    os._exit(7)


def _sleep(_):
    time.sleep(100)


def _hang(_):
    """Hang like a call that never returns from the driver."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM, signal.SIGTERM])
    time.sleep(100)


def _left_out(_):
    raise LeftOut("no such tool")


def _program(_):
    """A program that runs longer than its part."""
    programs.output([sys.executable, "-c", "import time; time.sleep(100)"], 90)


def _slowly(_):
    time.sleep(1.5)
    return {"at": time.time()}


def _good():
    return [
        Part("first", _measure, 0.1, {"first": _loss}),
        Part("not here", _left_out, 0.1),
        Part("second", _measure, 0.1),
    ]


def _bad():
    return [
        Part("raises", _raise, 0.1),
        Part("leaves", _leave, 0.1),
        Part("after it", _measure, 0.1),
        Part("too long to begin", _measure, 1000),
    ]


def _unmakeable():
    raise ValueError("planted: no parts")


PLAN = (
    Stage("good", "all is well", _good, 1, 30),
    Stage("bad", "parts that fail", _bad, 1, 30),
    Stage("unmakeable", "cannot even begin", _unmakeable, 1, 30),
    Stage("long", "does not fit", _good, 5000, 6000),
    Stage("last", "comes after all that", _good, 1, 30),
)
SLOW = (
    Stage("slow", "five parts", lambda: [Part(f"{k}", _slowly, 0.1) for k in range(5)], 1, 60),
    Stage("end", "one more", _good, 1, 30),
)
HANGING = (
    Stage(
        "hanging", "parts without an end",
        lambda: [
            Part("sleeps", _sleep, 0.1), Part("hangs", _hang, 0.1), Part("works", _measure, 0.1),
        ],
        1, 60,
    ),
)  # fmt: skip
BUSY = (
    Stage(
        "busy", "waits for a program", lambda: [Part("program", _program, 50)], 1, 90, quiet=True
    ),
)
MANY = (
    Stage(
        "many", "more rows than the table has lines",
        lambda: [Part(f"part {k}", _raise if k % 2 else _left_out, 0.01) for k in range(150)],
        1, 60,
    ),
)  # fmt: skip
