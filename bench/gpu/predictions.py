"""Predictions for an H200, made before anything had run on one; bench/NOTES.md has the reasons."""

from __future__ import annotations

from dataclasses import dataclass

from bench.subjects.cases import TARGETS

DEVICE = "H200"


@dataclass(frozen=True)
class Batch:
    """Predicted device time of value and gradient, and of the peers.

    Attributes:
        fft, ours: ns a sample; `fft` is the FFT pair alone.
        naive, compiled: multiples of our time.
    """

    case: str
    shape: str
    fft: float
    ours: float
    naive: float
    compiled: float

    @property
    def figures(self) -> dict[str, float]:
        """The figures by the names in `bench.subjects.cases.TARGETS`, and the two times."""
        return {
            "FFT pair ns": self.fft,
            "ours ns": self.ours,
            "ours/fft": self.ours / self.fft,
            "naive/ours": self.naive,
            "compile/ours": self.compiled,
        }


@dataclass(frozen=True)
class One:
    """Predicted waiting time for one latent.

    Attributes:
        eager, graph: us, for an eager call and for the replay of a CUDA graph.
        naive, compiled: multiples of our eager time.
    """

    case: str
    shape: str
    eager: float
    graph: float
    naive: float
    compiled: float

    @property
    def figures(self) -> dict[str, float]:
        """The figures by the names in `bench.subjects.cases.TARGETS`."""
        return {
            "eager us": self.eager,
            "graph us": self.graph,
            "naive/ours": self.naive,
            "compile/ours": self.compiled,
        }


BATCHES = (
    Batch("d1024-4096", "4096, 1024", 4.4, 6.5, 8.6, 4.3),
    Batch("d4096-4096", "4096, 4096", 17, 19, 12, 6),
    Batch("sd-4096", "4096, 16384", 75, 98, 9.3, 4.6),
    Batch("sana-2048", "2048, 32768", 150, 195, 9.8, 4.9),
    Batch("sdxl-1024", "1024, 65536", 500, 900, 6.4, 3.1),
    Batch("flux-256", "256, 262144", 2100, 4500, 5, 2.5),
    Batch("sd-256", "256, 16384", 80, 145, 7.4, 3.7),
    Batch("sd768-64", "64, 36864", 250, 900, 3, 2),
    Batch("sd-4096-bfloat16", "4096, 16384, bfloat16", 75, 97, 9, 4.5),
    Batch("sd-4096-per_sample", "4096, 16384, per_sample", 75, 150, 19.2, 15.6),
)
ONES = (
    One("sd-1", "16384", 75, 30, 13, 4),
    One("sdxl-1", "65536", 95, 25, 12, 3),
    One("flux-1", "262144", 100, 40, 10, 3),
)


def target(case: str, figure: str) -> tuple[str, float] | None:
    """Return the (relation, bound) of a figure; None if it has no target."""
    return TARGETS.get(case, {}).get(figure)


def misses(case: str, figure: str, value: float) -> bool:
    """Return whether a value misses its target."""
    found = target(case, figure)
    if found is None:
        return False
    return value > found[1] if found[0] == "<=" else value < found[1]
