"""Folders of rewards that hold their files in a variant, or in part."""

import pytest
import tiny_rewards
import torch

from gaussreg_fast.errors import InputError
from gaussreg_fast.latent.rewards import load_reward

PROMPTS = ["a cat", "a dog"]


@pytest.mark.parametrize("name", ["clip", "pickscore"])
def test_a_folder_may_have_its_weights_in_one_variant(name, tmp_path):
    tiny_rewards.save_clip(tmp_path)
    images = tiny_rewards.images(2, 3, 24, 24, dtype=torch.float32)
    want = load_reward(name, source=str(tmp_path))(images, PROMPTS)
    weights = tmp_path / "model.safetensors"
    weights = weights.rename(tmp_path / "model.fp16.safetensors")
    assert torch.equal(load_reward(name, source=str(tmp_path))(images, PROMPTS), want)
    (tmp_path / "model.bf16.safetensors").write_bytes(weights.read_bytes())
    with pytest.raises(InputError, match=r"variants alone \(bf16, fp16\)"):
        load_reward(name, source=str(tmp_path))


def test_a_tokenizer_without_its_vocabulary_is_refused(tmp_path):
    """transformers makes an empty one, and every prompt would have the same score."""
    tiny_rewards.save_clip(tmp_path)
    for file in ("tokenizer.json", "vocab.json", "merges.txt"):
        (tmp_path / file).unlink(missing_ok=True)
    with pytest.raises(InputError, match="no vocabulary"):
        load_reward("clip", source=str(tmp_path))
