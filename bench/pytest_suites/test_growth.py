"""How time grows with D and with B, the O(n^2) loss and PRNO among the calls.

pytest bench/pytest_suites/test_growth.py --benchmark-enable [-k NAME]
"""

import pytest

from bench.pytest_suites import shared as suites


@pytest.mark.parametrize(("case", "call"), suites.every_call("growth"))
def test_growth(benchmark, case, call):
    suites.run(benchmark, case, call)
