"""Preprocessing of images against transformers' image processor, and its configurations."""

import pytest
import tiny_rewards
import torch
import torch.nn.functional as F
from tiny_rewards import images, normalised

from gaussreg_fast.errors import InputError
from gaussreg_fast.latent.rewards.preprocess import Preprocessing, from_config


# Noise of full contrast saturates between the two passes of a resize, and which comes first is not
# the same in every Pillow for tall images.
@pytest.mark.parametrize(
    ("shape", "low", "high"),
    [
        ((32, 32), 0, 256),
        ((48, 64), 0, 256),
        ((41, 97), 0, 256),
        ((200, 201), 0, 256),
        ((20, 33), 0, 256),
        ((16, 16), 0, 256),
        ((97, 41), 100, 156),
        ((33, 20), 100, 156),
    ],
)
def test_preprocessing_is_the_image_processors(shape, low, high):
    pytest.importorskip("PIL")
    try:
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    except ImportError:  # transformers < 5
        from transformers import CLIPImageProcessor as CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    generator = torch.Generator().manual_seed(sum(shape))
    image = torch.randint(low, high, (3, *shape), generator=generator, dtype=torch.uint8)
    want = processor(image.permute(1, 2, 0).numpy(), return_tensors="pt").pixel_values
    got = Preprocessing.square(32)(image[None] / 255)
    error = ((got - want) * torch.tensor(tiny_rewards.STD)[:, None, None] * 255).abs()
    assert got.shape == want.shape
    assert error.max() < 1.6  # levels of 8 bits, rounded to in each of two passes
    assert error.mean() < 0.5


def test_hpsv2_pads_the_shorter_side_with_black():
    x = torch.full((1, 3, 20, 40), 0.5)
    got = Preprocessing.square(30, fit="longest")(x)
    black, grey = normalised(torch.zeros(1, 3, 30, 30)), normalised(torch.full((1, 3, 15, 30), 0.5))
    assert got.shape == black.shape
    torch.testing.assert_close(got[:, :, 7:22], grey)
    torch.testing.assert_close(got[:, :, :7], black[:, :, :7])
    torch.testing.assert_close(got[:, :, 22:], black[:, :, 22:])


def test_resizing_to_a_square_and_plain_configurations():
    x = images(1, 3, 20, 50)
    squeezed = from_config({"size": {"height": 8, "width": 8}, "crop_size": 8}, 8, "here")(x)
    want = F.interpolate(x, size=(8, 8), mode="bicubic", antialias=True).clamp(0, 1)
    torch.testing.assert_close(squeezed, normalised(want))
    plain = from_config({"do_normalize": False, "resample": 2}, 8, "here")(x)
    want = F.interpolate(x, size=(8, 20), mode="bilinear", antialias=True)[..., 6:14]
    torch.testing.assert_close(plain, want)


@pytest.mark.parametrize(
    "config",
    [
        {"resample": 1},
        {"size": {"longest_edge": 8}},
        {"size": 16, "crop_size": 16},
        {"size": 6, "crop_size": 8},
        {"do_center_crop": False, "size": {"height": 8, "width": 9}},
    ],
)
def test_preprocessing_that_does_not_fit_is_refused(config):
    with pytest.raises(InputError, match=r"^here: "):
        from_config(config, 8, "here")
