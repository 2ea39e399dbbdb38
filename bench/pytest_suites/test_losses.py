"""Ours in every form, and its peers, on the latents of real models.

pytest bench/pytest_suites/test_losses.py --benchmark-enable [-k NAME]
"""

import pytest

from bench.pytest_suites import shared as suites


@pytest.mark.parametrize(("case", "call"), suites.every_call("loss"))
def test_losses(benchmark, case, call):
    suites.run(benchmark, case, call)
