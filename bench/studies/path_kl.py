"""Compare path KL and surrogate rewards on the CPU with users' code.

    python -m bench study path_kl [--out bench/results/path_kl.json] [--threads 1]

Path KL of mean differences dmu (T, B, D), float32: the value alone; value and gradient by autograd
(forward and backward, upstream 1 / B); value and gradient of the sum without autograd. "naive" is a
line of PyTorch, "compiled" the same line under torch.compile. "copy" is dmu.clone(), which moves 8
bytes a number, like value and gradient in one pass. Surrogate rewards: all groups at once against a
bisection with a Python loop over groups. Calls take turns, cold and hot, the best sample of each
counts; values are compared before anything is timed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import gaussreg_fast as gf
from bench.harness.best import best_times
from bench.harness.options import positive
from bench.harness.text import table
from gaussreg_fast._files import json_text

SECONDS = 2.0
# (steps, trajectories, numbers of a latent): one step of a stream; a toy; SD 1.5; SDXL; SD 3.
CASES = (
    (1, 4, 16384),
    (50, 256, 2),
    (50, 1, 16384),
    (50, 4, 16384),
    (20, 2, 65536),
    (28, 1, 262144),
)
REWARDS = ((64, 16), (4096, 64), (100_000, 1000))  # samples, groups


def naive(dmu: Tensor, sigma: Tensor) -> Tensor:
    return (dmu.flatten(2).square().sum(-1) / (2 * sigma.square()[:, None])).sum(0)


def backward(function: Callable[[Tensor, Tensor], Tensor], dmu: Tensor, sigma: Tensor) -> Tensor:
    x = dmu.detach().requires_grad_()
    function(x, sigma).mean().backward()
    assert x.grad is not None
    return x.grad


def path_case(shape: tuple[int, int, int], seconds: float) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    dmu = 1e-2 * torch.randn(shape, generator=generator)
    sigma = 0.1 + torch.rand(shape[0], generator=generator)
    torch.compiler.reset()
    functions = {"naive": naive, "compiled": torch.compile(naive), "ours": gf.path_kl}
    want = naive(dmu.double(), sigma.double())
    gradient = backward(naive, dmu.double(), sigma.double())
    calls: dict[str, Callable[[], Any]] = {"copy": dmu.clone}
    for name, function in functions.items():
        torch.testing.assert_close(function(dmu, sigma).double(), want, rtol=1e-5, atol=0)
        got = backward(function, dmu, sigma).double()
        torch.testing.assert_close(got, gradient, rtol=1e-5, atol=0)
        calls[f"{name}, value"] = lambda f=function: f(dmu, sigma)
        calls[f"{name}, backward"] = lambda f=function: backward(f, dmu, sigma)
    both = gf.path_kl_value_and_grad(dmu, sigma)
    for got, right in zip(both, (want, shape[1] * gradient), strict=True):  # of the batch's sum
        torch.testing.assert_close(got.double(), right, rtol=1e-5, atol=0)
    calls["ours, one pass"] = lambda: gf.path_kl_value_and_grad(dmu, sigma)
    steps, batch, size = shape
    times = best_times(calls, seconds)
    return {"steps": steps, "batch": batch, "dimension": size, "microseconds": times}


def bisection(reward: Tensor, group: Tensor, alpha: float, gamma: float) -> Tensor:
    """Compute the surrogate of kind gamma directly: 60 halvings for each group in turn."""
    result = torch.empty_like(reward)
    for number in group.unique():
        inside = group == number
        r = reward[inside] / alpha
        low = (r.max() - (1 - float(len(r)) ** -gamma) / gamma).item()
        high = r.max().item()
        for _ in range(60):
            middle = (low + high) / 2
            if (1 - gamma * (r - middle)).pow(-1 / gamma).mean().item() > 1:
                low = middle
            else:
                high = middle
        result[inside] = -alpha / gamma * torch.log(1 - gamma * (r - high))
    return result


def reward_case(samples: int, groups: int, seconds: float) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    reward = torch.randn(samples, generator=generator, dtype=torch.float64)
    group = torch.arange(samples) % groups

    def ours() -> Tensor:
        return gf.surrogate_reward(reward, "gamma", alpha=0.3, gamma=0.5, group=group)

    torch.testing.assert_close(ours(), bisection(reward, group, 0.3, 0.5), rtol=1e-8, atol=1e-8)
    calls = {"loop": lambda: bisection(reward, group, 0.3, 0.5), "ours": ours}
    times = best_times(calls, seconds)
    return {"samples": samples, "groups": groups, "microseconds": times}


def tables(result: dict[str, Any]) -> str:
    """Return the tables of docs/results/path-kl.md in Markdown."""
    head = ["T x B x D", "value: naive", "compiled", "backward: naive", "compiled"]
    head += ["one pass: naive", "of a copy's time"]
    text = ""
    for column in ("cold", "hot"):
        rows = []
        for case in result["path"]:
            us = case["microseconds"][column]
            ratios = [
                us[f"{peer}, {task}"] / us[f"ours, {task}"]
                for task in ("value", "backward")
                for peer in ("naive", "compiled")
            ]
            once = us["ours, one pass"]
            ratios += [us["naive, backward"] / once, once / us["copy"]]
            shape = f"{case['steps']} x {case['batch']} x {case['dimension']}"
            rows.append([shape, *(f"{ratio:.1f}" for ratio in ratios)])
        text += f"{column.capitalize()}:\n\n{table(head, rows)}\n"
    rewards = [
        [f"{case['samples']}, {case['groups']}"]
        + [f"{us['loop'] / us['ours']:.1f}" for us in case["microseconds"].values()]
        for case in result["rewards"]
    ]
    return text + table(["rewards, groups", "times faster than the loop, cold", "hot"], rewards)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads", type=positive, default=1, metavar="N", help="Threads of torch. Default: 1."
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(options.threads)
    result = {
        "threads": options.threads,
        "path": [path_case(shape, options.seconds) for shape in CASES],
        "rewards": [reward_case(*sizes, options.seconds) for sizes in REWARDS],
    }
    print(json_text(result))
    print(tables(result), end="")
    return result
