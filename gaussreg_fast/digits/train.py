"""Train the embedded pipeline and its classifiers: `python -m gaussreg_fast.digits.train`.

Budgets are in steps, not in seconds, so that the same seed on the same machine and number of
threads gives the same weights.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gaussreg_fast._environment import versions
from gaussreg_fast._exit_codes import exit_code
from gaussreg_fast._files import json_text, user_path, write_json
from gaussreg_fast.digits import components, diffusion, measures, stages
from gaussreg_fast.digits.classifiers import ARCHITECTURES, save_classifiers
from gaussreg_fast.digits.data import Digits, Split, sklearn_digits, split
from gaussreg_fast.errors import InputError, NoDeviceError

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from rich.progress import Progress

RECORD = "training.json"


@dataclass(frozen=True)
class Plan:
    """Everything that determines the weights, apart from the machine.

    Attributes:
        classifier_steps, vae_steps, teacher_steps, student_steps: optimiser steps.
        batch: samples per step; classifiers and autoencoder take twice as many.
        copies: deformed copies of every digit that the teacher learns from.
        pairs: noises that the teacher turns into images for the student.
        ddim_steps, guidance: the teacher's sampler for the pairs.
        measured: images of each digit in the final measures.
    """

    seed: int = 0
    classifier_steps: int = 1200
    vae_steps: int = 800
    teacher_steps: int = 2000
    student_steps: int = 1600
    batch: int = 32
    copies: int = 12
    pairs: int = 5000
    ddim_steps: int = 8
    guidance: float = 1.5
    measured: int = 100


@dataclass
class Run:
    """A running training: its plan, device, progress bars and notes for the record."""

    plan: Plan
    device: torch.device
    progress: Progress
    notes: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, steps: int) -> Iterator[stages.Report]:
        """Run a stage with a progress bar and its own random numbers, and note its seconds."""
        task = self.progress.add_task(name, total=steps, state="")

        def report(loss: float) -> None:
            self.progress.update(task, advance=1, state="" if loss != loss else f"{loss:.4f}")

        began = time.perf_counter()
        # Each stage has its own seed, so that its draws do not depend on the stages before.
        with stages.seeded(zlib.crc32(f"{self.plan.seed} {name}".encode())):
            yield report
        self.notes.setdefault("seconds", {})[name] = round(time.perf_counter() - began, 1)

    def note_loss(self, name: str, loss: float) -> None:
        """Note a stage's final loss."""
        self.notes.setdefault("losses", {})[name] = loss


def train(folder: Path, plan: Plan, device: torch.device, progress: Progress) -> dict[str, Any]:
    """Train everything and write it into `folder`, which exists and is empty.

    Returns:
        The content of training.json: the plan, losses, seconds, versions and measures.
    """
    run = Run(plan, device, progress)
    digits = sklearn_digits()
    parts = split(digits.labels, plan.seed)
    digits.save(folder / "digits.safetensors")
    save_classifiers(_classifiers(run, digits, parts), folder / "classifiers.safetensors")
    _pipeline(run, digits.take(parts.train), folder / "pipeline")
    with run.stage("measures", 1) as report:
        run.notes["measures"] = measures.measure(
            folder, parts.test, plan.measured, seed=plan.seed + 1
        )
        report(float("nan"))
    record = {
        "plan": asdict(plan),
        **run.notes,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "versions": versions("torch", "diffusers", "transformers", "scikit-learn"),
    }
    write_json(folder / RECORD, record)
    return record


def _classifiers(run: Run, digits: Digits, parts: Split) -> dict[str, nn.Module]:
    test = digits.take(parts.test)
    images = test.images().to(run.device)
    trained, accuracies = {}, {}
    for name, index in (("target", parts.mixed), ("a", parts.first), ("b", parts.second)):
        steps = run.plan.classifier_steps
        with run.stage(f"classifier {name}", steps) as report:
            classifier, loss = stages.train_classifier(
                name, digits.take(index), steps, 2 * run.plan.batch, run.device, report
            )
        run.note_loss(f"classifier {name}", loss)
        trained[name] = classifier
        accuracies[name] = stages.accuracy(classifier, images, test.labels)
    assert trained.keys() == ARCHITECTURES.keys()
    run.notes["test_digits"] = len(test.labels)
    run.notes["classifier_accuracy"] = accuracies
    return trained


def _pipeline(run: Run, digits: Digits, folder: Path) -> None:
    plan = run.plan
    with run.stage("autoencoder", plan.vae_steps) as report:
        vae, loss = stages.train_vae(digits, plan.vae_steps, 2 * plan.batch, run.device, report)
    run.note_loss("autoencoder", loss)
    tokenizer = components.build_tokenizer()
    prompts = diffusion.Prompts.of(tokenizer)
    with run.stage("teacher", plan.teacher_steps) as report:
        text_encoder = components.build_text_encoder(tokenizer).to(run.device)
        teacher, loss = diffusion.train_teacher(
            vae,
            text_encoder,
            prompts,
            digits,
            plan.teacher_steps,
            plan.batch,
            plan.copies,
            report,
        )
    run.note_loss("teacher", loss)
    with torch.no_grad():
        hidden = text_encoder(prompts.ids.to(run.device)).last_hidden_state
    student = _student(run, teacher, vae, hidden, prompts)
    _save_pipeline(folder, tokenizer, text_encoder, student, vae)
    teacher.cpu().half().save_pretrained(folder.with_name("teacher"))


def _student(
    run: Run,
    teacher: UNet2DConditionModel,
    vae: AutoencoderKL,
    hidden: torch.Tensor,
    prompts: diffusion.Prompts,
) -> UNet2DConditionModel:
    plan, batch = run.plan, 250
    with run.stage("pairs", -(-plan.pairs // batch)) as report:
        pairs = diffusion.make_pairs(
            teacher, hidden, prompts, plan.pairs, plan.ddim_steps, plan.guidance, batch, report
        )
    with run.stage("student", plan.student_steps) as report:
        student, loss = diffusion.distil(
            teacher, vae, hidden, prompts, pairs, plan.student_steps, plan.batch, report
        )
    run.note_loss("student", loss)
    return student


def _save_pipeline(folder: Path, tokenizer: Any, text_encoder: Any, unet: Any, vae: Any) -> None:
    """Write the pipeline in diffusers' format, the convolutional networks in half precision."""
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline(
        vae=vae.cpu().half(),
        text_encoder=text_encoder.cpu(),
        tokenizer=tokenizer,
        unet=unet.cpu().half(),
        scheduler=components.build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)
    components.save_tokenizer(tokenizer, folder / "tokenizer")


# ---------------------------------------------------------------- command line


def train_into(out: Path, plan: Plan, device: torch.device) -> dict[str, Any]:
    """Train in a temporary folder beside `out`, and move it there at the end.

    Raises:
        InputError: `out` exists and is not the folder of a former training, or its parent does
            not exist.
    """
    from gaussreg_fast._progress import plain_console, progress_bar

    if out.exists() and not (out / RECORD).is_file():
        raise InputError(
            f"--out must be a new folder or that of a former training, got {out} without {RECORD}"
        )
    if not out.absolute().parent.is_dir():
        raise InputError(
            f"--out must be in an existing folder, got {out} in {out.absolute().parent}"
        )
    scratch = Path(tempfile.mkdtemp(dir=out.absolute().parent, prefix=f".{out.name}-"))
    try:
        fresh = scratch / "fresh"
        fresh.mkdir()
        with progress_bar(plain_console()) as progress:
            record = train(fresh, plan, device, progress)
        if out.exists():
            out.rename(scratch / "former")
        fresh.rename(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return record


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return exit_code(lambda: _train(arguments))


def _train(arguments: Sequence[str] | None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m gaussreg_fast.digits.train", description=__doc__
    )
    parser.add_argument("--out", type=user_path, required=True, help="Folder to write.")
    parser.add_argument("--device", default="cpu", help="Device to train on: cpu or cuda.")
    parser.add_argument("--threads", type=int, default=2, help="Number of CPU threads.")
    for name, value in asdict(Plan()).items():
        flag = "--" + name.replace("_", "-")
        text = f"Value of `{name}` in the plan. Default: {value}."
        parser.add_argument(flag, type=type(value), default=value, help=text)
    given = vars(parser.parse_args(arguments))
    torch.set_num_threads(given["threads"])
    plan = Plan(**{name: given[name] for name in asdict(Plan())})
    record = train_into(given["out"], plan, _device(given["device"]))
    print(json_text(record["measures"]))


def _device(name: str) -> torch.device:
    if name not in ("cpu", "cuda"):
        raise InputError(f"--device must be cpu or cuda, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise NoDeviceError(f"--device must be cpu, got {name!r}: PyTorch sees no GPU here")
    return torch.device(name)


if __name__ == "__main__":
    sys.exit(main())
