"""The cases: batches of latents of real models, and the topic that each is measured for."""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass

import torch

from bench.harness.errors import BadInput

LATENTS = {
    "sd": (4, 64, 64),  # Stable Diffusion 1.5, SD-Turbo
    "sd768": (4, 96, 96),  # no power of two
    "sana": (32, 32, 32),
    "sdxl": (4, 128, 128),
    "flux": (16, 128, 128),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PERMUTATIONS = ("shared", "per_sample")
# loss: ours in every form, against its peers. guards: the other regularisers. growth: the growth of
# time with D or B, also of the O(n^2) loss and PRNO.
TOPICS = ("loss", "guards", "growth")
# Largest D; beyond it one call takes seconds, or more memory than there is.
COVARIANCE_LIMIT = {"cpu": 32768, "cuda": 65536}
PRNO_LIMIT = {"cpu": 65536, "cuda": 262144}


@dataclass(frozen=True)
class Case:
    """A batch of latents, with a name such as sdxl-4, sd-64-bfloat16 or d4096-1-growth."""

    latent: str
    batch: int
    dtype: torch.dtype = torch.float32
    permutation: str = "shared"
    topic: str = "loss"

    @property
    def dimension(self) -> int:
        return math.prod(LATENTS[self.latent]) if self.latent in LATENTS else int(self.latent[1:])

    @property
    def name(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        more = [dtype, self.permutation, self.topic]
        usual = ["float32", "shared", "loss"]
        return "-".join(
            [self.latent, str(self.batch), *(m for m, u in zip(more, usual, strict=True) if m != u)]
        )

    @property
    def nbytes(self) -> int:
        return self.batch * self.dimension * self.dtype.itemsize


def parse(name: str) -> Case:
    """Return the case of a name, listed or not; raise BadInput with the allowed names."""
    latent, _, rest = name.partition("-")
    batch, *more = rest.split("-")
    known = latent in LATENTS or re.fullmatch(r"d\d{2,8}", latent)
    options: dict[str, object] = {}
    for word in more:
        kinds = {"dtype": DTYPES, "permutation": PERMUTATIONS, "topic": TOPICS}
        kind = next((k for k, words in kinds.items() if word in words and k not in options), None)
        known = known and kind is not None
        options[str(kind)] = DTYPES.get(word, word)
    if known and re.fullmatch(r"[1-9]\d{0,5}", batch):
        case = Case(latent, int(batch), **options)  # type: ignore[arg-type]
        if case.dimension >= 32:
            return case
    everything = {case.name for device in ("cpu", "cuda") for case in of_report(device)}
    near = difflib.get_close_matches(name, sorted(everything), 3, 0.4)
    hint = f" (near: {', '.join(near)})" if near else ""
    raise BadInput(
        f"unknown case {name!r}{hint}: a case is LATENT-BATCH[-DTYPE][-PERMUTATION][-TOPIC], such "
        f"as sdxl-4-bfloat16; latents: {', '.join(LATENTS)}, dN (N numbers, at least 32)"
    )


def parse_all(text: str) -> tuple[Case, ...]:
    """Return the cases of names with spaces between them."""
    return tuple(parse(name) for name in text.split())


def of_report(device: str, quick: bool = False) -> tuple[Case, ...]:
    """Return the cases of a report, the most telling first, because time may end before the last.

    `quick` returns fewer.
    """
    return _QUICK[device] if quick else _FULL[device]


def compiled(device: str, quick: bool, case: Case) -> bool:
    """Return whether torch.compile is among a case's peers.

    Few cases have it, because it takes longer than the rest of a case together.
    """
    return not quick and case.name in _COMPILED[device]


def _growth(sizes: tuple[int, ...], batches: tuple[int, ...]) -> tuple[Case, ...]:
    by_size = (Case(f"d{size}", 1, topic="growth") for size in sizes)
    by_batch = (Case("sd", batch, topic="growth") for batch in batches)
    return tuple(by_size) + tuple(by_batch)


_COMPILED = {
    "cpu": {"sd-1", "sd-16", "sdxl-8"},
    "cuda": {
        *("sd-4096", "d4096-4096", "sana-2048", "sdxl-1024", "flux-256", "sd-1", "sdxl-1"),
        *("flux-1", "sd-4096-bfloat16", "sd-4096-per_sample", "d1024-4096", "sd-256", "sd768-64"),
    },
}
_FULL: dict[str, tuple[Case, ...]] = {}
_QUICK: dict[str, tuple[Case, ...]] = {}
_FULL["cpu"] = (
    *parse_all("sd-1 sd-16 sdxl-8 flux-1 sana-1 sana-16 sd-1-guards sd-64 sdxl-1 flux-4 sd768-4"),
    *parse_all("sd-16-bfloat16 sd-16-float16 sd-16-per_sample sd-16-guards sdxl-4-bfloat16"),
    *_growth(tuple(2**k for k in range(10, 19)), (4, 16, 64, 256, 1024)),
)
_QUICK["cpu"] = (
    *parse_all("sd-1 sd-16 sdxl-4 flux-1 sana-4 sd-1-guards sd-16-bfloat16"),
    *_growth((1024, 2048, 4096, 16384, 65536, 262144), (4, 16, 64)),
)
_FULL["cuda"] = (
    *parse_all("sd-4096 d4096-4096 sana-2048 sdxl-1024 flux-256 sd-1 sdxl-1 flux-1"),
    *parse_all("sd-4096-bfloat16 sd-4096-per_sample d1024-4096 sd-256 sd768-64 sd-1-guards"),
    *_growth(tuple(2**k for k in range(10, 19)), (4, 16, 64, 256, 1024, 4096)),
    *parse_all("sd-4096-float16 sd-64 sana-64 sdxl-64 flux-16 sd-64-guards"),
)
_QUICK["cuda"] = (
    *parse_all("sd-4096 sd-1 sdxl-256 flux-64 sd-1-guards"),
    *_growth((1024, 4096, 16384, 65536, 262144), (16, 256)),
)


# ---------------------------------------------------------------- targets on an H200


def _goals(fft: float, naive: float, compile_: float) -> dict[str, tuple[str, float]]:
    return {
        "ours/fft": ("<=", fft),
        "naive/ours": (">=", naive),
        "compile/ours": (">=", compile_),
        "memory/input": ("<=", 1.1),
    }


def _waits(eager: float, graph: float) -> dict[str, tuple[str, float]]:
    return {
        "eager us": ("<=", eager),
        "graph us": ("<=", graph),
        "naive/ours": (">=", 8),
        "compile/ours": (">=", 3),
    }


# Targets for a GPU: ratios of times, microseconds of one call, or bytes that a call adds over those
# of its input.
TARGETS = {
    "sd-4096": _goals(1.0, 12, 4),  # stretch: 0.75 of the FFT pair
    "d4096-4096": _goals(0.8, 12, 4),
    "sana-2048": _goals(1.2, 10, 4),
    "sdxl-1024": _goals(2.0, 6, 3),
    "flux-256": _goals(3.0, 5, 2.5),
    "sd-1": _waits(60, 15),
    "flux-1": _waits(80, 30),
    "d16384-1-growth": {"covariance/ours": (">=", 1000)},
}
