"""A small run on the embedded model, and everything that it writes."""

from pathlib import Path

import torch

from gaussreg_fast.latent import optimize

SETTINGS = {
    "prompts": ["a handwritten three", "a handwritten eight", "a handwritten one"],
    "rewards": ["digits-ink"],
    "held_out": ["digits-class-a"],
    "guard": "mpgr",
    "optimizer": {"lr": 5.0},
    "iterations": 12,
    "batch_size": 2,
    "checkpoint_every": 3,
}
ASIDE = {".lock", "environment.json"}


def run(out, callbacks=(), **changes):
    return optimize({**SETTINGS, **changes}, out=out, callbacks=callbacks)


def run_alone(out):
    """Runs in a process that something may kill."""
    torch.set_num_threads(1)
    run(out)


def files(folder):
    """Every file of a run that its settings determine, by name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and path.name not in ASIDE
    }
