"""Exact arithmetic on a model's expressions: parsed, never evaluated as Python.

Numbers are fractions of any length: 0.1 + 0.2 is 0.3, and 1/3 stays a third. Roots, logarithms and angles leave
the rational numbers; they are computed to 50 digits (mpmath), and the result is marked as rounded. Sizes are
checked before each computation, so no expression takes long.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

from mcp_servers.failures import ToolFailure, suggestion

MAX_CHARS = 1_000
"""Characters of an expression."""
MAX_BITS = 14_000
"""Bits of a numerator or denominator: some 4,200 digits; Python prints no integer of more than 4,300."""
MAX_DEPTH = 60
"""Nested parentheses and operators of an expression."""
SHOWN_DIGITS = 20
DIGITS = 50
"""Decimal digits of computations that are not exact."""
MAX_FACTORIAL = 1_000
"""Largest number whose factorial is computed."""
LARGEST_ANGLE = 10**15
_PERCENT_OF = re.compile(r"(\d{1,40}(?:\.\d{1,40})?) ?(?:%|percent) ?of ?")
"""A percentage as people write it: 17% of 640."""


@dataclass(frozen=True, slots=True)
class Value:
    """Result of an expression."""

    exact: Fraction | None
    """Exact value; None if it was rounded."""
    rounded: Any = None
    """Value as an mpmath number; None if it is exact."""

    @property
    def is_whole_truth(self) -> bool:
        """True if `decimal` shows the exact value."""
        exact = self.exact
        return exact is not None and (exact.denominator == 1 or _ending_decimal(exact, SHOWN_DIGITS) is not None)

    def decimal(self) -> str:
        """Return a decimal: complete if it ends within `SHOWN_DIGITS` places, else to `SHOWN_DIGITS` digits."""
        digits = SHOWN_DIGITS
        if self.exact is None:
            return _mp().nstr(self.rounded, digits, strip_zeros=True)
        if self.exact.denominator == 1:
            return str(self.exact.numerator)
        ending = _ending_decimal(self.exact, digits)
        if ending is not None:
            return ending
        mp = _mp()
        return mp.nstr(mp.mpf(self.exact.numerator) / self.exact.denominator, digits, strip_zeros=True)


def calculate(expression: str) -> Value:
    """Return the value of an expression.

    Raises:
        ToolFailure: It is not an expression, has no value, or is too large.
    """
    if len(expression) > MAX_CHARS:
        raise ToolFailure(f"The expression has {len(expression):,} characters; at most {MAX_CHARS:,} are read.")
    source = expression.strip().replace("^", "**").replace("×", "*").replace("÷", "/").replace("−", "-")
    source = _PERCENT_OF.sub(r"(\1/100)*", source)
    try:
        tree = ast.parse(source, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ToolFailure(
            f"{expression!r} is no expression. Write numbers without commas or units, + - * / // % **, brackets "
            f"and {', '.join(sorted(_FUNCTIONS))}; 15 percent of 80 is 80*15/100."
        ) from error
    try:
        return _Reader(source).value(tree.body, 0)
    except ZeroDivisionError as error:
        raise ToolFailure("Division by zero has no value.") from error
    except (ValueError, OverflowError, RecursionError) as error:
        raise ToolFailure(f"{expression!r} has no value that can be computed: {error}.") from error


class _Reader:
    """Evaluates one expression by walking its syntax tree."""

    def __init__(self, source: str) -> None:
        self._source = source

    def value(self, node: ast.expr, depth: int) -> Value:
        if depth > MAX_DEPTH:
            raise ToolFailure(f"The expression is nested more than {MAX_DEPTH} deep; compute it in parts.")
        match node:
            case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
                return Value(_number(ast.get_source_segment(self._source, node) or ""))
            case ast.Name(id=name) if name in _CONSTANTS:
                return Value(None, _CONSTANTS[name]())
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self.value(operand, depth + 1)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                inner = self.value(operand, depth + 1)
                return Value(None if inner.exact is None else -inner.exact, _negated(inner.rounded))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS or isinstance(op, ast.Pow):
                one, other = self.value(left, depth + 1), self.value(right, depth + 1)
                return (
                    _power(one, other) if isinstance(op, ast.Pow) else _combined(_OPERATORS[type(op)], one, other)
                )
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                return _called(name, [self.value(each, depth + 1) for each in arguments])
            case _:
                part = ast.get_source_segment(self._source, node) or ""
                known = {**_FUNCTIONS, **_CONSTANTS}
                hint = suggestion(part, known) if isinstance(node, ast.Name) else ""
                raise ToolFailure(
                    f"{part[:80]!r} is no arithmetic.{hint} Use numbers, + - * / // % **, brackets, and "
                    f"{', '.join(sorted(known))}."
                )


def _number(text: str) -> Fraction:
    text = text.replace("_", "")
    mantissa, _, exponent = text.lower().partition("e")
    if text.lower().startswith(("0x", "0o", "0b")):
        return _bounded(Fraction(int(text, 0)))
    if exponent and abs(int(exponent)) > MAX_BITS // 4:
        raise ToolFailure(f"{text} is too large or too small: at most {MAX_BITS // 4:,} decimal places.")
    return _bounded(Fraction(mantissa) * Fraction(10) ** int(exponent or 0))


def _combined(operate: Callable[[Any, Any], Any], one: Value, other: Value) -> Value:
    if operate is operator.floordiv:  # mpmath has no floor division
        return _to_whole(math.floor)(_combined(operator.truediv, one, other))
    if one.exact is not None and other.exact is not None:
        return Value(_bounded(Fraction(operate(one.exact, other.exact))))
    return Value(None, _finite(operate(_approximate(one), _approximate(other))))


def _power(base: Value, exponent: Value) -> Value:
    if base.exact is not None and exponent.exact is not None:
        if exponent.exact.denominator == 1:
            return Value(_integer_power(base.exact, exponent.exact.numerator))
        root = _exact_root(base.exact, exponent.exact)
        if root is not None:
            return Value(root)
    if _approximate(base) < 0:
        raise ToolFailure("A negative number to a power that is no whole number is not real.")
    one, other = _approximate(base), _approximate(exponent)
    if one == 0 and other < 0:
        raise ZeroDivisionError
    if one != 0 and abs(_mp().log(one, 2) * other) > MAX_BITS:
        raise ToolFailure(f"The power has more than {MAX_BITS * 3 // 10:,} digits; that is too large to compute.")
    return Value(None, _finite(one**other))


def _integer_power(base: Fraction, exponent: int) -> Fraction:
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if bits > 1 and (bits - 1) * abs(exponent) > MAX_BITS:  # the power has at least this many bits
        raise ToolFailure(f"The power has more than {MAX_BITS * 3 // 10:,} digits; that is too large to compute.")
    if abs(exponent) > MAX_BITS:  # only for 0, 1 and -1
        exponent = exponent % 2 or (2 if exponent > 0 else -2)
    return _bounded(base**exponent)


def _exact_root(base: Fraction, exponent: Fraction) -> Fraction | None:
    """Return base**exponent if the exponent is a half-integer and the result is rational; else None."""
    if exponent.denominator != 2 or base < 0:
        return None
    numerator, denominator = math.isqrt(base.numerator), math.isqrt(base.denominator)
    if (numerator * numerator, denominator * denominator) != (base.numerator, base.denominator):
        return None
    return _integer_power(Fraction(numerator, denominator), exponent.numerator)


def _called(name: str, arguments: Sequence[Value]) -> Value:
    function = _FUNCTIONS.get(name)
    if function is None:
        raise ToolFailure(f"There is no function {name!r}.{suggestion(name, _FUNCTIONS)}")
    low, high, compute = function
    if not low <= len(arguments) <= high:
        raise ToolFailure(
            f"{name} takes {low if low == high else f'{low} or more'} numbers; {len(arguments)} given."
        )
    return compute(*arguments)


def _exactly(compute: Callable[..., Any]) -> Callable[..., Value]:
    """Wrap a function of numbers for exact and rounded values."""

    def apply(*values: Value) -> Value:
        if all(value.exact is not None for value in values):
            return Value(_bounded(Fraction(compute(*(value.exact for value in values)))))
        return Value(None, _finite(compute(*(_approximate(value) for value in values))))

    return apply


def _whole(compute: Callable[..., int], *, largest: int | None = None) -> Callable[..., Value]:
    """Wrap a function of whole numbers for values."""

    def apply(*values: Value) -> Value:
        numbers: list[int] = []
        for value in values:
            if value.exact is None or value.exact.denominator != 1:
                raise ToolFailure(f"{value.decimal()} is no whole number, which this function needs.")
            if largest is not None and abs(value.exact) > largest:
                raise ToolFailure(f"{value.decimal()} is too large here: at most {largest:,}.")
            numbers.append(value.exact.numerator)
        return Value(_bounded(Fraction(compute(*numbers))))

    return apply


def _rounded(name: str, *, largest: int | None = None) -> Callable[..., Value]:
    """Wrap a function of mpmath for values; beyond `largest`, results take too long and lose their meaning."""

    def apply(value: Value) -> Value:
        if largest is not None and abs(_approximate(value)) > largest:
            raise ToolFailure(f"{name} is computed of numbers up to {largest:,}.")
        result = getattr(_mp(), name)(_approximate(value))
        if not isinstance(result, _mp().mpf):
            raise ToolFailure(f"{name} of {value.decimal()} is not a real number.")
        return Value(None, _finite(result))

    return apply


def _to_whole(compute: Callable[[Fraction], int]) -> Callable[..., Value]:
    """Wrap a function that rounds to whole numbers for values; its result is exact."""

    def apply(value: Value) -> Value:
        return Value(_bounded(Fraction(compute(_exact(value)))))

    return apply


def _sqrt(value: Value) -> Value:
    return _power(value, Value(Fraction(1, 2)))


def _round(value: Value, places: Value = Value(Fraction(0))) -> Value:
    """Round half away from zero, as usual in everyday arithmetic, not half to even."""
    if places.exact is None or places.exact.denominator != 1 or abs(places.exact) > 1_000:
        raise ToolFailure("round takes a number and how many decimal places, a whole number up to 1,000.")
    scale = Fraction(10) ** places.exact.numerator
    exact = _exact(value)
    scaled = abs(exact) * scale
    whole = math.floor(scaled + Fraction(1, 2))
    return Value(_bounded(Fraction(whole) / scale * (-1 if exact < 0 else 1)))


def _exact(value: Value) -> Fraction:
    if value.exact is not None:
        return value.exact
    sign, mantissa, exponent, _ = cast("tuple[int, int, int, int]", value.rounded._mpf_)
    size = _bounded(Fraction(int(mantissa)) * _integer_power(Fraction(2), int(exponent)))
    return -size if sign else size


def _approximate(value: Value) -> Any:
    if value.exact is None:
        return value.rounded
    return _mp().mpf(value.exact.numerator) / value.exact.denominator


def _negated(number: Any) -> Any:
    return None if number is None else -number


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise ToolFailure(f"A number here has more than {MAX_BITS * 3 // 10:,} digits; that is too large.")
    return value


def _finite(number: Any) -> Any:
    if not _mp().isfinite(number):
        raise ToolFailure("There is no finite value.")
    return number


def _ending_decimal(value: Fraction, digits: int) -> str | None:
    """Return a fraction as a decimal; None if it does not end within `digits` places."""
    scaled = value * 10**digits
    if scaled.denominator != 1:
        return None
    sign, whole = "-" if value < 0 else "", str(abs(scaled.numerator)).rjust(digits + 1, "0")
    return f"{sign}{whole[:-digits]}.{whole[-digits:]}".rstrip("0").rstrip(".")


def _mp() -> Any:
    """Return mpmath with the precision set; imported on first use."""
    from mpmath import mp

    mp.dps = DIGITS
    return mp


_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_CONSTANTS: dict[str, Callable[[], Any]] = {"pi": lambda: +_mp().pi, "e": lambda: +_mp().e}
_MANY = 100
_FUNCTIONS: dict[str, tuple[int, int, Callable[..., Value]]] = {
    "abs": (1, 1, _exactly(abs)),
    "min": (1, _MANY, _exactly(lambda *numbers: min(numbers))),
    "max": (1, _MANY, _exactly(lambda *numbers: max(numbers))),
    "sum": (1, _MANY, _exactly(lambda *numbers: sum(numbers[1:], numbers[0]))),
    "mean": (1, _MANY, _exactly(lambda *numbers: sum(numbers[1:], numbers[0]) / len(numbers))),
    "floor": (1, 1, _to_whole(math.floor)),
    "ceil": (1, 1, _to_whole(math.ceil)),
    "round": (1, 2, _round),
    "gcd": (1, _MANY, _whole(math.gcd)),
    "lcm": (1, _MANY, _whole(math.lcm)),
    "factorial": (1, 1, _whole(math.factorial, largest=MAX_FACTORIAL)),
    "comb": (2, 2, _whole(math.comb, largest=MAX_FACTORIAL)),
    "perm": (2, 2, _whole(math.perm, largest=MAX_FACTORIAL)),
    "sqrt": (1, 1, _sqrt),
    "exp": (1, 1, _rounded("exp", largest=MAX_BITS // 2)),
    "ln": (1, 1, _rounded("ln")),
    "log10": (1, 1, _rounded("log10")),
    "sin": (1, 1, _rounded("sin", largest=LARGEST_ANGLE)),
    "cos": (1, 1, _rounded("cos", largest=LARGEST_ANGLE)),
    "tan": (1, 1, _rounded("tan", largest=LARGEST_ANGLE)),
    "asin": (1, 1, _rounded("asin")),
    "acos": (1, 1, _rounded("acos")),
    "atan": (1, 1, _rounded("atan")),
    "degrees": (1, 1, _rounded("degrees")),
    "radians": (1, 1, _rounded("radians")),
}
