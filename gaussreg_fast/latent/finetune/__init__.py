"""Two worked examples of fine-tuning, on the embedded digits.

`personalisation` teaches the model a new sign from a few images, with and without parameter drift,
and measures what it still knows. `reward_tuning` tilts it towards a reward under KL, gamma and
forward KL divergence, and measures reward against diversity.
"""
