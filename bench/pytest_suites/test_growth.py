"""The growth of time with D and with B, also of the O(n^2) loss and PRNO.

pytest bench/pytest_suites/test_growth.py --benchmark-enable [-k NAME]
"""

import pytest

from bench.pytest_suites import shared as suites


@pytest.mark.parametrize(("case", "call"), suites.every_call("growth"))
def test_growth(benchmark, case, call):
    suites.run(benchmark, case, call)
