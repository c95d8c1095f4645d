"""Numbers, shares, money, angles, and measures, in natural wording with the value for the call.

A measure is worded in a unit of its own ("half a kilo", "an hour and a half", "2 km"), while the call uses the
unit in the parameter's description. Conversions are exact, so the model never has to guess a rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from modelstack.data.tools.spoken import COPIED, Scene, Spoken, in_words


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit used in wording: its names, its size in the base unit, and common amounts."""

    one: str
    many: str
    size: Fraction
    amounts: tuple[int, ...]
    short: str = ""


def _unit(one: str, many: str, size: str | int, amounts: str, short: str = "") -> Unit:
    return Unit(one, many, Fraction(size), tuple(int(a) for a in amounts.split()), short)


_SECOND = _unit("second", "seconds", 1, "5 10 15 20 30 45 90", "s")
_MINUTE = _unit("minute", "minutes", 60, "1 2 3 5 10 12 15 20 25 30 40 45 50 90", "min")
_HOUR = _unit("hour", "hours", 3600, "1 2 3 4 5 6 8 12", "h")
_DAY = _unit("day", "days", 86400, "1 2 3 4 5 7 10 14 30")
_WEEK = _unit("week", "weeks", 604800, "1 2 3 4 6")
_MONTH = _unit("month", "months", 1, "2 3 4 6 9 18")
_YEAR = _unit("year", "years", 12, "1 2 3 5 10 15 20 25 30")
_MM = _unit("millimetre", "millimetres", "1/1000", "3 5 8 12 40 250", "mm")
_CM = _unit("centimetre", "centimetres", "1/100", "5 10 15 30 45 60 80 120 172", "cm")
_M = _unit("metre", "metres", 1, "1 2 3 5 8 10 20 50 100 200 400 800", "m")
_KM = _unit("kilometre", "kilometres", 1000, "1 2 3 5 8 10 12 21 42 60 150", "km")
_G = _unit("gram", "grams", 1, "5 50 80 100 150 200 250 300 400 500 750", "g")
_KG = _unit("kilo", "kilos", 1000, "1 2 3 4 5 8 10 12 20 70", "kg")
_ML = _unit("millilitre", "millilitres", 1, "20 50 100 150 200 250 330 500 750", "ml")
_L = _unit("litre", "litres", 1000, "1 2 3 4 5 10 40", "l")

MEASURES: Mapping[str, tuple[Fraction, tuple[Unit, ...], tuple[int, ...]]] = {
    # unit of the call -> its size, the units used in wording, the plausible range (in base units)
    "seconds": (Fraction(1), (_SECOND, _MINUTE, _HOUR), (5, 7200)),
    "minutes": (Fraction(60), (_MINUTE, _MINUTE, _HOUR), (60, 43200)),
    "hours": (Fraction(3600), (_HOUR, _HOUR, _DAY), (1800, 259200)),
    "days": (Fraction(86400), (_DAY, _DAY, _WEEK), (86400, 3000000)),
    "months": (Fraction(1), (_MONTH, _YEAR), (2, 400)),
    "years": (Fraction(12), (_YEAR,), (12, 400)),
    "millimetres": (Fraction(1, 1000), (_MM, _CM, _M), (0, 4)),
    "centimetres": (Fraction(1, 100), (_CM, _CM, _M), (0, 4)),
    "metres": (Fraction(1), (_M, _M, _KM), (1, 60000)),
    "kilometres": (Fraction(1000), (_KM, _KM, _M), (500, 200000)),
    "grams": (Fraction(1), (_G, _G, _KG), (5, 5000)),
    "kilograms": (Fraction(1000), (_KG, _KG, _G), (100, 90000)),
    "millilitres": (Fraction(1), (_ML, _L), (20, 3000)),
    "litres": (Fraction(1000), (_L, _L, _ML), (250, 60000)),
}
WHOLE_MEASURES = ("seconds", "minutes", "days", "months", "years", "millimetres", "metres", "grams", "millilitres")
"""Measures with integer parameters."""


def whole(now: Scene, low: int, high: int) -> Spoken:
    """Return a whole number, small ones sometimes as a word."""
    n = now.random.randrange(low, high + 1)
    if n >= 1000 and n % 100 and now.chance(0.5):
        n -= n % 100
    return said_whole(now, n)


def said_whole(now: Scene, n: int) -> Spoken:
    """Return a given whole number with its wording."""
    if 0 <= n <= 20 and now.chance(0.4):
        return Spoken(n, in_words(n), "number_word")
    if n >= 1000 and n % 1000 == 0 and now.chance(0.3):
        return Spoken(n, f"{in_words(n // 1000)} thousand" if n < 20000 else f"{n // 1000}k", "number_word")
    if n >= 1000 and now.chance(0.35):
        return Spoken(n, f"{n:,}", "number_format")
    if n == 12 and now.chance(0.3):
        return Spoken(n, "a dozen", "number_word")
    return Spoken(n, str(n))


def decimal(now: Scene, low: int, high: int, digits: int) -> Spoken:
    """Return a number with up to `digits` decimals, sometimes as "two and a half"."""
    n = now.random.randrange(low, high + 1)
    if n < 20 and now.chance(0.15):
        return Spoken(n + 0.5, f"{in_words(n)} and a half" if n else "half", "number_word")
    if now.chance(0.35):
        return said_whole(now, n) if n else Spoken(1, "1")
    places = now.random.randrange(1, digits + 1)
    value = round(n + now.random.randrange(1, 10**places) / 10**places, places)
    return Spoken(value, str(value))


def percent(now: Scene) -> Spoken:
    """Return a share in percent."""
    share, said, rule = _share(now)
    return Spoken(_number(share), said, rule)


def fraction(now: Scene) -> Spoken:
    """Return a share as a number from 0 to 1."""
    share, said, rule = _share(now)
    if now.chance(0.25):
        value = _number(share / 100)
        return Spoken(value, str(value))
    return Spoken(_number(share / 100), said, "percent_as_fraction" if rule == COPIED else rule)


def degrees(now: Scene) -> Spoken:
    """Return an angle in degrees, sometimes as a part of a turn."""
    if now.chance(0.5):
        said, value = now.one(
            [("a quarter turn", 90), ("half a turn", 180), ("a full turn", 360), ("a right angle", 90)]
            + [("three quarters of a turn", 270)]
        )
        return Spoken(value, said, "turn")
    value = now.one([15, 30, 45, 60, 75, 90, 120, 135, 180, 270])
    return Spoken(value, now.one([f"{value} degrees", f"{value}°"]), "unit")


def money(now: Scene, low: int, high: int) -> Spoken:
    """Return an amount of money; the currency is fixed by the parameter or not requested."""
    n = now.random.randrange(low, high + 1)
    if now.chance(0.35):
        value = round(n + now.one([0.5, 0.99, 0.25, 0.9, 0.05]), 2)
        return Spoken(value, f"{value:.2f}", COPIED if f"{value:.2f}" == str(value) else "number_format")
    if n > 100:
        n -= n % 10
    return said_whole(now, n)


def priced(now: Scene, currency: str, low: int, high: int) -> Spoken:
    """Return an amount worded with its currency, "$1,250" or "1250 dollars"; the value is the number."""
    plain = money(now, low, high)
    if plain.value >= 2000 and now.chance(0.35):
        plain = said_whole(now, int(plain.value) // 1000 * 1000)
    sign = {"dollars": "$", "euros": "€"}[currency]
    written = f"{plain.value:,}" if now.chance(0.6) else f"{plain.value}"
    if isinstance(plain.value, int) and plain.value >= 1000 and plain.value % 1000 == 0 and now.chance(0.3):
        written = f"{plain.value // 1000}k"
    said = now.one([f"{sign}{written}", f"{sign}{written}", f"{plain.said} {currency}", f"{written} {currency}"])
    return Spoken(plain.value, said, "money_form")


def level(now: Scene) -> Spoken:
    """Return the level of an opening or a control, in percent."""
    value = now.one([0, 25, 50, 75, 100, 100, 50, 10, 30, 40, 60, 80, 90])
    ways = {
        0: ("all the way down", "zero", "0%"),
        25: ("a quarter of the way", "25 percent", "25%"),
        50: ("halfway", "half", "50%", "fifty percent"),
        75: ("three quarters", "75 %"),
        100: ("all the way", "the maximum", "full", "100 percent"),
    }
    said = now.one(ways.get(value, (f"{value}%", f"{value} percent", f"{in_words(value)} percent")))
    return Spoken(value, said, "level_word" if str(value) not in said else COPIED)


def level_fraction(now: Scene) -> Spoken:
    """Return a level as a number from 0 to 1."""
    percent_level = level(now)
    return Spoken(_number(Fraction(percent_level.value, 100)), percent_level.said, "level_word")


def compass(now: Scene) -> Spoken:
    """Return a direction in degrees from north, clockwise."""
    if now.chance(0.3):
        value = now.random.randrange(5, 355, 5)
        return Spoken(value, now.one([f"{value} degrees", f"{value}°"]), "unit")
    names = ("north", "northeast", "east", "southeast", "south", "southwest", "west", "northwest")
    index = now.random.randrange(8)
    said = now.one(("due {}", "{}", "the {}")).format(names[index])
    return Spoken(45 * index, said if index % 2 == 0 else names[index], "compass")


def up_or_down(now: Scene) -> Spoken:
    """Return a distance in metres, positive upwards and negative downwards."""
    amount = now.one([1, 2, 3, 4, 5, 6, 8, 10, 0.5, 1.5, 2.5])
    words = {0.5: "half a metre", 1.5: "a metre and a half", 2.5: "two and a half metres", 1: "one metre"}
    text = words.get(amount) or now.one((f"{amount} metres", f"{amount} m", f"{in_words(int(amount))} metres"))
    sign, way = now.one([(1, "up"), (-1, "down")])
    return Spoken(sign * amount, f"{text} {way}", "signed")


def left_or_right(now: Scene) -> Spoken:
    """Return an angle in degrees, positive to the right and negative to the left."""
    amount, text = now.one(
        [(90, "a quarter turn"), (180, "half a turn"), (15, "15 degrees"), (30, "thirty degrees"), (45, "45°")]
        + [(60, "60 degrees"), (5, "five degrees")]
    )
    sign, way = now.one([(1, "to the right"), (-1, "to the left"), (1, "right"), (-1, "left")])
    return Spoken(sign * amount, f"{text} {way}", "signed")


def times(now: Scene) -> Spoken:
    """Return a number of repetitions."""
    n = now.one([1, 2, 2, 3, 3, 4, 5, 6])
    return Spoken(n, {1: "once", 2: "twice"}.get(n) or f"{now.one([str(n), in_words(n)])} times", "times_word")


def body_height(now: Scene) -> Spoken:
    """Return the height of a person in centimetres."""
    n = now.random.randrange(145, 204)
    metres = f"{n // 100}.{n % 100:02}"
    said = now.one(
        [f"{n} cm", f"{metres} m", f"{metres} metres", f"{n} centimetres", f"{n // 100} metre {n % 100}"]
    )
    return Spoken(
        n, said if n % 100 >= 10 else f"{n} cm", "unit_converted" if "m" in said and "." in said else "unit"
    )


def celsius(now: Scene, low: int, high: int) -> Spoken:
    """Return a temperature in degrees Celsius."""
    n = now.random.randrange(low, high + 1)
    if now.chance(0.3) and n > 0:
        return Spoken(
            n + 0.5, now.one([f"{n + 0.5} degrees", f"{n + 0.5}°C", f"{in_words(n)} and a half degrees"])
        )
    return Spoken(n, now.one([f"{n} degrees", f"{n}°C", f"{n}°", f"{n} degrees Celsius"]), "unit")


def measure(now: Scene, counted_in: str) -> Spoken:
    """Return an amount in the unit `counted_in` (a key of `MEASURES`), worded in the same or another unit."""
    allowed = (1,) if counted_in in WHOLE_MEASURES else (1, 2, 4, 5, 10, 20, 100, 1000)
    size, units, (low, high) = MEASURES[counted_in]
    for _ in range(50):
        unit = now.one(units)
        said, amount, is_word = _amount(now, unit)
        value = amount * unit.size / size
        fits = low <= amount * unit.size <= high and value.denominator in allowed
        if fits:
            same = unit.size == size
            return Spoken(
                _number(value), said, ("number_word" if is_word else "unit") if same else "unit_converted"
            )
    amount = Fraction(units[0].amounts[0])
    return Spoken(_number(amount * units[0].size / size), f"{amount} {units[0].many}", "unit")


def _amount(now: Scene, unit: Unit) -> tuple[str, Fraction, bool]:
    """Return the wording, the amount in the unit, and whether a number is written as a word."""
    an = "an" if unit.one[0] in "aeiou" or unit.one == "hour" else "a"
    if unit.size >= 60 or unit.one in ("metre", "litre"):
        if now.chance(0.12):
            return f"half {an} {unit.one}", Fraction(1, 2), True
        if now.chance(0.1):
            return now.one([f"{an} {unit.one} and a half", f"one and a half {unit.many}"]), Fraction(3, 2), True
        if now.chance(0.06):
            return f"two and a half {unit.many}", Fraction(5, 2), True
    if unit.one == "hour" and now.chance(0.15):
        return now.one(["three quarters of an hour", "45 minutes"]), Fraction(3, 4), True
    n = now.one(unit.amounts)
    if n == 1:
        return now.one([f"{an} {unit.one}", f"one {unit.one}", f"1 {unit.one}"]), Fraction(1), True
    if unit.short and now.chance(0.35):
        return now.one([f"{n} {unit.short}", f"{n} {unit.short}", f"{n}{unit.short}"]), Fraction(n), False
    if n <= 12 and now.chance(0.4):
        return f"{in_words(n)} {unit.many}", Fraction(n), True
    if unit.size >= 1000 and n < 10 and now.chance(0.25):
        return f"{n}.5 {unit.short or unit.many}", Fraction(2 * n + 1, 2), False
    return f"{n} {unit.many}", Fraction(n), False


def _share(now: Scene) -> tuple[Fraction, str, str]:
    if now.chance(0.2):
        said, value = now.one([("half", 50), ("a quarter", 25), ("three quarters", 75), ("a tenth", 10)])
        return Fraction(value), said, "share_word"
    n = now.one([Fraction(k) for k in (2, 3, 4, 5, 6, 8, 10, 12, 15, 18, 20, 25, 30, 40, 60, 80)])
    if n < 20 and now.chance(0.3):
        n += Fraction(now.one([1, 3]), 4) if now.chance(0.4) else Fraction(1, 2)
    number = str(_number(n))
    said = now.one([f"{number}%", f"{number} percent", f"{number} %"])
    if n.denominator == 1 and n <= 20 and now.chance(0.25):
        return n, f"{in_words(int(n))} percent", "number_word"
    return n, said, COPIED


def _number(value: Fraction) -> int | float:
    return int(value) if value.denominator == 1 else float(value)
