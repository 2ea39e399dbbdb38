"""Three small classifiers of digits, of three architectures: the target's and two held-out ones.

All activations are smooth, because rewards differentiate the log-probabilities.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn


class _Residual(nn.Module):
    """Two 3 x 3 convolutions around a skip connection, halving the sides."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(4, width_in),
            nn.GELU(),
            nn.Conv2d(width_in, width_out, 3, stride=2, padding=1),
            nn.GroupNorm(4, width_out),
            nn.GELU(),
            nn.Conv2d(width_out, width_out, 3, padding=1),
        )
        self.skip = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(width_in, width_out, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.body(x)


def _strided() -> nn.Module:
    """Build an all-convolutional network with strides instead of pooling."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.SiLU(),
        nn.Conv2d(32, 48, 3, stride=2, padding=1),
        nn.SiLU(),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(48 * 16, 10),
    )


def _residual() -> nn.Module:
    """Build a residual network with group normalisation and global average pooling."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        _Residual(16, 32),
        _Residual(32, 64),
        nn.GroupNorm(4, 64),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def _lenet() -> nn.Module:
    """Build a LeNet-5: 5 x 5 convolutions, average pooling, tanh, a fully connected head."""
    return nn.Sequential(
        nn.Conv2d(1, 12, 5, padding=2),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Conv2d(12, 24, 5, padding=1),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24 * 9, 84),
        nn.Tanh(),
        nn.Dropout(0.3),
        nn.Linear(84, 10),
    )


ARCHITECTURES = {"target": _strided, "a": _residual, "b": _lenet}


def log_probabilities(classifier: nn.Module, grey: Tensor) -> Tensor:
    """Return (B, 10) log-probabilities of (B, 1, 16, 16) images in [0, 1]."""
    logits: Tensor = classifier(2 * grey - 1)
    return logits.log_softmax(dim=1)


def save_classifiers(classifiers: dict[str, nn.Module], path: Path) -> None:
    """Write classifiers to one safetensors file, tensors named `classifier.layer.weight`."""
    from safetensors.torch import save_file

    tensors = {
        f"{name}.{key}": value.detach().cpu().contiguous()
        for name, classifier in classifiers.items()
        for key, value in classifier.state_dict().items()
    }
    save_file(tensors, path)


def load_classifier(
    name: str,
    path: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """Load the classifier `name` ("target", "a" or "b"), frozen and in evaluation mode."""
    from safetensors.torch import load_file

    prefix = f"{name}."
    state = {k.removeprefix(prefix): v for k, v in load_file(path).items() if k.startswith(prefix)}
    classifier = ARCHITECTURES[name]()
    classifier.load_state_dict(state)
    return classifier.to(device=device, dtype=dtype).eval().requires_grad_(False)
