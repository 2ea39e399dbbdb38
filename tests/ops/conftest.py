"""The losses that are called under torch's machinery."""

import pytest
from losses_called import CALLS


@pytest.fixture(params=CALLS)
def call(request):
    return CALLS[request.param]
