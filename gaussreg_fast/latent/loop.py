"""Optimise a batch of starting noises, one iteration at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gaussreg_fast import _ambient, diagnostics
from gaussreg_fast.errors import InputError
from gaussreg_fast.latent.guards import clip, norms
from gaussreg_fast.latent.problem import (
    FAILED,
    RUNNING,
    STOPPED,
    Problem,
    Record,
    Sample,
    sampler_seed,
    starting_noise,
)
from gaussreg_fast.latent.selection import Selection


class Batch:
    """A batch of noises under optimisation; call `step()` until `done`.

    Samples do not see each other: each has its own rewards, gradient, clipping, optimiser state,
    best iterate and end. A sample whose reward or gradient is NaN or infinite fails alone and
    keeps its best iterate.

    Args:
        problem: the objective and how it is optimised.
        samples: the B samples.
        latents: starting noises, (B, *model.latent_shape) of a floating dtype; by default
            `starting_noise`.

    Raises:
        InputError: `latents` has another shape, is not floating or not finite.
    """

    @_ambient.usual()
    def __init__(
        self, problem: Problem, samples: Sequence[Sample], latents: Tensor | None = None
    ) -> None:
        self.problem = problem
        self.samples = tuple(samples)
        shape = (len(self.samples), *problem.model.latent_shape)
        if latents is None:
            latents = starting_noise(self.samples, problem.model.latent_shape)
        if tuple(latents.shape) != shape:
            raise InputError(f"latents must have shape {shape}, got {tuple(latents.shape)}")
        if not latents.is_floating_point():
            raise InputError(f"latents must be of a real floating type, got {latents.dtype}")
        self.start = latents.detach().to(problem.model.device, torch.float32, copy=True)
        if not self.start.isfinite().all():
            raise InputError("latents must be finite in float32, got NaN or inf")
        self.latents = self.start.clone().requires_grad_()
        self.optimizer = problem.optimizer([self.latents])
        self.selection = Selection.start(problem.select, problem.p_value, self.start)
        self.status = torch.full((len(self.samples),), RUNNING, dtype=torch.int64, device="cpu")
        self.iteration = 0
        self._conditioning: tuple[tuple[int, ...], Any] | None = None

    @property
    def done(self) -> bool:
        """Whether every sample has finished, stopped or failed."""
        finished = self.iteration > self.problem.iterations
        return finished or not bool((self.status == RUNNING).any())

    @_ambient.usual()
    def step(self) -> Record:
        """Evaluate the current iterate of every running sample, then take a step from it."""
        rows = (self.status == RUNNING).nonzero()[:, 0]
        where = rows.to(self.latents.device)
        x = self.latents.detach()[where]
        values, images, gradient = self._reward(rows, x)
        guard, guard_gradient = self.problem.guard.loss_and_gradient(
            x, self.problem.seed * 1_000_003 + self.iteration
        )
        values |= {
            "guard": guard,
            "reward_gradient": norms(gradient),
            "guard_gradient": norms(guard_gradient),
            **self._distances(x, self.start[where]),
        }
        values |= self._evaluate(rows, x, images)
        columns = {name: value.detach().cpu().double() for name, value in values.items()}
        self._judge(rows, x, columns, gradient)
        record = Record(
            self.iteration,
            tuple(self.samples[row] for row in rows.tolist()),
            columns,
            self.status[rows],
            x,
            images,
        )
        if self.iteration < self.problem.iterations:
            self._move(rows, gradient, guard_gradient)
        self.iteration += 1
        return record

    # ------------------------------------------------------------ parts of a step

    @_ambient.usual()
    def images(self, latents: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        """Generate images from latents without gradient, one per sample of `rows` (default: all).

        Args:
            latents: (B', *model.latent_shape) float32.
            rows: indices of the B' samples.

        Returns:
            (B', 3, H, W) float32 in [0, 1].
        """
        with torch.no_grad():
            return self._generate(latents, tuple(rows or range(len(self.samples))))

    def _generate(self, latents: Tensor, rows: tuple[int, ...]) -> Tensor:
        if self._conditioning is None or self._conditioning[0] != rows:
            prompts = [self.samples[row].prompt for row in rows]
            self._conditioning = (rows, self.problem.model.encode(prompts))
        seeds = [sampler_seed(self.samples[row].seed) for row in rows]
        return self.problem.model.generate(latents, self._conditioning[1], seeds=seeds)

    def _reward(self, rows: Tensor, x: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Return the rewards with their sum "reward", the images, and the sum's gradient."""
        rewards = self.problem.rewards
        leaf = x.clone().requires_grad_(rewards is not None)
        with torch.enable_grad():
            images = self._generate(leaf, tuple(rows.tolist()))
            if rewards is None:
                return {"reward": x.new_zeros(len(x))}, images, torch.zeros_like(x)
            total, parts = rewards(images, self._prompts(rows))
            gradient = None
            if total.requires_grad:
                (gradient,) = torch.autograd.grad(total.sum(), leaf, allow_unused=True)
        if gradient is None:
            raise InputError(
                "rewards must be differentiable in the images, got values that do not depend on "
                f"the images from {', '.join(rewards.names)}"
            )
        return {"reward": total, **parts}, images.detach(), gradient

    def _prompts(self, rows: Tensor) -> list[str]:
        return [self.samples[row].prompt for row in rows.tolist()]

    def _evaluate(self, rows: Tensor, x: Tensor, images: Tensor) -> dict[str, Tensor]:
        """Return held-out rewards and p-values; NaN between the evaluations."""
        missing = torch.full((len(rows),), torch.nan, dtype=torch.float64, device="cpu")
        held_out = self.problem.held_out
        own = held_out.names if held_out else ()
        names = ["held_out", *(f"held_out/{name}" for name in own)]
        last = self.iteration == self.problem.iterations
        if self.iteration % self.problem.evaluate_every and not last:
            return dict.fromkeys([*names, "p_value"], missing)
        values = [missing]
        if held_out:
            with torch.no_grad():
                total, parts = held_out(images, self._prompts(rows))
            values = [total, *parts.values()]
        return {**dict(zip(names, values, strict=True)), "p_value": p_values(x)}

    @staticmethod
    def _distances(x: Tensor, start: Tensor) -> dict[str, Tensor]:
        """Measure how far the noise has moved: cosine to its start, and RMS distance."""
        a, b = x.flatten(1), start.flatten(1)
        return {
            "cosine": torch.cosine_similarity(a, b),
            "distance": (a - b).square().mean(1).sqrt(),
        }

    def _judge(self, rows: Tensor, x: Tensor, values: dict[str, Tensor], gradient: Tensor) -> None:
        """Mark samples that failed, keep each one's best iterate, and stop impatient samples."""
        finite = values["reward"].isfinite() & gradient.flatten(1).isfinite().all(1).cpu()
        finite &= values["guard"].isfinite() & values["guard_gradient"].isfinite()
        self.status[rows[~finite]] = FAILED
        if values["p_value"].isnan().all() and values["held_out"].isnan().all():
            return  # not evaluated
        good = finite.to(x.device)
        self.selection.update(
            self.iteration,
            rows[finite],
            x[good],
            values["held_out"][finite],
            values["p_value"][finite],
        )
        if self.problem.patience is not None:
            stale = self.selection.stale[rows] >= self.problem.patience
            self.status[rows[stale & finite]] = STOPPED

    def _move(self, rows: Tensor, gradient: Tensor, guard_gradient: Tensor) -> None:
        """Take one step of the optimiser for the samples that are still running."""
        running = self.status[rows] == RUNNING
        if not running.any():
            return
        rows, kept = rows[running], running.to(gradient.device)
        where = rows.to(gradient.device)
        direction = self.problem.guard.direction(gradient[kept], guard_gradient[kept])
        whole = torch.zeros_like(self.latents)
        whole[where] = clip(direction, self.problem.clip)
        before = self.latents.detach().clone()
        self.latents.grad = whole
        self.optimizer.step()
        with torch.no_grad():
            # Momentum also moves samples that have no gradient: only running ones are kept.
            before[where] = self.problem.guard.after_step(self.latents[where])
            self.latents.copy_(before)

    # ------------------------------------------------------------ saving and resuming

    @_ambient.usual()
    def state(self) -> dict[str, Tensor]:
        """Return the tensors, by name, from which `load_state` resumes to the same numbers."""
        s = self.selection
        tensors = {
            "identity": _as_tensor(self._identity()),
            "iteration": torch.tensor(self.iteration, dtype=torch.int64, device="cpu"),
            "latents": self.latents,
            "start": self.start,
            "status": self.status,
            "best.score": s.score,
            "best.iteration": s.iteration,
            "best.stale": s.stale,
            "best.latents": s.latents,
        }
        for key, value in self.optimizer.state.get(self.latents, {}).items():
            if value is not None:
                if not isinstance(value, Tensor):
                    value = torch.tensor(value, dtype=torch.float64, device="cpu")
                tensors[f"optimizer.{key}"] = value
        return {key: value.detach().cpu().clone() for key, value in tensors.items()}

    def _identity(self) -> dict[str, Any]:
        """Return what a state belongs to: its rows stand for samples by their position."""
        return {
            "samples": [[s.index, s.prompt, s.seed] for s in self.samples],
            "optimizer": type(self.optimizer).__name__,
            "selection": self.problem.select,
        }

    @_ambient.usual()
    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore a `state()`.

        Raises:
            InputError: the state is that of other samples, of another optimiser or selection, or
                its latents have another shape.
        """
        if tensors["latents"].shape != self.latents.shape:
            raise InputError(
                f"the saved state must hold latents of shape {tuple(self.latents.shape)}, got "
                f"{tuple(tensors['latents'].shape)}"
            )
        if "identity" not in tensors:
            raise InputError("the saved state must say which samples it holds, got one without")
        saved_identity = _from_tensor(tensors["identity"])
        for name, own in self._identity().items():
            if (other := saved_identity.get(name)) != own:
                raise InputError(f"the saved state must be of the {name} {own!r}, got {other!r}")
        device = self.latents.device
        self.iteration = int(tensors["iteration"])
        self.status = tensors["status"].clone()
        self.start = tensors["start"].to(device, copy=True)
        with torch.no_grad():
            self.latents.copy_(tensors["latents"])
        s = self.selection
        s.score, s.iteration = tensors["best.score"].clone(), tensors["best.iteration"].clone()
        s.stale, s.latents = (
            tensors["best.stale"].clone(),
            tensors["best.latents"].to(device, copy=True),
        )
        prefix = "optimizer."
        saved = {k[len(prefix) :]: v.clone() for k, v in tensors.items() if k.startswith(prefix)}
        if saved:
            self.optimizer.load_state_dict(
                {**self.optimizer.state_dict(), "state": {0: dict(saved)}}
            )


def _as_tensor(value: Any) -> Tensor:
    """Return JSON as bytes in a tensor, because a state holds tensors only."""
    return torch.from_numpy(np.frombuffer(json.dumps(value).encode(), dtype=np.uint8).copy())


def _from_tensor(stored: Tensor) -> Any:
    return json.loads(stored.numpy().tobytes())


def p_values(x: Tensor) -> Tensor:
    """Return each sample's p-value as white Gaussian noise, (B,) float64; NaN if not finite."""
    result = torch.full((len(x),), torch.nan, dtype=torch.float64, device="cpu")
    finite = x.flatten(1).isfinite().all(1)
    if finite.any():
        result[finite.cpu()] = torch.from_numpy(diagnostics.diagnose(x[finite]).p_value)
    return result
