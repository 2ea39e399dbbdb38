"""The other regularisers, with their backward passes.

pytest bench/pytest_suites/test_guards.py --benchmark-enable [-k NAME]
"""

import pytest

from bench.pytest_suites import shared as suites


@pytest.mark.parametrize(("case", "call"), suites.every_call("guards"))
def test_guards(benchmark, case, call):
    suites.run(benchmark, case, call)
