"""Whether one more optional parameter is given: where that is decided, by which evidence, how a prior moves it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import vocabularies
from numpy.typing import NDArray

from modelstack.inference.legal_tokens import LegalTokens
from modelstack.tokenizer.vocabulary import Vocabulary
from modelstack.toolcalls import ToolSpec
from modelstack.toolcalls.prior.lexical import KEY_EVIDENCE, EvidenceWeights
from modelstack.toolcalls.prior.optional_keys import KeyTable, OptionalKeyBias
from modelstack.toolcalls.prior.two_sides import Evidenced

MERGED = (b'","', b'"}', b',"', b"},", b"{}", b'{"')
BOOK = ToolSpec(
    "book_room",
    "Book a room.",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Where the room is"},
            "nights": {"type": "integer"},
            "smoking": {"type": "boolean", "description": "Whether smokers stay"},
            "view": {"type": "string", "enum": ["sea", "garden"]},
        },
        "required": ["city"],
    },
)
NOTHING_REQUIRED = ToolSpec("list_rooms", "", {"type": "object", "properties": {"city": {"type": "string"}}})
TOOLS = (BOOK, NOTHING_REQUIRED, ToolSpec("ping", "", {"type": "object"}))


@lru_cache
def vocabulary() -> Vocabulary:
    """Return the small one with tokens that close a value and go on in one."""
    small = vocabularies.small()
    tokens = (*small.token_bytes, *MERGED)

    def encode(text: str) -> list[int]:
        """Longest first: as merges would have it."""
        ids: list[int] = []
        data = text.encode()
        while data:
            n = next(n for n in range(min(len(data), 12), 0, -1) if data[:n] in tokens)
            ids.append(tokens.index(data[:n]))
            data = data[n:]
        return ids

    return Vocabulary(tokens, small.special_ids, small.end_ids, encode)


@lru_cache
def table() -> KeyTable:
    return KeyTable(vocabulary())


def everything() -> LegalTokens:
    return LegalTokens.all_except(vocabulary().special_ids, len(vocabulary()))


def decided(
    written: str, request: str = "A room please", logits: NDArray[np.float32] | None = None
) -> Evidenced | None:
    logits = np.zeros(len(vocabulary()), dtype=np.float32) if logits is None else logits
    ids = vocabulary().encode(written)
    return OptionalKeyBias(None, request, TOOLS, table()).decision(ids, everything(), logits)


def call(arguments: str, tool: str = "book_room") -> str:
    return f'[{{"name":"{tool}","arguments":{arguments}'


def named(ids: NDArray[np.intp]) -> set[bytes]:
    return {vocabulary().token_bytes[i] for i in ids}


def test_behind_a_text_a_number_and_before_the_first_key_both_sides_are_known() -> None:
    text, number, first = (
        decided(call('{"city":"Oslo')),
        decided(call('{"city":"Oslo","nights":2')),
        decided(call("", "list_rooms")),
    )
    assert text is not None and number is not None and first is not None
    assert (named(text.decision.goes_on), named(text.decision.ends)) == ({b'","'}, {b'"}', b'"}}]'})
    assert named(number.decision.goes_on) == {b',"'}
    assert named(number.decision.ends) == {b"}}", b"}}]"}
    assert (named(first.decision.goes_on), named(first.decision.ends)) == ({b'{"'}, {b"{}"})


@pytest.mark.parametrize(
    "written",
    [
        "",
        "Well, a room",
        "[",
        '[{"name":"book_',
        call("{"),
        call('{"ci'),
        call('{"city":'),
        call('{"nights":2'),  # the city is required, and is not given yet
        call('{"city":"Oslo","nights":2,"smoking":true,"view":"sea'),  # nothing is left
        call('{"x":1', "ping"),  # has no properties
        call('{"x":1', "unknown"),
        call('{"city":"Oslo\\'),
        call('{"city":"Oslo"}'),
    ],
)
def test_anywhere_else_nothing_is_decided(written: str) -> None:
    assert decided(written) is None


def test_it_is_the_last_call_that_counts() -> None:
    assert decided(call('{"city":"Oslo"}},{"name":"ping","arguments":{"x":1')) is None
    assert decided(call('{"x":1}},{"name":"book_room","arguments":{"city":"Oslo', "ping")) is not None


@pytest.mark.parametrize(
    ("request_", "given", "evidence"),
    [
        ("A room in Oslo", '{"city":"Oslo', ()),
        ("A room in Oslo for two nights", '{"city":"Oslo', ("name", "number")),
        ("A room in Oslo for two nights", '{"city":"Oslo","nights":2', ()),
        ("A room in Oslo where smokers stay", '{"city":"Oslo', ("description",)),
        ("A room in Oslo over the sea", '{"city":"Oslo', ("choice",)),
        ("Book the room in Oslo, city of rooms", '{"city":"Oslo', ()),
    ],
)
def test_evidence_is_of_what_is_not_given_yet(request_: str, given: str, evidence: tuple[str, ...]) -> None:
    found = decided(call(given), request_)
    assert found is not None
    assert {name for name, x in zip(KEY_EVIDENCE, found.evidence, strict=True) if x} == set(evidence)


def test_a_prior_moves_the_odds_by_its_constant_and_the_evidence() -> None:
    logits = np.random.default_rng(0).normal(size=len(vocabulary())).astype(np.float32)
    written = call('{"city":"Oslo')
    weights = EvidenceWeights(
        constant=-1.0, weights={"name": 2.5, "description": 0.0, "choice": 0.25, "number": 0.5}
    )
    for request, added in (("A room in Oslo", -1.0), ("A room in Oslo for two nights", 2.0)):
        bias = OptionalKeyBias(weights, request, TOOLS, table())
        moved = bias(vocabulary().encode(written), everything(), logits)
        assert moved is not None
        before, after = decided(written, request, logits), decided(written, request, moved)
        assert before is not None and after is not None
        assert after.decision.log_odds - before.decision.log_odds == pytest.approx(added, abs=1e-4)
        sides = [*before.decision.goes_on, *before.decision.ends]
        assert np.exp(moved[sides]).sum() == pytest.approx(np.exp(logits[sides]).sum(), rel=1e-4)
        others = np.setdiff1d(np.arange(len(vocabulary())), sides)
        np.testing.assert_array_equal(moved[others], logits[others])
