"""Which tokens copy a value from the request, and how a bias moves them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import vocabularies

from modelstack.inference.legal_tokens import LegalTokens
from modelstack.tokenizer.vocabulary import Vocabulary
from modelstack.toolcalls.prior.copying import CopyBias, CopyTable, numbers_of
from modelstack.toolcalls.prior.lexical import CALL_EVIDENCE, DecisionPrior, EvidenceWeights
from modelstack.toolcalls.prior.reply_bias import ReplyBias, ReplyTables
from modelstack.toolcalls.prior.reply_place import FollowedReply

REQUEST = "Please book the New Yorker for twenty-five people, table 182 or 45"
MERGED = (b"New", b"new", b" York", b" Yorker", b"people", b"18", b'"}', b"},")


@lru_cache
def vocabulary() -> Vocabulary:
    """Return the small one with some words."""
    small = vocabularies.small()
    return Vocabulary((*small.token_bytes, *MERGED), small.special_ids, small.end_ids, small.encode)


@lru_cache
def table() -> CopyTable:
    return CopyTable(vocabulary())


def everything() -> LegalTokens:
    return LegalTokens.all_except(vocabulary().special_ids, len(vocabulary()))


def copying(written: str, request: str = REQUEST) -> tuple[str, set[bytes]] | None:
    """Return the kind and the tokens that copy behind a reply."""
    logits = np.zeros(len(vocabulary()), dtype=np.float32)
    found = CopyBias(0.0, 0.0, request, table()).copied(vocabulary().encode(written), everything(), logits)
    return None if found is None else (found.kind, {vocabulary().token_bytes[i] for i in found.token_ids})


def call(rest: str) -> str:
    return f'[{{"name":"book","arguments":{{{rest}'


def test_a_text_begins_with_a_word_goes_on_as_the_request_does_and_ends_where_a_word_ends() -> None:
    kind, tokens = copying(call('"hotel":"')) or ("", set[bytes]())
    assert kind == "text"
    assert {b"New", b"new", b"people", b"N"} <= tokens
    assert not {b" Yorker", b'"', b'"}', b"z", b" ", b","} & tokens
    kind, tokens = copying(call('"hotel":"New')) or ("", set[bytes]())
    assert {b" York", b" Yorker", b'"', b'"}'} <= tokens and b"new" not in tokens
    _, tokens = copying(call('"hotel":"new York')) or ("", set[bytes]())
    assert b"e" in tokens and b'"' not in tokens  # Yorker, not York
    assert copying(call('"hotel":"Rome')) is None


def test_a_number_goes_on_as_one_of_the_request_and_ends_with_it() -> None:
    kind, tokens = copying(call('"table":')) or ("", set[bytes]())
    assert kind == "number"
    assert {b"1", b"18", b"4", b"2"} <= tokens and not {b"7", b"}", b"},"} & tokens
    _, tokens = copying(call('"table":18')) or ("", set[bytes]())
    assert tokens == {b"2"}
    _, tokens = copying(call('"table":45')) or ("", set[bytes]())
    assert {b"}", b"},", b","} <= tokens and b"5" not in tokens


@pytest.mark.parametrize(
    "written",
    [
        "",
        "Well, the New",
        "[",
        '[{"name":"New',
        call('"New'),
        call('"a":"New\\'),
        '{"result":"New',
        call('"a":1,"New'),
    ],
)
def test_only_values_of_arguments_are_copied(written: str) -> None:
    assert copying(written) is None


def test_values_in_lists_and_objects_are_values_too() -> None:
    for before in ('"places":["', '"places":["x","', '"stay":{"at":"'):
        assert (copying(call(before)) or ("", set[bytes]()))[0] == "text"
    assert (copying(call('"tables":[1,')) or ("", set[bytes]()))[0] == "number"


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("1,200 and 3.50, -4", {"1200", "3.5", "-4"}),
        ("twenty-five, a dozen, three-star", {"25", "12", "3"}),
        ("007 on 2024-05-31", {"7", "2024", "-5", "-31"}),
        ("nothing at all", set[str]()),
        ("0 or 0.0", {"0"}),
    ],
)
def test_numbers_are_read_as_json_writes_them(text: str, numbers: set[str]) -> None:
    assert numbers_of(text) == numbers


def test_a_bias_multiplies_the_odds_of_copying() -> None:
    written = vocabulary().encode(call('"hotel":"New'))
    logits = np.random.default_rng(0).normal(size=len(vocabulary())).astype(np.float32)
    legal = everything()
    bias = CopyBias(1.3, 0.0, REQUEST, table())
    moved = bias(written, legal, logits)
    assert moved is not None
    before, after = (CopyBias(0.0, 0.0, REQUEST, table()).copied(written, legal, x) for x in (logits, moved))
    assert before is not None and after is not None
    odds = after.mass / (1 - after.mass) / (before.mass / (1 - before.mass))
    assert odds == pytest.approx(np.exp(1.3), rel=1e-3)
    assert bias(vocabulary().encode(call('"table":1')), legal, logits) is None  # no bias for numbers


def test_several_biases_are_added_up() -> None:
    written = vocabulary().encode(call('"table":182'))
    logits = np.zeros(len(vocabulary()), dtype=np.float32)
    tables = ReplyTables(vocabulary())

    def moved(another: float, number: float) -> dict[bytes, float]:
        weights = EvidenceWeights(constant=another, weights=dict.fromkeys(CALL_EVIDENCE, 0.0))
        prior = DecisionPrior(lexical_weight=1.0, abstain_bias=0.0, another_call=weights, copy_number_bias=number)
        bias = ReplyBias.of(prior, REQUEST, (), tables)
        found = None if bias is None else bias(written, everything(), logits)
        assert found is not None
        return {data: float(found[i]) for i, data in enumerate(vocabulary().token_bytes)}

    both, count = moved(2.0, 1.0), moved(2.0, 0.0)
    assert both[b","] == pytest.approx(count[b","] + 1.0, abs=0.2)
    assert both[b"7"] == 0 == count[b"7"]


def test_text_is_read_behind_the_last_quote_that_opens() -> None:
    reply = FollowedReply(vocabulary().token_bytes)
    for text, open_text in (('"a":"x\\"y', b'x\\"y'), ('"a":"x","b":"', b""), ('"a":"x"', None), ('"a', None)):
        reply.follow(vocabulary().encode(call(text)))
        assert reply.open_text() == open_text
