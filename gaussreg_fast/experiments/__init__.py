"""The experiments that `gaussreg-fast demo` runs: a folder each, with its study and its report.

`checkerboard`: which Gaussianity loss sees a pattern and removes it. `frontier`: which guard keeps
a reward from being hacked. `personalisation`: a new sign learnt from a few images, with and without
parameter drift. `reward_tuning`: reward against diversity under three divergences. All but the
first run on the embedded digits.
"""
