"""A number ends: 20 digits before its point, more where the schema or the request asks for them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import vocabularies
from driving import ENGINES, accepts, after, compiler, may_follow
from hypothesis import given, settings
from hypothesis import strategies as st

from modelstack.toolcalls import ResponseFormat, ToolSpec
from modelstack.toolcalls.convention import MAX_DIGITS, MOST_DIGITS
from modelstack.toolcalls.grammar.coverage import EngineName
from modelstack.toolcalls.grammar.tokens import legal_ids

OPENING = '[{"name":"t","arguments":{"v":'
on_both_engines = pytest.mark.parametrize("engine", ENGINES)


def format_of(schema: dict[str, Any], **options: Any) -> ResponseFormat:
    parameters = {"type": "object", "properties": {"v": schema}, "required": ["v"]}
    return ResponseFormat((ToolSpec("t", "", parameters),), answer=None, **options)


@on_both_engines
@pytest.mark.parametrize("kind", ["integer", "number"])
def test_a_number_cannot_run_on(engine: EngineName, kind: str) -> None:
    vocabulary = vocabularies.small()
    compiled = compiler(engine).compile(format_of({"type": kind}))
    for sign in ("", "-"):
        assert accepts(compiled, f"{OPENING}{sign}{'9' * MAX_DIGITS}}}}}]")
    grammar = after(compiled, OPENING + "9" * MAX_DIGITS)
    texts = {vocabulary.token_bytes[i].decode() for i in legal_ids(grammar.mask(), len(vocabulary))}
    assert texts
    assert not any(text[0].isdigit() for text in texts)
    if kind == "number":
        grammar = after(compiled, OPENING + "0." + "3" * 20)
        assert not any(vocabulary.token_bytes[i][:1].isdigit() for i in legal_ids(grammar.mask(), len(vocabulary)))


@on_both_engines
def test_the_longest_written_number_is_within_the_budget_whatever_is_drawn(engine: EngineName) -> None:
    vocabulary = vocabularies.small()
    rng = np.random.default_rng(0)
    compiled = compiler(engine).compile(format_of({"type": "number"}))
    digits = {token for token, text in enumerate(vocabulary.token_bytes) if text.isdigit()}
    for _ in range(10):
        grammar = after(compiled, OPENING)
        written = ""
        for _ in range(100):
            legal = set(legal_ids(grammar.mask(), len(vocabulary)).tolist())
            if not legal & digits:
                break
            token = int(rng.choice(sorted(legal & digits)))
            grammar.advance(token)
            written += vocabulary.token_bytes[token].decode()
        assert written in ("0", written[:MAX_DIGITS])
        assert json.loads(written) >= 0


@on_both_engines
@settings(max_examples=40, deadline=None)
@given(value=st.integers(-(2**64), 2**64) | st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_every_number_of_64_bits_is_legal(engine: EngineName, value: float) -> None:
    compiled = compiler(engine).compile(format_of({"type": "number"}))
    text = json.dumps(value)
    if "." in text and len(text.partition(".")[2].partition("e")[0]) > 20:
        return
    assert accepts(compiled, f"{OPENING}{text}}}}}]"), text


@on_both_engines
def test_constants_and_a_request_with_longer_numbers_are_honoured(engine: EngineName) -> None:
    long = int("1" + "0" * 28 + "57")
    if engine != "llguidance":  # which reads constants as doubles
        assert accepts(compiler(engine).compile(format_of({"enum": [long, 1]})), f"{OPENING}{long}}}}}]")
    asked = format_of({"type": "integer"}, max_digits=31)
    assert accepts(compiler(engine).compile(asked), f"{OPENING}{long}}}}}]")
    assert not may_follow(compiler(engine).compile(asked), f"{OPENING}{long}", "0")
    assert not may_follow(compiler(engine).compile(format_of({"type": "integer"})), OPENING, str(long))


def test_bounds_of_a_schema_ask_for_longer_numbers() -> None:
    from modelstack.toolcalls.grammar.shape_builder import ShapeBuilder

    builder = ShapeBuilder(len, ordered=True)
    assert builder.value({"type": "integer", "minimum": 10**25}).most_digits == 26  # type: ignore[attr-defined]
    assert builder.value({"type": "integer", "maximum": 9}).most_digits == MAX_DIGITS  # type: ignore[attr-defined]
    assert builder.value({"type": "number"}).most_digits == MAX_DIGITS  # type: ignore[attr-defined]


@on_both_engines
def test_an_answer_may_hold_longer_numbers_than_arguments(engine: EngineName) -> None:
    compiled = compiler(engine).compile(ResponseFormat(answer={"type": "integer"}))
    assert accepts(compiled, f'{{"result":{"7" * MOST_DIGITS}}}')
    assert not may_follow(compiled, '{"result":' + "7" * MOST_DIGITS, "7")


def test_a_usual_budget_leaves_the_fingerprint_of_a_format_as_it_was() -> None:
    usual, longer = format_of({"type": "integer"}), format_of({"type": "integer"}, max_digits=30)
    assert usual.fingerprint() == format_of({"type": "integer"}, max_digits=MAX_DIGITS).fingerprint()
    assert usual.fingerprint() != longer.fingerprint()
