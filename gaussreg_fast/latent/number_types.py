"""A type of settings that are numbers; pydantic alone would take true for 1."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError


def no_truth_value(value: Any) -> Any:
    """Return a value, or a list of values, none of which is true or false."""
    items = value if isinstance(value, list | tuple) else [value]
    if any(isinstance(item, bool) for item in items):
        raise PydanticCustomError("number", "must not be true or false")
    return value


Number = Annotated[float, BeforeValidator(no_truth_value)]
