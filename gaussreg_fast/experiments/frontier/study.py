"""Which guard keeps a reward from being hacked? Reward against held-out score, guard by guard.

The embedded digits model is optimised for a reward that conflicts with its prompts. Classifiers
that were not optimised measure whether the images still agree with the prompts. Every guard starts
from the same noises and takes steps of the same length (the gradient of every sample is clipped),
so guards differ in direction alone.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gaussreg_fast._files import atomic_path
from gaussreg_fast.digits import PROMPTS
from gaussreg_fast.experiments.frontier import analysis
from gaussreg_fast.latent.guards import GUARDS, Guard
from gaussreg_fast.latent.loop import Batch
from gaussreg_fast.latent.models import load_model
from gaussreg_fast.latent.problem import Problem, Sample
from gaussreg_fast.latent.rewards import RewardSpec, load_rewards

MEASURES = ("reward", "held_out", "agree", "nearest", "p_value", "cosine", "distance")
CLASSIFIERS = ("digits-class-a", "digits-class-b")
NEAREST = "digits-nearest"
BASELINE = "none"
PICTURES = "pictures"
SHOWN = 10  # latents whose images are kept: one of each digit

# Weights of the guard's gradient, rescaled to the reward's. `tune` chose TUNED from WEIGHTS on a
# seed of its own.
WEIGHTS = (0.3, 1.0, 3.0)
TUNED = {name: 0.3 for name, kind in GUARDS.items() if kind.loss is not None}


@dataclass(frozen=True)
class Design:
    """The experiment: `latents` noises per seed, the digits in turn as prompts.

    The optimiser is MPGR's (momentum 0.9, Nesterov, clipped), at a rate that takes the baseline
    well into hacking. PRNO has fewer shuffles than published, to save time.
    """

    reward: str = "digits-ink"
    latents: int = 40
    seeds: tuple[int, ...] = (0,)
    iterations: int = 50
    lr: float = 10.0
    clip: float = 0.01
    shuffles: int = 20

    def samples(self, seed: int) -> list[Sample]:
        """Return the samples of a seed; no two seeds share a noise."""
        return [
            Sample(k, PROMPTS[k % len(PROMPTS)], 1_000_000 * (seed + 1) + k)
            for k in range(self.latents)
        ]


TUNING_ARMS = 1 + len(TUNED) * len(WEIGHTS)
FULL = Design(latents=200, seeds=(0, 1, 2))
TUNING = Design(latents=50, seeds=(100,))


@dataclass(frozen=True)
class Arm:
    """A guard with its weight."""

    name: str
    guard: Guard


def arms(design: Design, weights: Mapping[str, float]) -> list[Arm]:
    """Return an arm for every guard, the losses at their weights."""
    losses = [arm(name, weight, design) for name, weight in weights.items()]
    return [
        Arm(BASELINE, Guard("none")),
        *losses,
        Arm("projection (gradient)", Guard("projection", project="gradient")),
        Arm("projection (both)", Guard("projection", project="both")),
    ]


def arm(name: str, weight: float, design: Design) -> Arm:
    """Return the arm of a loss at a weight."""
    options = {"shuffles": design.shuffles} if name == "prno" else {}
    return Arm(name, Guard(name, weight, rescale=True, options=options))


class Experiment:
    """Runs arms, and caches the result of each arm and seed, a cell, in a file.

    Args:
        folder: folder of the cells; None caches nothing. A cell of the same design is not run
            again.
        advance: called after each iteration with the arm's name.
    """

    BATCH = 50

    def __init__(self, folder: Path | None, advance: Callable[[str], None]) -> None:
        self._folder, self._advance = folder, advance
        self._model = load_model("digits", device="cpu")
        votes = [RewardSpec(name, 1 / len(CLASSIFIERS)) for name in CLASSIFIERS]
        self._held_out = load_rewards([*votes, RewardSpec(NEAREST, 0.0)])

    def curves(self, design: Design, arm: Arm) -> list[dict[str, np.ndarray]]:
        """Run an arm: per seed, each of `MEASURES` as (latents, iterations + 1), and `PICTURES`.

        `PICTURES` are images of the first latents, (SHOWN, iterations + 1, H, W) uint8.
        """
        return [self._cell(design, arm, seed) for seed in design.seeds]

    def _cell(self, design: Design, arm: Arm, seed: int) -> dict[str, np.ndarray]:
        key = json.dumps({**asdict(replace(design, seeds=(seed,))), "guard": asdict(arm.guard)})
        path = None
        if self._folder is not None:
            name = f"{arm.guard.name}-{arm.guard.project}-{arm.guard.weight:g}-{seed}.npz"
            path = self._folder / name
            if (stored := _stored(path, key)) is not None:
                for _ in range(iterations_of(replace(design, seeds=(seed,)), 1)):
                    self._advance(arm.name)
                return stored
        result = self._run(design, arm, design.samples(seed))
        if path is not None:
            with atomic_path(path) as temporary, open(temporary, "wb") as handle:
                arrays: dict[str, Any] = {"design": np.array(key), **result}
                np.savez_compressed(handle, **arrays)
        return result

    def _run(self, design: Design, arm: Arm, samples: Sequence[Sample]) -> dict[str, np.ndarray]:
        problem = self.problem(design, arm)
        parts, pictures = [], []
        for start in range(0, len(samples), self.BATCH):
            batch = Batch(problem, samples[start : start + self.BATCH])
            rows = []
            while not batch.done:
                record = batch.step()
                if len(record.samples) < len(batch.samples):
                    raise RuntimeError(f"{arm.name}: a reward or gradient was not finite")
                rows.append(_measures(record.values))
                if start == 0:
                    pictures.append((record.images[:SHOWN].mean(1) * 255).round().byte())
                self._advance(arm.name)
            parts.append(torch.stack(rows, dim=-1))
        joined = torch.cat(parts, dim=1).float().numpy()
        return {
            **dict(zip(MEASURES, joined, strict=True)),
            PICTURES: torch.stack(pictures, dim=1).numpy(),
        }

    def problem(self, design: Design, arm: Arm) -> Problem:
        """Return the arm as a problem for the loop."""
        return Problem(
            model=self._model,
            rewards=load_rewards([RewardSpec(design.reward)]),
            held_out=self._held_out,
            guard=arm.guard,
            optimizer=lambda x: torch.optim.SGD(x, lr=design.lr, momentum=0.9, nesterov=True),
            iterations=design.iterations,
            clip=design.clip,
            select="last",
        )

    def tune(self, design: Design = TUNING) -> dict[str, dict[float, float]]:
        """Return the held-out score of every loss at every weight, at matched reward.

        The reward is matched where the baseline has lost a fifth of the held-out votes. A weight
        that does not reach it scores NaN.
        """
        level = analysis.hacked_reward(self.curves(design, Arm(BASELINE, Guard("none"))))
        return {
            name: {
                weight: analysis.at_reward(
                    self.curves(design, arm(name, weight, design)), "held_out", level
                )
                for weight in WEIGHTS
            }
            for name in TUNED
        }


def _stored(path: Path, design: str) -> dict[str, np.ndarray] | None:
    """Read a cell; None if there is none of this design, or if its file is damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            if str(stored["design"]) != design:
                return None
            return {name: stored[name] for name in (*MEASURES, PICTURES)}
    except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


def best_weights(scores: Mapping[str, Mapping[float, float]]) -> dict[str, float]:
    """Return each loss's weight with the highest score of `tune`; the smallest if all are NaN."""
    chosen = {}
    for name, by_weight in scores.items():
        reached = {w: s for w, s in by_weight.items() if not np.isnan(s)}
        chosen[name] = max(reached, key=reached.__getitem__) if reached else min(by_weight)
    return chosen


def _measures(values: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Stack the measures of one iteration: (measures, latents).

    "agree" is the share of the classifiers that give the prompt's digit more than 50 %.
    """
    votes = [values[f"held_out/{name}"] > np.log(0.5) for name in CLASSIFIERS]
    columns = {
        **values,
        "agree": torch.stack(votes).double().mean(0),
        "nearest": values[f"held_out/{NEAREST}"],
    }
    return torch.stack([columns[name] for name in MEASURES])


def iterations_of(design: Design, count: int) -> int:
    """Return how often `advance` is called for `count` arms."""
    batches = -(-design.latents // Experiment.BATCH)
    return count * len(design.seeds) * batches * (design.iterations + 1)
