"""Report the reward-tuning experiment: a table, a picture and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from gaussreg_fast import _markdown, f_divergence
from gaussreg_fast.experiments import output
from gaussreg_fast.experiments.measures import estimate, mean_estimate, resamples, spreads

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gaussreg_fast.experiments.reward_tuning.study import Arm, RewardTuning, Sampled, Tilt

COLUMNS = (
    "divergence, gain", "alpha", "weights: spread", "effective samples", "KL",
    "trained: gain", "spread", "reward's deviation", "digits right", "path KL", "seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """An arm, its weights, and samples of the model trained with them."""

    arm: Arm
    tilt: Tilt
    sampled: Sampled
    seconds: float


def as_json(experiment: RewardTuning, results: Sequence[Result]) -> dict[str, Any]:
    """Return all numbers of the table and the picture, with the settings to run it again.

    Gains are in standard deviations of p's rewards within a prompt; spreads and deviations are
    multiples of p's own. `low` and `high` bound 95 % intervals, bootstrapped over the samples.
    """
    before, scale = experiment.before, experiment.scale
    spread_before = spreads(before.images).mean().item()
    return {
        **output.heading("reward tuning"),
        "design": asdict(experiment.design),
        "scale": scale,
        "digits_right_before": before.agreement.mean().item(),
        "arms": [
            {
                "name": result.arm.name,
                **asdict(result.arm),
                "weights": _measure_weights(experiment, result.tilt),
                "trained": {
                    "gain": mean_estimate((result.sampled.reward - before.reward) / scale),
                    "spread": _spread(result.sampled.images, spread_before),
                    "deviation": _deviation(result.sampled.reward) / scale,
                    "agreement": mean_estimate(result.sampled.agreement),
                    "path_kl": mean_estimate(result.sampled.path_kl),
                },
                "seconds": result.seconds,
            }
            for result in results
        ],
    }


def _measure_weights(experiment: RewardTuning, tilt: Tilt) -> dict[str, float]:
    pool, weights = experiment.pool, tilt.weights
    log_ratio = weights.log()
    shares = weights.view(10, -1) / experiment.design.pool
    earned = (weights * pool.reward).mean() - pool.reward.mean()
    return {
        "alpha": tilt.alpha,
        "gain": earned.item() / experiment.scale,
        "spread": (spreads(pool.images, weights).mean() / spreads(pool.images).mean()).item(),
        "effective": (1 / shares.square().sum(1)).mean().item() / experiment.design.pool,
        "kl": f_divergence(log_ratio, "kl").item(),
        "forward_kl": f_divergence(log_ratio, "forward_kl").item(),
    }


def _deviation(reward: Tensor) -> float:
    """Return the standard deviation of the rewards within a prompt, averaged over prompts."""
    return reward.view(10, -1).std(1).mean().item()


def _spread(images: Tensor, before: float) -> dict[str, float]:
    """Return the mean spread within a prompt as a multiple of `before`, with its interval."""
    draws = [spreads(images, counts).mean().item() / before for counts in resamples(len(images))]
    return estimate(spreads(images).mean().item() / before, draws)


def table_rows(result: dict[str, Any]) -> list[list[str]]:
    """Return the cells of the table, in the order of `COLUMNS`."""
    rows = []
    for arm in result["arms"]:
        weights, trained = arm["weights"], arm["trained"]
        control = arm["kind"] is None
        rows.append(
            [
                arm["name"],
                "" if control else f"{weights['alpha']:.3f}",
                f"{weights['spread']:.2f}",
                f"{100 * weights['effective']:.0f} %",
                f"{weights['kl']:.2f}",
                _cell(trained["gain"], "+.2f"),
                _cell(trained["spread"], ".2f"),
                f"{trained['deviation']:.2f}",
                f"{100 * trained['agreement']['value']:.0f} %",
                _cell(trained["path_kl"], ".1f"),
                f"{arm['seconds']:.0f}",
            ]
        )
    return rows


def _cell(interval: dict[str, float], form: str) -> str:
    low, high = interval["low"], interval["high"]
    return f"{interval['value']:{form}} ({low:{form}} to {high:{form}})"


def markdown(result: dict[str, Any]) -> str:
    """Return the table in Markdown, with an explanation before it."""
    design = result["design"]
    lines = [
        f"Reward {design['reward']}, {design['pool']} samples of the pretrained model for each of "
        f"ten prompts, gamma {design['gamma']:g}. Every divergence has the alpha at which its "
        "weights earn the gain, in standard deviations of the reward within a prompt. Weights: the "
        "spread (mean distance of two images of a prompt) of the weighted samples, their effective "
        f"number, KL(q || p). Trained: {10 * design['drawn']} images of the model trained on them "
        f"for {design['steps']} steps; spread and deviation as multiples of the pretrained "
        f"model's, whose digits are right in {100 * result['digits_right_before']:.0f} %; path KL "
        "in nats. The control was trained on the same samples without weights. Brackets hold 95 % "
        "intervals.",
        "",
        *_markdown.table(COLUMNS, table_rows(result)),
    ]
    return "\n".join(lines) + "\n"


def picture(result: dict[str, Any], results: Sequence[Result]) -> Figure:
    """Plot reward against diversity, the sorted weights, and each model's images."""
    from matplotlib.figure import Figure

    height = 0.75 * len(results)
    figure = Figure(figsize=(12, 4 + height), layout="constrained")
    above, below = np.asarray(figure.subfigures(2, 1, height_ratios=[4, height]))
    diversity, tilts = above.subplots(1, 2)
    for k, (row, arm) in enumerate(zip(results, result["arms"], strict=True)):
        gain, spread = arm["trained"]["gain"], arm["trained"]["spread"]
        bars = [[[v["value"] - v["low"]], [v["high"] - v["value"]]] for v in (gain, spread)]
        diversity.errorbar(
            gain["value"], spread["value"], bars[1], bars[0], fmt="o", color=f"C{k}", capsize=2
        )
        weights = arm["weights"]
        diversity.plot(weights["gain"], weights["spread"], "x", color=f"C{k}")
        order = row.tilt.weights.argsort()
        tilts.plot(row.tilt.weights[order].flip(0), color=f"C{k}", lw=1.2, label=row.arm.name)
    diversity.set(
        xlabel=f"gain in {result['design']['reward']}, standard deviations",
        ylabel="spread within a prompt, of the pretrained",
        title="o trained model, x weighted samples",
    )
    diversity.title.set_fontsize("medium")
    tilts.set(xscale="log", yscale="log", ylim=(1e-2, None), xlabel="sample, by weight")
    tilts.set(ylabel="weight, mean 1")
    tilts.legend(fontsize="small")
    axes = below.subplots(len(results), 1, squeeze=False)[:, 0]
    for axis, row in zip(axes, results, strict=True):
        each = len(row.sampled.images) // 10
        shown = row.sampled.images[:, 0].view(10, each, *row.sampled.images.shape[2:])[:, :2]
        output.strip(axis, shown.flatten(0, 1).numpy(), row.arm.name)
    above.suptitle("Fine-tuning on a reward: KL, gamma and forward KL at the same reward")
    below.suptitle("Two images of each prompt, from the same noises", fontsize=10)
    return figure


def save(result: dict[str, Any], results: Sequence[Result], folder: Path) -> list[Path]:
    """Write reward-tuning.png, .md and .json, each whole or not at all; return the paths."""
    return output.save("reward-tuning", picture(result, results), markdown(result), result, folder)
