"""Unit conversion by pint with exact factors: 1 inch is 127/50 centimetres, not 2.5400000000000005.

A unit is untrusted text that pint evaluates, so this runs in a child that is killed at its deadline.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING, Any

from mcp_servers.failures import ToolFailure, nearest_names

if TYPE_CHECKING:
    import pint

MAX_CHARS = 80
"""Characters of a unit."""
MAX_EXPONENT = 12
"""Exponent of a unit, as in `m**3`."""


def convert(amount: Fraction, source: str, target: str) -> Fraction:
    """Return an amount in another unit.

    Raises:
        ToolFailure: A unit is unknown, or the two measure different quantities.
    """
    import pint

    one, other = _unit(source), _unit(target)
    try:
        converted: Any = _registry().Quantity(amount, one).to(other).magnitude
        return Fraction(converted)
    except pint.DimensionalityError as error:
        raise ToolFailure(
            f"{source!r} measures {_measures(one)} and {target!r} measures {_measures(other)}; they do not "
            f"convert."
        ) from error
    except (pint.PintError, ValueError, ArithmeticError, TypeError) as error:  # for example logarithmic units
        raise ToolFailure(f"{source!r} cannot be converted to {target!r}.") from error


def _unit(text: str) -> pint.Unit:
    import pint

    if len(text) > MAX_CHARS:
        raise ToolFailure(f"A unit has at most {MAX_CHARS} characters; {text[:20]!r}... has {len(text)}.")
    try:
        unit: Any = _registry().parse_units(text.strip())
    except pint.UndefinedUnitError as error:
        name = str(error.args[0] if isinstance(error.args[0], str) else error.args[0][0])
        near = nearest_names(name, _names())
        meant = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ToolFailure(f"Unknown unit {name!r}.{meant} Units are written like km/h, ft, degC, kW*h.") from error
    except Exception as error:  # the parser raises arbitrary exceptions
        raise ToolFailure(f"{text!r} is no unit. Units are written like km/h, ft, degC, kW*h, m**2.") from error
    exponents = dict(unit._units).values()  # pyright: ignore[reportPrivateUsage] - no public access
    if any(abs(exponent) > MAX_EXPONENT for exponent in exponents):
        raise ToolFailure(f"{text!r} has an exponent above {MAX_EXPONENT}.")
    return unit


def _measures(unit: pint.Unit) -> str:
    """Return a unit's dimensions, such as length / time**2; pint's own text fails on fractional exponents."""
    powers: dict[str, Any] = {name.strip("[]"): power for name, power in unit.dimensionality.items()}
    above = [name if power == 1 else f"{name}**{power}" for name, power in powers.items() if power > 0]
    below = [name if power == -1 else f"{name}**{-power}" for name, power in powers.items() if power < 0]
    if not powers:
        return "a plain number"
    return " / ".join([" * ".join(above) or "1", *below])


@cache
def _names() -> tuple[str, ...]:
    return tuple(dir(_registry()))


@cache
def _registry() -> pint.UnitRegistry[Any]:
    """Return the units; created on first use, which takes a fifth of a second."""
    import pint

    exact: Any = Fraction  # pint declares only float, and accepts any type
    return pint.UnitRegistry(non_int_type=exact, autoconvert_offset_to_baseunit=True)
