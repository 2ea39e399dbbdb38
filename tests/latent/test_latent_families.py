"""Whole runs on tiny pipelines in the shapes of SD, SDXL, FLUX and SANA-Sprint."""

import csv
import math

import pytest
import tiny_pipelines
import torch

from gaussreg_fast import gaussianity_loss
from gaussreg_fast.latent import optimize

FAMILIES = ("sd", "sdxl", "flux", "sana-sprint")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("guard", ["mpgr", "projection"])
def test_runs_on_every_family(family, guard, tmp_path):
    side = tiny_pipelines.SIZES[family] * 2
    result = optimize(
        model={
            "source": str(tiny_pipelines.build(family, tmp_path)), "height": side, "width": side,
            "gradient_checkpointing": guard == "mpgr",
        },
        prompts=["a photo of a cat", "a red house"],
        rewards=["toy_latents:brightness"],
        held_out=["toy_latents:contrast"],
        guard=guard,
        optimizer={"lr": 20.0} if guard == "mpgr" else {"lr": 0.1},
        iterations=3,
        out=tmp_path / "run",
    )  # fmt: skip
    start, final = result.latents["start"], result.latents["final"]
    assert start.dim() == 4  # unpacked, also where the pipeline packs
    assert start.shape == final.shape
    noise = torch.randn(start.shape[1:], generator=torch.Generator().manual_seed(0))
    assert torch.equal(start[0], noise)  # as it is drawn, also where the pipeline scales
    with open(result.folder / "metrics.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 2 * 4
    for row in rows:
        assert 0 <= float(row["reward"]) <= 1
        assert float(row["reward_gradient"]) > 0
        assert float(row["distance"]) > 0 or row["iteration"] == "0"
    for sample in result.samples:
        assert sample["final/reward"] > sample["start/reward"]
        assert sample["status"] == "finished"
    if guard == "mpgr":  # the guard's value is that of the unpacked, unscaled noise
        values = gaussianity_loss(start, reduction="none", seed=0)
        for k, row in enumerate(rows[:2]):
            assert math.isclose(float(row["guard"]), float(values[k]), rel_tol=1e-4)
