"""The calls of all cases as pytest-benchmark suites."""
