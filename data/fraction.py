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


def count(fraction: float, rows: int) -> int:
    """How many of `rows` rows a fraction takes, halves rounded up: 1/256 of 110,142 is 430.

    A float such as 0.1 stands for the short decimal that prints as it, so that 0.1 of 5 rows is exactly a half.
    """
    exact = Rational(fraction) if _is_dyadic(fraction) else Rational(repr(float(fraction)))
    nearest = exact.limit_denominator(1_000_000) if abs(exact - exact.limit_denominator(1_000_000)) < 1e-15 else exact
    return floor(nearest * rows + Rational(1, 2))


def _is_dyadic(fraction: float) -> bool:
    """Whether the float is exactly a small power-of-two fraction such as 1/256."""
    return Rational(fraction).denominator <= 2**20
