r"""Compares a mathematical answer with the gold: as a number, a word, a collection of these, or symbolically.

The cheap comparisons come first and are final if they apply: numbers are compared exactly (0.333 is not 1/3),
words as words, sets in any order, tuples and intervals in order and with their brackets. Everything else goes to
math-verify (`symbolic`), with the gold first, since its comparison is not symmetric.

A gold that cannot be read makes every answer unscorable.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from modelstack.reasoning.verifiers.quantities import as_quantity, equal_quantities, tidy

MAX_ELEMENTS = 64
"""Maximum number of elements of a collection."""
_OPENING, _CLOSING = "([{", ")]}"
_WORD = re.compile(r"[A-Za-z][A-Za-z' -]{1,60}|[A-Z]")
_AND = re.compile(r",?\s+(?:or|and)\s+", re.IGNORECASE)


class Symbolic(Protocol):
    """Comparison of expressions that are not plain numbers."""

    def reads(self, gold: str) -> bool:
        """Return whether a gold can be read."""
        ...

    def equal(self, gold: str, answer: str) -> bool:
        """Return whether an answer equals a gold; also False if the comparison takes too long."""
        ...


@dataclass(frozen=True, slots=True)
class Collection:
    """Set or ordered collection of values."""

    kind: Literal["set", "ordered"]
    brackets: str
    """Brackets of an ordered collection, for example `[)`."""
    elements: tuple[str, ...]


def compare(gold: str, answer: str, symbolic: Callable[[], Symbolic]) -> bool | None:
    """Return whether an answer equals the gold; None if the gold cannot be read.

    Args:
        gold: Correct answer, as a number, a word or LaTeX.
        answer: Extracted answer.
        symbolic: Returns the comparison of expressions; called only if there is one to compare.

    Raises:
        UserError: An expression must be compared and math-verify is not installed.
    """
    if not gold.strip():
        return None
    quantity = as_quantity(gold)
    if quantity is not None:
        found = as_quantity(answer)
        if found is not None:
            return equal_quantities(quantity, found)
        if not _may_be_expression(answer):
            return False
        return symbolic().equal(tidy(gold), answer)
    if _WORD.fullmatch(tidy(gold)):
        return tidy(gold).casefold() == tidy(answer).casefold()
    if (collection := as_collection(gold)) is not None:
        found = as_collection(answer)
        if found is not None:
            return _equal_collections(collection, found, symbolic)
        # A list without brackets, or an interval written as an inequality, may still match symbolically.
    if not symbolic().reads(gold):
        return None
    return symbolic().equal(gold, answer)


def as_collection(text: str) -> Collection | None:
    """Return the set, tuple or interval that a text denotes; None if it denotes none."""
    bare = tidy(text).replace("\\{", "{").replace("\\}", "}").replace("\\cup", "∪")
    if "∪" in bare:
        return None
    brackets = f"{bare[:1]}{bare[-1:]}"
    inside = bare
    if len(bare) > 1 and bare[0] in _OPENING and bare[-1] in _CLOSING and _closes_last(bare):
        inside = bare[1:-1]
    else:
        brackets = ""
        inside = _AND.sub(", ", bare)
        if ", " not in inside:
            return None  # 1,234 is a number, and a,b alone is not a list
    elements = _split(inside)
    if elements is None or not 1 <= len(elements) <= MAX_ELEMENTS or (len(elements) == 1 and brackets != "{}"):
        return None
    kind = "ordered" if brackets not in ("", "{}") else "set"
    return Collection(kind, brackets if kind == "ordered" else "", tuple(elements))


def _equal_collections(gold: Collection, answer: Collection, symbolic: Callable[[], Symbolic]) -> bool | None:
    if (gold.kind, gold.brackets) != (answer.kind, answer.brackets):
        return False
    if len(gold.elements) != len(answer.elements):
        return False
    left = list(answer.elements)
    for element in gold.elements:
        options = left if gold.kind == "set" else left[:1]
        verdicts = [compare(element, option, symbolic) for option in options]
        if None in verdicts:
            return None
        if True not in verdicts:
            return False
        del left[verdicts.index(True)]
    return True


def _may_be_expression(text: str) -> bool:
    r"""Return whether an answer that is not a number may equal one: `\sqrt{4}`, `2^3`, `1+1`, `x = 5`."""
    return any(character.isdigit() or character == "\\" for character in text)


def _closes_last(text: str) -> bool:
    """Return whether the first bracket of a text is closed by its last character."""
    depth = 0
    for at, character in enumerate(text):
        depth += (character in _OPENING) - (character in _CLOSING)
        if depth == 0:
            return at == len(text) - 1
    return False


def _split(text: str) -> list[str] | None:
    """Split a text at its commas outside brackets; None if an element is empty or brackets do not match."""
    elements, depth, start = [], 0, 0
    for at, character in enumerate(text):
        depth += (character in _OPENING) - (character in _CLOSING)
        if depth < 0:
            return None
        if character == "," and depth == 0:
            elements.append(text[start:at].strip())
            start = at + 1
    elements.append(text[start:].strip())
    return elements if depth == 0 and all(elements) else None
