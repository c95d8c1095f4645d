"""Metadata of a family in a GGUF file, read key by key. Each value is validated; unread keys are rejected.

An unknown key may change the model's function (a soft-cap, another scale), so a file with one is not loaded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from modelstack.errors import UserError

Value = bool | int | float | str | list[Any]
"""Types of metadata values; all items of a list have the same type."""

MAX_SIZE = 1 << 31
"""Exclusive upper limit of sizes."""
MAX_F32 = float(np.finfo(np.float32).max)
WITHOUT_EFFECT = frozenset(
    {
        "vocab_size",
        "embedding_length_out",
        "rope.scaling.finetuned",
        "rope.scaling.yarn_ext_factor",
        "rope.scaling.yarn_attn_factor",
    }
)
"""Keys that repeat other keys, or that llama.cpp does not read for any of our families."""


class Fields:
    """The keys `ARCH.*` of a file."""

    def __init__(self, values: Mapping[str, Any], arch: str) -> None:
        """Store a file's metadata."""
        self._values = {k.removeprefix(f"{arch}."): v for k, v in values.items() if k.startswith(f"{arch}.")}
        self._arch = arch
        self._asked: set[str] = set(WITHOUT_EFFECT)

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def has_row(self, key: str) -> bool:
        """Whether a key holds a list."""
        return isinstance(self._values.get(key), list)

    def size(self, key: str, default: int | None = None) -> int:
        """Return a positive integer."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < MAX_SIZE:
            raise self._error(key, value, "a positive integer")
        return value

    def count(self, key: str, default: int) -> int:
        """Return a non-negative integer."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MAX_SIZE:
            raise self._error(key, value, "a non-negative integer")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return a finite, non-negative number: the shortest decimal with the same 32-bit value."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_F32:
            raise self._error(key, value, "a number")
        return shortest(value)

    def flag(self, key: str, default: bool | None = None) -> bool:
        """Return a boolean."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self._error(key, value, "true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """Return a string."""
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self._error(key, value, "a string")
        return value

    def row(self, key: str, length: int) -> list[Any]:
        """Return a list of finite numbers or booleans, cut to `length`; a single value is repeated."""
        value = self._get(key, None)
        row = value if isinstance(value, list) else [value] * length
        if len(row) < length or not all(isinstance(x, int | float) and math.isfinite(x) for x in row):
            raise self._error(key, value, f"{length} numbers")
        return row[:length]

    def must_equal(self, key: str, expected: int, what: str) -> None:
        """Accept a key only if it is absent or has the one value that we support."""
        if key in self and self.size(key) != expected:
            raise UserError(
                f"GGUF key {self._arch}.{key} is {self.size(key)}: only {what}, {expected}, is supported"
            )

    def refuse_unasked(self) -> None:
        """Raise if the file has keys that were never read."""
        if unasked := sorted(self._values.keys() - self._asked):
            keys = ", ".join(f"{self._arch}.{key}" for key in unasked)
            raise UserError(
                f"GGUF keys are not known: {keys}. They may change the model's function, so the file is rejected"
            )

    def _get(self, key: str, default: Any) -> Any:
        self._asked.add(key)
        value = self._values.get(key, default)
        if value is None:
            raise UserError(f"GGUF key {self._arch}.{key} is missing; the file is damaged or of another family")
        return value

    def _error(self, key: str, value: Any, expected: str) -> UserError:
        return UserError(f"GGUF key {self._arch}.{key} is {str(value)[:60]!r}: it must be {expected}")


def shortest(value: float) -> float:
    """Return the shortest decimal number that rounds to the same 32 bits: 1e-05, not 9.99999974e-06."""
    return float(str(np.float32(value)))


def lost_in_32_bits(value: Any, again: Any) -> bool:
    """Whether two values differ by more than the rounding of floats to 32 bits."""
    if isinstance(value, Mapping) and isinstance(again, Mapping):
        return value.keys() != again.keys() or any(lost_in_32_bits(value[k], again[k]) for k in value)
    if isinstance(value, float | int) and isinstance(again, float | int):
        return not math.isclose(value, again, rel_tol=1e-5)
    if isinstance(value, list | tuple) and isinstance(again, list | tuple):
        return len(value) != len(again) or any(map(lost_in_32_bits, value, again))
    return value != again
