"""What an option accepts: one description and one test, for the configuration and the objects that it configures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, NamedTuple

__all__ = ["TRUE_OR_FALSE", "Option", "integer_at_least", "is_integer", "is_number", "null_or", "number", "one_of"]


class Option(NamedTuple):
    """The values that an option accepts.

    Attributes:
        accepted: in words, as in "expected an integer of at least 1".
        accepts: whether a value is one of them.
    """

    accepted: str
    accepts: Callable[[Any], bool]


def is_integer(value: Any) -> bool:
    """Whether a value is an integer and no bool.

    >>> is_integer(3), is_integer(True), is_integer(3.0)
    (True, False, False)
    """
    return hasattr(value, "__index__") and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number and no bool.

    >>> is_number(0.5), is_number(float("nan")), is_number("1")
    (True, False, False)
    """
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def one_of(names: Sequence[str]) -> Option:
    """One of the given names."""
    return Option("one of " + ", ".join(names), lambda value: value in names)


def integer_at_least(minimum: int) -> Option:
    """An integer that is not below ``minimum``."""
    return Option(f"an integer of at least {minimum}", lambda value: is_integer(value) and value >= minimum)


def number(accepted: str, accepts: Callable[[float], bool] = lambda value: True) -> Option:
    """A finite number with a property, both told in ``accepted``."""
    return Option(accepted, lambda value: is_number(value) and accepts(value))


def null_or(option: Option) -> Option:
    """Null, or what another option accepts."""
    return Option(f"null or {option.accepted}", lambda value: value is None or option.accepts(value))


TRUE_OR_FALSE = Option("true or false", lambda value: isinstance(value, bool))
