r"""Reads numbers with their surroundings (currency, percent, units, thousands) as exact fractions.

Examples: `$1,234.50`, `\frac{3}{4}`, `-3/4`, `50\%`, `18 apples`, `5\text{ cm}`. Exponents are not read, since
`1e999999999` has only eleven characters but its fraction fits into no memory.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

MAX_CHARS = 120
"""Maximum length of a text that is read as a number, in characters."""
UNITS = frozenset(
    {
        "mm", "cm", "m", "km", "in", "ft", "yd", "mi", "mg", "g", "kg", "lb", "lbs", "oz", "ml", "l", "L",
        "mph", "kph", "s", "sec", "min", "h", "hr", "hrs", "deg", "degree", "degrees", "radians", "second",
        "seconds", "minute", "minutes", "hour", "hours", "day", "days", "week", "weeks", "month", "months",
        "year", "years", "inch", "inches", "foot", "feet", "yard", "yards", "mile", "miles", "meter", "meters",
        "metre", "metres", "centimeter", "centimeters", "kilometer", "kilometers", "gram", "grams", "kilogram",
        "kilograms", "pound", "pounds", "ounce", "ounces", "liter", "liters", "litre", "litres", "gallon",
        "gallons", "dollar", "dollars", "cent", "cents", "euro", "euros", "usd", "eur", "percent", "unit",
        "units",
    }
)  # fmt: skip
"""Words accepted as units directly after a number. Other letters there may be variables (`5x`)."""

_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,60}(?:\.[0-9]{0,60})?|\.[0-9]{1,60})")
_GROUPED = re.compile(r"[+-]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?(?![0-9,])")
_LATEX_FRACTION = re.compile(r"([+-]?)\\[dt]?frac\{([+-]?[0-9]{1,60})\}\{([+-]?[0-9]{1,60})\}")
_SHORT_FRACTION = re.compile(r"([+-]?)\\[dt]?frac([0-9])([0-9])(?![0-9])")
_TEXT_COMMAND = re.compile(r"\\(?:text|textrm|mathrm|mbox)\s{0,2}\{([^{}]*)\}")
_UNIT_WORD = r"[A-Za-z]{1,20}(?:[²³]|\^[23])?"
_UNIT = re.compile(rf"{_UNIT_WORD}(?:(?:[ ]|/){_UNIT_WORD}){{0,2}}")
_NO_UNIT = frozenset({"or", "and", "to", "not", "if", "is", "x"})
"""Words that change the meaning of the number before them."""


class Quantity(NamedTuple):
    """Number with its unit and percent sign."""

    value: Fraction
    is_percent: bool
    unit: str
    """Unit in lower case; empty if there is none."""


def as_quantity(text: str) -> Quantity | None:
    """Return the number that a text denotes; None if it denotes something else."""
    if len(text) > MAX_CHARS:
        return None
    bare = tidy(text)
    read = _value(bare)
    if read is None:
        return None
    value, rest = read
    rest = rest.strip()
    is_percent = rest.startswith(("%", "\\%"))
    if is_percent:
        rest = rest.lstrip("\\%").strip()
    if rest.lower() in ("percent", "per cent"):
        return Quantity(value, True, "")
    unit = rest.rstrip(".").replace("^\\circ", "degrees").replace("°", "degrees").strip()
    if unit and (not _UNIT.fullmatch(unit) or not _NO_UNIT.isdisjoint(unit.lower().split())):
        return None
    glued = bool(unit) and not bare[: len(bare) - len(rest)].endswith((" ", "\t"))
    if glued and unit.lower() not in UNITS and unit not in UNITS:
        return None  # 5x is a product
    return Quantity(value, is_percent, unit.lower())


def tidy(text: str) -> str:
    r"""Return a text without LaTeX spacing, dollar signs, `\text{}` and a final full stop."""
    text = _TEXT_COMMAND.sub(lambda match: f" {match.group(1)} ", text.strip())
    text = text.replace("\\$", "$")
    text = re.sub(r"\\[!,;:]|\\(?:left|right|displaystyle)(?![A-Za-z])|[$€£¥]", "", text)
    return text.replace("−", "-").replace("\\ ", " ").strip().rstrip(".").strip()


def equal_quantities(gold: Quantity, answer: Quantity) -> bool:
    """Return whether two numbers are equal.

    The comparison is exact. A percent sign on only one side may be decoration (50 for 50 %) or significant (0.5
    for 50 %); both match. An answer may omit the unit, but if gold and answer both have a unit, it must be the
    same.
    """
    if gold.unit and answer.unit and _singular(gold.unit) != _singular(answer.unit):
        return False
    if gold.value == answer.value:
        return True
    if gold.is_percent == answer.is_percent:
        return False
    whole, percent = (answer, gold) if gold.is_percent else (gold, answer)
    return whole.value == percent.value / 100


def _singular(unit: str) -> str:
    return unit.removesuffix("s")


def _value(text: str) -> tuple[Fraction, str] | None:
    """Return the number at the beginning of a text, and the rest."""
    for pattern in (_LATEX_FRACTION, _SHORT_FRACTION):
        if match := pattern.match(text):
            sign, above, below = match.groups()
            return _quotient(f"{sign}1", above, below, text[match.end() :])
    match = _GROUPED.match(text) or _NUMBER.match(text)
    if match is None:
        return None
    number, rest = match.group().replace(",", ""), text[match.end() :]
    if over := re.match(r"\s{0,3}/\s{0,3}([0-9]{1,60})(?![0-9.])", rest):
        return _quotient("1", number, over.group(1), rest[over.end() :])
    return Fraction(number.rstrip(".")), rest


def _quotient(sign: str, above: str, below: str, rest: str) -> tuple[Fraction, str] | None:
    if Fraction(below) == 0:
        return None
    return Fraction(sign) * Fraction(above.rstrip(".")) / Fraction(below), rest
