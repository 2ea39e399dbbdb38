"""The rewards of digits: values by hand, known digits, gradients, and calls they refuse."""

import pytest
import torch
import torch.nn.functional as F
from draws import seeded

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from shipped_digits import FILES, RECORD

from gaussreg_fast import digits
from gaussreg_fast.digits import data, stages
from gaussreg_fast.digits.classifiers import load_classifier
from gaussreg_fast.errors import InputError

NAMES = list(digits.REWARDS)
CLASSED = ["digits-class", "digits-class-a", "digits-class-b", "digits-nearest"]


def canvas(*boxes, size=16):
    """A white rectangle on black for each (top, bottom, left, right)."""
    image = torch.zeros(1, 3, size, size)
    for top, bottom, left, right in boxes:
        image[:, :, top:bottom, left:right] = 1
    return image


def test_ink():
    reward = digits.REWARDS["digits-ink"]()
    images = torch.rand(5, 3, 16, 16, generator=seeded())
    torch.testing.assert_close(reward(images, ["a cat"] * 5), images.mean(dim=(1, 2, 3)))
    assert reward(torch.ones(1, 3, 16, 16), [""]).item() == 1


def test_slant_is_that_of_lines_and_ignores_brightness_and_place():
    reward = digits.REWARDS["digits-slant"]()
    diagonal = torch.eye(16)[:12].flip(0).expand(1, 3, 12, 16)  # rises to the right
    diagonal = F.pad(diagonal, (0, 0, 2, 2))
    assert reward(diagonal, [""]).item() == pytest.approx(1, abs=1e-3)
    assert reward(diagonal.flip(3), [""]).item() == pytest.approx(-1, abs=1e-3)
    assert reward(diagonal / 2, [""]).item() == pytest.approx(1, abs=1e-3)
    assert reward(diagonal.roll(1, dims=2), [""]).item() == pytest.approx(1, abs=1e-3)
    assert reward(canvas((2, 14, 7, 9)), [""]).item() == pytest.approx(0, abs=1e-5)
    assert reward(torch.zeros(1, 3, 16, 16), [""]).item() == 0
    noise = torch.rand(50, 3, 16, 16, generator=seeded())
    assert reward(noise, [""] * 50).abs().max() <= 1


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_thickness_is_the_width_of_a_long_bar(width):
    reward = digits.REWARDS["digits-thickness"]()
    bar = canvas((1, 15, 5, 5 + width))
    exact = 2 * 14 * width / (2 * 14 + 2 * width)
    assert reward(bar, [""]).item() == pytest.approx(exact, rel=0.12)
    assert reward(bar / 2, [""]).item() == pytest.approx(exact, rel=0.15)


def test_class_rewards_know_real_digits(real):
    images = real.images()[:200].expand(-1, 3, -1, -1)
    right = [digits.PROMPTS[label] for label in real.labels[:200].tolist()]
    wrong = [digits.PROMPTS[(label + 3) % 10] for label in real.labels[:200].tolist()]
    for name in CLASSED[:3]:
        reward = digits.REWARDS[name]()
        assert reward(images, right).exp().mean() > 0.9
        assert reward(images, wrong).exp().mean() < 0.05
        summed = sum(reward(images[:5], [prompt] * 5).exp() for prompt in digits.PROMPTS)
        torch.testing.assert_close(summed, torch.ones(5))


def test_held_out_classifiers_are_good_and_differ_from_the_target(real):
    parts = data.split(real.labels, RECORD["plan"]["seed"])
    test = real.take(parts.test)
    weights = FILES / "classifiers.safetensors"
    for name in ("a", "b", "target"):
        share = stages.accuracy(load_classifier(name, weights), test.images(), test.labels)
        assert share >= 0.97
        assert share == pytest.approx(RECORD["classifier_accuracy"][name], abs=0.003)
    assert len({type(load_classifier(n, weights)[1]).__name__ for n in ("a", "b", "target")}) == 3


def test_nearest_against_the_whole_distance_matrix(real):
    reward = digits.REWARDS["digits-nearest"]()
    images = torch.rand(4, 3, 16, 16, generator=seeded())
    prompts = ["a handwritten 1", "nine", "the digit 4", "0"]
    expected = []
    for image, digit in zip(images, (1, 9, 4, 0), strict=True):
        others = real.images()[real.labels == digit].expand(-1, 3, -1, -1)
        expected.append(-(image - others).square().mean(dim=(1, 2, 3)).sqrt().min())
    torch.testing.assert_close(reward(images, prompts), torch.stack(expected))
    zero = real.images()[real.labels == 0][:1].expand(-1, 3, -1, -1).clone().requires_grad_()
    reward(zero, ["zero"]).sum().backward()
    assert zero.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [16, 40])
def test_gradients_by_finite_differences(name, size):
    reward = digits.REWARDS[name]()
    generator = seeded(7)
    images = torch.rand(2, 3, size, size, generator=generator, dtype=torch.float64) * 0.8 + 0.1
    prompts = ["a handwritten 2", "a handwritten eight"]
    direction = torch.randn(images.shape, generator=generator, dtype=torch.float64)
    leaf = images.clone().requires_grad_()
    values = reward(leaf, prompts)
    assert values.dtype == torch.float64
    assert values.shape == (2,)
    (gradient,) = torch.autograd.grad(values.sum(), leaf)
    step = 1e-6
    above, below = (reward(images + s * step * direction, prompts).sum() for s in (1, -1))
    slope = (above - below) / (2 * step)
    assert slope.abs() > 1e-6
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_independent_and_in_float32(name):
    reward = digits.REWARDS[name]()
    assert reward.name == name
    images = torch.rand(3, 3, 16, 16, generator=seeded(1))
    prompts = list(digits.PROMPTS[:3])
    whole = reward(images, prompts)
    singles = [reward(images[i : i + 1], prompts[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(whole, torch.cat(singles), rtol=1e-5, atol=1e-6)
    half = reward(images.bfloat16(), prompts)
    assert whole.dtype == half.dtype == torch.float32
    assert whole.isfinite().all()
    black = reward(torch.zeros(1, 3, 16, 16, requires_grad=True), prompts[:1])
    assert black.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_without_a_digit(name):
    reward, image = digits.REWARDS[name](), torch.rand(1, 3, 16, 16, generator=seeded())
    if name in CLASSED:
        with pytest.raises(InputError, match=r"zero, one.*'a cat'"):
            reward(image, ["a cat"])
    else:
        assert reward(image, ["a cat"]).isfinite().all()


@pytest.mark.parametrize(
    ("images", "prompts", "says"),
    [
        (torch.rand(2, 1, 16, 16), ["one"] * 2, "(B, 3, H, W)"),
        (torch.rand(3, 16, 16), ["one"], "(3, 16, 16)"),
        (torch.ones(1, 3, 16, 16, dtype=torch.uint8), ["one"], "uint8"),
        (torch.rand(2, 3, 16, 16), ["one"], "must be 2"),
        (torch.rand(3, 3, 16, 16), "one", "one string"),
    ],
)
def test_bad_calls_say_what_came_and_what_is_allowed(images, prompts, says):
    with pytest.raises(InputError) as caught:
        digits.REWARDS["digits-ink"]()(images, prompts)
    assert says in str(caught.value)
