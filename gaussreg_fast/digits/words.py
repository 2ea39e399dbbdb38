"""Digits as words and numerals: the prompts' whole world."""

from __future__ import annotations

import re

from gaussreg_fast.errors import InputError

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PROMPTS = tuple(f"a handwritten {word}" for word in WORDS)

# What the pipeline was trained on; the first is the one that PROMPTS and the measures use.
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
    """The digit, 0 to 9, that a prompt names as a word ("three") or a numeral ("3").

    Raises:
        InputError: no digit in it, or two that differ.
    """
    found = {_VALUES[word] for word in re.findall(r"\w+", prompt.lower()) if word in _VALUES}
    if len(found) != 1:
        what = "no digit" if not found else f"{len(found)} digits"
        raise InputError(
            f"prompt {prompt!r} names {what}, this reward needs one: "
            f"{', '.join(WORDS)} or a numeral from 0 to 9"
        )
    return found.pop()
