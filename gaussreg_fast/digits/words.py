"""Digits as words and numerals, and the prompts of the training."""

from __future__ import annotations

import re

from gaussreg_fast.errors import InputError

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PROMPTS = tuple(f"a handwritten {word}" for word in WORDS)

# The training's prompts. PROMPTS and the measures use the first.
TEMPLATES = (
    "a handwritten {}",
    "handwritten {}",
    "a {}",
    "{}",
    "the digit {}",
    "the number {}",
    "a drawing of the digit {}",
    "a photo of a handwritten {}",
)

_VALUES = {word: value for value, word in enumerate(WORDS)} | {str(d): d for d in range(10)}


def digit_of(prompt: str) -> int:
    """Return the digit, 0 to 9, that a prompt names as a word ("three") or a numeral ("3").

    Raises:
        InputError: the prompt names no digit, or several different ones.
    """
    found = {_VALUES[word] for word in re.findall(r"\w+", prompt.lower()) if word in _VALUES}
    if len(found) != 1:
        raise InputError(
            f"prompt must name one digit for this reward ({', '.join(WORDS)} or a numeral from 0 "
            f"to 9), got {len(found) or 'none'} in {prompt!r}"
        )
    return found.pop()
