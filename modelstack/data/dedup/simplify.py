"""Text normalisation for near-duplicate search: case, digits, punctuation, white space and accents are removed.

The order of the steps is datatrove's (`simplify_text`, used for FineWeb), and so is the punctuation. Numbers are
folded before punctuation is removed, otherwise 1|2|3 would differ from 123. A test checks that both give the same
results.
"""

from __future__ import annotations

import sys
import unicodedata
from functools import cache

import numpy as np

_PUNCTUATION = (
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
    "«»´“”„’–—…∶━►"
    "、。《》「」【】〈〉"  # CJK
    "！％（），：；？．～"  # full-width forms
    + "".join(
        map(chr, (*range(0, 9), 11, 12, *range(13, 32), *range(127, 160)))
    )  # control characters except \t and \n
)
_DECIMAL_SEPARATORS = ".,،٫⎖⎗⎘"
_DIGIT, _SEPARATOR, _MARK = 1, 2, 3
_SORTED_MARKS = 1024
"""Characters decomposed at once; affects only the order of combining marks across a boundary."""


def simplify(text: str) -> str:
    """Return a text in lower case: numbers as 0, punctuation as spaces, single spaces, no combining marks."""
    becomes, kinds = _tables()
    points = _code_points(text.lower())
    text = " ".join(_from_code_points(becomes[_numbers_folded(points, kinds[points])]).split())
    if text.isascii():
        return text
    points = _code_points(_decomposed(text))
    return _from_code_points(points[kinds[points] != _MARK]).strip()


def words_apart(text: str) -> str:
    """Return a text with one space between words and none around them."""
    return " ".join(text.split())


def _numbers_folded(points_N: np.ndarray, kinds_N: np.ndarray) -> np.ndarray:
    """Return code points with each number reduced to its first digit.

    A number is a run of digits, optionally with one further run after one separator: 1.2.3 holds the numbers 1.2
    and 3.
    """
    digits = np.flatnonzero(kinds_N == _DIGIT)
    if not len(digits):
        return points_N
    begins_run = np.diff(digits, prepend=-2) > 1
    starts_R = digits[begins_run]
    ends_R = digits[np.append(begins_run[1:], True)] + 1
    follows_R = np.append(False, (starts_R[1:] - ends_R[:-1] == 1) & (kinds_N[ends_R[:-1]] == _SEPARATOR))
    places_R = np.arange(len(starts_R))
    place_in_chain_R = places_R - np.maximum.accumulate(np.where(follows_R, 0, places_R))
    is_fraction_R = place_in_chain_R % 2 == 1
    stays_N = kinds_N != _DIGIT
    stays_N[starts_R[~is_fraction_R]] = True
    stays_N[starts_R[is_fraction_R] - 1] = False
    return points_N[stays_N]


def _decomposed(text: str) -> str:
    """Return the NFD of a text by pieces: sorting many consecutive marks takes quadratic time, open to attack."""
    return "".join(
        unicodedata.normalize("NFD", text[i : i + _SORTED_MARKS]) for i in range(0, len(text), _SORTED_MARKS)
    )


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _from_code_points(points: np.ndarray) -> str:
    return points.astype("<u4", copy=False).tobytes().decode("utf-32-le", "surrogatepass")


@cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Return the replacement and the kind of each code point, as tables; `str.translate` is far slower."""
    becomes = np.arange(sys.maxunicode + 1, dtype="<u4")
    kinds = np.zeros(sys.maxunicode + 1, np.uint8)
    kind_of = {"Nd": _DIGIT, "Mn": _MARK}
    for plane in (0, 1, 14):  # the other planes hold ideographs or nothing
        points = range(plane << 16, plane + 1 << 16)
        categories = (unicodedata.category(chr(point)) for point in points)
        kinds[plane << 16 : plane + 1 << 16] = [kind_of.get(category, 0) for category in categories]
    becomes[[ord(mark) for mark in _PUNCTUATION]] = ord(" ")
    becomes[kinds == _DIGIT] = ord("0")
    kinds[[ord(mark) for mark in _DECIMAL_SEPARATORS]] = _SEPARATOR
    return becomes, kinds
