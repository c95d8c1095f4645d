"""Values that stand in the request: which tokens copy one, and what is known of that beforehand.

Most values of a call are said in the request, letter by letter or as a number word. While a value is written,
the tokens that go on with words or a number of the request, or end where such a span ends, are one side; all
others are the other. `CopyBias` multiplies the odds of the first by exp(bias), with one bias for texts and one
for numbers:

    p'(copies) / p'(does not) = exp(bias) p(copies) / p(does not)

as pointer networks mix copying into generation (See et al., 2017, arXiv 1704.04368), with a weight that is fitted
and does not depend on the state. Spans begin at the beginning of a word and end at the end of one; case does not
count in what is written already.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from modelstack.inference.sampling import LegalTokens
from modelstack.tokenizer.vocabulary import Vocabulary
from modelstack.toolcalls.prior.reply_place import FollowedReply

ValueKind = Literal["text", "number"]
LONGEST_TOKEN = 24
"""Bytes of a token that is looked for; longer ones are runs of spaces and rules."""
LONGEST_REQUEST = 8000
"""Bytes of a request that are searched; of a longer one, the end."""
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
    """The legal tokens that copy, and how likely one of them is."""

    kind: ValueKind
    token_ids: NDArray[np.intp]
    mass: float
    """Of these among the legal tokens."""


class CopyTable:
    """A vocabulary by bytes."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Index its tokens."""
        self.table = vocabulary.token_bytes
        self.by_bytes = {data: i for i, data in enumerate(self.table) if i not in vocabulary.special_ids}
        self.ends_text = [i for data, i in self.by_bytes.items() if data.startswith(b'"')]
        self.ends_number = [i for data, i in self.by_bytes.items() if data[:1] in (b",", b"}", b"]")]


class CopyBias:
    """Fulfils `modelstack.inference.engine.LogitBias` for one request."""

    def __init__(self, text_bias: float, number_bias: float, request: str, table: CopyTable) -> None:
        """Take what is added to the logits of tokens that copy."""
        self._biases: dict[ValueKind, float] = {"text": text_bias, "number": number_bias}
        self._table = table
        self._request = request.encode("utf-8", "replace")[-LONGEST_REQUEST:]
        self._lowered = self._request.lower()
        self._numbers = sorted(numbers_of(request))
        self._reply = FollowedReply(table.table)

    def __call__(
        self, written: Sequence[int], legal: LegalTokens, logits_V: NDArray[np.float32]
    ) -> NDArray[np.float32] | None:
        """Return the logits with those of copying tokens moved, None where no value is written."""
        found = self._side(written, legal)
        if found is None or self._biases[found[0]] == 0:
            return None
        moved = logits_V.copy()
        moved[found[1]] += np.float32(self._biases[found[0]])
        return moved

    def copied(self, written: Sequence[int], legal: LegalTokens, logits_V: NDArray[np.float32]) -> Copied | None:
        """Return how likely the model copies behind `written`, None where not both sides are open."""
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
        """Give the tokens that go on with a span of the request, or end one."""
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
    """Return a number without what JSON or a model leaves out: 1,200 is 1200, 007 is 7, 0.50 is 0.5."""
    whole, dot, decimals = number.replace(",", "").partition(".")
    sign = "-" if whole.startswith("-") else ""
    decimals = decimals.rstrip("0")
    return sign + (whole.removeprefix("-").lstrip("0") or "0") + (dot + decimals if decimals else "")


def _begins_word(text: bytes, at: int) -> bool:
    """Whether a span begins here: a word does, or a mark behind a space, as in `#general`."""
    if at == 0:
        return True
    return not _is_word(text[at - 1]) if _is_word(text[at]) else text[at - 1 : at].isspace()


def _ends_word(text: bytes, at: int) -> bool:
    return at == len(text) or not (_is_word(text[at - 1]) and _is_word(text[at]))


def _is_word(byte: int) -> bool:
    return byte >= 0x80 or chr(byte).isalnum()
