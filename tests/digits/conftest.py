"""Fixtures that the tests of the digits share."""

import pytest


@pytest.fixture(scope="module")
def real():
    """The digits that the package ships, which are scikit-learn's."""
    from gaussreg_fast.digits import WEIGHTS, data

    return data.Digits.load(WEIGHTS / "digits.safetensors")
