"""Values copied from the request: the tokens that copy, and a prior for them.

Most values of a call occur in the request, literally or as a number word. While a value is written, the tokens
that continue words or a number of the request, or end at the end of such a span, form one side; all others form
the other side. `CopyBias` multiplies the odds of the first side by exp(bias), with one bias for texts and one for
numbers:

    p'(copies) / p'(does not) = exp(bias) p(copies) / p(does not)

Pointer networks mix copying into generation in the same way (See et al., 2017, arXiv 1704.04368); here the weight
is fitted and does not depend on the state. Spans begin at the beginning of a word and end at the end of a word.
The text already written is compared without case.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from modelstack.inference.legal_tokens import LegalTokens
from modelstack.tokenizer.vocabulary import Vocabulary
from modelstack.toolcalls.prior.reply_place import FollowedReply

ValueKind = Literal["text", "number"]
LONGEST_TOKEN = 24
"""Maximum length in bytes of a token that is looked up; longer tokens are runs of spaces and rules."""
LONGEST_REQUEST = 8000
"""Maximum number of bytes of a request that are searched; a longer request is searched at its end."""
_NUMBERS = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")
_ONES = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen
"""
_TENS = " twenty thirty forty fifty sixty seventy eighty ninety "
_WORDS = (
    {word: n for n, word in enumerate(_ONES.split())}
    | {word: 10 * n for n, word in enumerate(_TENS.split(), 2)}
    | {"dozen": 12}
)
_WORD = re.compile(r"[a-z]+(?:-[a-z]+)?")


@dataclass(frozen=True, slots=True)
class Copied:
    """The legal tokens that copy, and their probability."""

    kind: ValueKind
    token_ids: NDArray[np.intp]
    mass: float
    """Total probability of these tokens among the legal ones."""


class CopyTable:
    """The tokens of a vocabulary by their bytes."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Index the tokens."""
        self.table = vocabulary.token_bytes
        self.by_bytes = {data: i for i, data in enumerate(self.table) if i not in vocabulary.special_ids}
        self.ends_text = [i for data, i in self.by_bytes.items() if data.startswith(b'"')]
        self.ends_number = [i for data, i in self.by_bytes.items() if data[:1] in (b",", b"}", b"]")]


class CopyBias:
    """Implements `modelstack.inference.engine.LogitBias` for one request."""

    def __init__(self, text_bias: float, number_bias: float, request: str, table: CopyTable) -> None:
        """Prepare the biases of one request.

        Args:
            text_bias: Added to the logits of tokens that copy a text.
            number_bias: Added to the logits of tokens that copy a number.
            request: Text of the user.
            table: The tokens by their bytes.
        """
        self._biases: dict[ValueKind, float] = {"text": text_bias, "number": number_bias}
        self._table = table
        self._request = request.encode("utf-8", "replace")[-LONGEST_REQUEST:]
        self._lowered = self._request.lower()
        self._numbers = sorted(numbers_of(request))
        self._reply = FollowedReply(table.table)

    def __call__(
        self, written: Sequence[int], legal: LegalTokens, logits_V: NDArray[np.float32]
    ) -> NDArray[np.float32] | None:
        """Return the logits with the bias of copying tokens; None outside of values."""
        found = self._side(written, legal)
        if found is None or self._biases[found[0]] == 0:
            return None
        moved = logits_V.copy()
        moved[found[1]] += np.float32(self._biases[found[0]])
        return moved

    def copied(self, written: Sequence[int], legal: LegalTokens, logits_V: NDArray[np.float32]) -> Copied | None:
        """Return the probability of copying after `written`; None unless both sides are legal."""
        found = self._side(written, legal)
        if found is None:
            return None
        kind, ids = found
        values = logits_V[legal.to_ids()].astype(np.float64)
        top = values.max()
        mass = np.exp(logits_V[ids].astype(np.float64) - top).sum() / np.exp(values - top).sum()
        return Copied(kind, ids, float(mass))

    def _side(self, written: Sequence[int], legal: LegalTokens) -> tuple[ValueKind, NDArray[np.intp]] | None:
        self._reply.follow(written)
        if (text := self._reply.open_text()) is not None:
            kind: ValueKind = "text"
            ids = set(self._of_text(text))
        elif (number := self._reply.open_number()) is not None:
            kind, ids = "number", set(self._of_number(number.decode()))
        else:
            return None
        found = legal.among(np.array(sorted(ids), dtype=np.intp))
        return (kind, found) if 0 < found.size < legal.count else None

    def _of_text(self, text: bytes) -> Iterator[int]:
        """Yield the tokens that continue or end a span of the request."""
        known, start = text.lower(), 0
        while (at := self._lowered.find(known, start)) >= 0 and at < len(self._request):
            start, behind = at + 1, at + len(known)
            if not _begins_word(self._request, at) or self._request[at : at + 1].isspace():
                continue
            rest = self._request[behind : behind + LONGEST_TOKEN]
            for n in range(1, len(rest) + 1):
                part = rest[:n]
                for data in {part, part.lower(), part.capitalize()}:
                    if (token := self._table.by_bytes.get(data)) is not None:
                        yield token
            if text and _ends_word(self._request, behind):
                yield from self._table.ends_text

    def _of_number(self, number: str) -> Iterator[int]:
        for known in self._numbers:
            if known == number:
                yield from self._table.ends_number
            elif known.startswith(number):
                rest = known[len(number) :].encode()
                found = (self._table.by_bytes.get(rest[:n]) for n in range(1, len(rest) + 1))
                yield from (token for token in found if token is not None)


def numbers_of(text: str) -> set[str]:
    """Return the numbers of a text as JSON writes them: digits, and English words below a hundred."""
    found = {_plain(match.group()) for match in _NUMBERS.finditer(text)}
    for match in _WORD.finditer(text.lower()):
        known = [_WORDS[part] for part in match.group().split("-") if part in _WORDS]
        if known:
            found.add(str(sum(known)))
    return found


def _plain(number: str) -> str:
    """Return a number in JSON's shortest spelling: 1,200 is 1200, 007 is 7, 0.50 is 0.5."""
    whole, dot, decimals = number.replace(",", "").partition(".")
    sign = "-" if whole.startswith("-") else ""
    decimals = decimals.rstrip("0")
    return sign + (whole.removeprefix("-").lstrip("0") or "0") + (dot + decimals if decimals else "")


def _begins_word(text: bytes, at: int) -> bool:
    """Whether a span begins here: at a word, or at a sign after a space, as in `#general`."""
    if at == 0:
        return True
    return not _is_word(text[at - 1]) if _is_word(text[at]) else text[at - 1 : at].isspace()


def _ends_word(text: bytes, at: int) -> bool:
    return at == len(text) or not (_is_word(text[at - 1]) and _is_word(text[at]))


def _is_word(byte: int) -> bool:
    return byte >= 0x80 or chr(byte).isalnum()
