"""Fractions of a source: written as decimals or as `1/256`, counted exactly."""

from fractions import Fraction as Rational
from math import floor
from typing import Annotated, Any

from pydantic import BeforeValidator


def parse_fraction(value: Any) -> Any:
    """`"1/256"` -> 0.00390625; everything else is left to the field's own validation."""
    if isinstance(value, str) and "/" in value:
        try:
            return float(Rational(value.replace(" ", "")))
        except (ValueError, ZeroDivisionError) as error:
            raise ValueError(f"{value!r} is not a fraction; write it as 1/256 or 0.25") from error
    return value


Fraction = Annotated[float, BeforeValidator(parse_fraction)]
"""A config field for a share of a source; >= 0, above 1 repeats rows."""


def rational(fraction: float) -> Rational:
    """The simplest fraction beside a float, 1/10 for 0.1, so that 0.1 of 5 rows is exactly a half."""
    return Rational(fraction).limit_denominator(1_000_000)


def count(fraction: float, rows: int) -> int:
    """How many of `rows` rows a fraction takes, halves rounded up: 1/256 of 110,142 is 430."""
    return floor(rational(fraction) * rows + Rational(1, 2))
