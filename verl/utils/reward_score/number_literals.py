r"""Exact values of numeric literals, the answers of most problems. Standard library only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

DECIMAL_TOLERANCE = Fraction(5, 10**7)
"""Two numbers, one of them a decimal, are equal when they agree to six decimal places (math-verify's rule)."""

SMALL_NUMBER = Fraction(1, 1000)
"""Below this, six significant digits count instead: 1.6e-19 and 2.5e-21 agree to six decimal places."""

_BLANK_INSIDE = re.compile(r"[\d,.]\s+[\d,.]")
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d{1,60})"
_DECIMAL = rf"(?:{_DIGITS}?\.\d{{1,60}}|{_DIGITS}\.?)"
_NUMBER = re.compile(
    rf"(?P<sign>[-+]?)(?:"
    rf"(?P<whole>\d{{1,20}})?\\frac\{{(?P<top>-?{_DECIMAL})\}}\{{(?P<bottom>-?{_DECIMAL})\}}"
    rf"|(?P<numerator>{_DECIMAL})/(?P<denominator>{_DECIMAL})"
    rf"|(?P<mantissa>{_DECIMAL})(?:[eE]|(?:\\times|\\cdot|\*)10\^)(?P<exponent>-?\+?\d{{1,3}}|\{{-?\+?\d{{1,3}}\}})"
    rf"|10\^(?P<power>-?\d{{1,3}}|\{{-?\d{{1,3}}\}})"
    rf"|(?P<decimal>{_DECIMAL})"
    rf")(?P<percent>%?)"
)
_MIXED_NUMBER = re.compile(r"([-+]?)(\d{1,20})\s+(\d{1,20})\s*/\s*(\d{1,20})")


@dataclass(frozen=True)
class Number:
    """The exact value of a numeric literal, whether it is written as a decimal, and whether as a percentage."""

    value: Fraction
    is_decimal: bool
    is_percentage: bool


def parse_number(answer: str) -> Number | None:
    r"""Return the value of a normalised answer that is an integer, decimal, fraction, power of ten or percentage.

    >>> parse_number(r"3\frac{1}{2}").value, parse_number("1,234").value, parse_number(r"4 \times 10^{-2}").value
    (Fraction(7, 2), Fraction(1234, 1), Fraction(1, 25))
    >>> parse_number("1 1/2").value, parse_number("5 6") is None, parse_number("x+1") is None
    (Fraction(3, 2), True, True)
    """
    if len(answer) > 200:
        return None
    mixed = _MIXED_NUMBER.fullmatch(answer)
    if mixed:
        sign, whole, top, bottom = mixed.groups()
        answer = rf"{sign}{whole}\frac{{{top}}}{{{bottom}}}"
    if _BLANK_INSIDE.search(answer):
        return None
    match = _NUMBER.fullmatch(answer.replace(" ", ""))
    if match is None:
        return None
    parts = match.groupdict()
    try:
        value = _value_of(parts)
    except ZeroDivisionError:
        return None
    written = "".join(part for name, part in parts.items() if part and name not in ("exponent", "power"))
    is_decimal = "." in written or parts["mantissa"] is not None
    return Number(-value if parts["sign"] == "-" else value, is_decimal, bool(parts["percent"]))


def equal_numbers(number: Number, truth: Number) -> bool:
    r"""Whether two numbers are equal, a percentage being its number or a hundredth of it.

    >>> equal_numbers(parse_number("0.333333"), parse_number("1/3"))
    True
    >>> equal_numbers(parse_number("50%"), parse_number("0.5"))
    True
    """
    approximately = number.is_decimal or truth.is_decimal
    if are_close(number.value, truth.value, approximately):
        return True
    if number.is_percentage == truth.is_percentage:
        return False
    scale = [Fraction(1, 100) if one.is_percentage else Fraction(1) for one in (number, truth)]
    return are_close(number.value * scale[0], truth.value * scale[1], approximately)


def are_close(value: Fraction, truth: Fraction, approximately: bool) -> bool:
    """Whether ``value`` is ``truth``, or ``approximately``: to six decimal places, or significant digits if small."""
    if value == truth or not approximately:
        return value == truth
    if min(abs(value), abs(truth)) < SMALL_NUMBER:
        return abs(value - truth) <= abs(truth) / 10**6
    return abs(value - truth) <= DECIMAL_TOLERANCE


def _value_of(parts: dict[str, str | None]) -> Fraction:
    if parts["top"] is not None:
        return Fraction(parts["whole"] or 0) + _fraction(parts["top"]) / _fraction(parts["bottom"])
    if parts["numerator"] is not None:
        return _fraction(parts["numerator"]) / _fraction(parts["denominator"])
    if parts["mantissa"] is not None:
        return _fraction(parts["mantissa"]) * Fraction(10) ** int(parts["exponent"].strip("{}"))
    if parts["power"] is not None:
        return Fraction(10) ** int(parts["power"].strip("{}"))
    return _fraction(parts["decimal"])


def _fraction(decimal: str) -> Fraction:
    return Fraction(decimal.replace(",", "").rstrip("."))
