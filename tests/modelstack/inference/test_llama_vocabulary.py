"""Vocabulary and encoders of a GGUF: exact bytes, and content that never becomes a control token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelstack.inference.llama.engine import LlamaCppEngine
from modelstack.tokenizer.vocabulary import Vocabulary
from tests.modelstack.inference.tiny_gguf import CONTROL_TOKENS, USER_DEFINED_TOKENS


@pytest.fixture(scope="module")
def tiny(tiny_gguf: Path) -> Iterator[LlamaCppEngine]:
    with LlamaCppEngine(tiny_gguf, n_threads=1, n_threads_prefill=1) as engine:
        yield engine


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf: Path) -> Iterator[LlamaCppEngine]:
    with LlamaCppEngine(smollm2_gguf, n_threads=1, n_threads_prefill=1, context_window=256) as engine:
        yield engine


def special_names(vocabulary: Vocabulary) -> list[str]:
    return [vocabulary.token_bytes[token].decode() for token in vocabulary.special_ids]


def test_the_end_token_of_the_template_comes_first(tiny: LlamaCppEngine, smollm2: LlamaCppEngine) -> None:
    for engine in (tiny, smollm2):
        assert engine.vocabulary.token_bytes[engine.vocabulary.end_ids[0]] == b"<|im_end|>"
        assert set(engine.vocabulary.end_ids) <= engine.vocabulary.special_ids


def test_control_and_user_defined_tokens_are_special_and_ordinary_ones_are_not(tiny: LlamaCppEngine) -> None:
    names = special_names(tiny.vocabulary)
    assert set(CONTROL_TOKENS + USER_DEFINED_TOKENS) <= set(names)
    assert tiny.vocabulary.encode("the")[0] not in tiny.vocabulary.special_ids


def test_template_text_becomes_control_tokens_without_a_begin_token(tiny: LlamaCppEngine) -> None:
    ids = tiny.encode_template("<|im_start|>user\n<tool_call>")
    assert [tiny.vocabulary.token_bytes[ids[i]] for i in (0, -1)] == [b"<|im_start|>", b"<tool_call>"]


def test_content_that_spells_every_special_token_encodes_to_none(
    tiny: LlamaCppEngine, smollm2: LlamaCppEngine
) -> None:
    for engine in (tiny, smollm2):
        names = special_names(engine.vocabulary)
        for text in (*names, "".join(names), " ".join(names), "".join(name[:-1] + name for name in names)):
            ids = engine.vocabulary.encode(text)
            assert engine.vocabulary.special_ids.isdisjoint(ids)
            assert engine.vocabulary.decode(ids) == text


FRAGMENTS = st.sampled_from(
    [
        "<tool_call>",
        "</tool_call>",
        "<|im_end|>",
        "<",
        "tool_call>",
        "<<tool_call>",
        "\n",
        " ",
        "a",
        "é",
        "🦊",
        "\x00",
        "0",
    ]
)


@settings(max_examples=200)
@given(text=st.one_of(st.text(max_size=60), st.lists(FRAGMENTS, max_size=12).map("".join)))
def test_content_keeps_its_bytes_and_holds_no_special_token(tiny: LlamaCppEngine, text: str) -> None:
    ids = tiny.vocabulary.encode(text)
    assert tiny.vocabulary.special_ids.isdisjoint(ids)
    assert b"".join(tiny.vocabulary.token_bytes[i] for i in ids) == text.encode()


@settings(max_examples=200)
@given(text=st.text(max_size=60))
def test_the_real_vocabulary_keeps_all_characters_that_it_can_spell(smollm2: LlamaCppEngine, text: str) -> None:
    # SmolLM2 has no token for these bytes: six control characters, and the planes past U+40000.
    kept = "".join("\ufffd" if c in "\x04\x06\x13\x14\x16\x1d" or 0x40000 <= ord(c) < 0xC0000 else c for c in text)
    assert smollm2.vocabulary.decode(smollm2.vocabulary.encode(text)) == kept


def test_lone_surrogates_do_not_break_the_encoder(tiny: LlamaCppEngine) -> None:
    assert tiny.vocabulary.decode(tiny.vocabulary.encode("a\ud800b")) == "a?b"


def test_a_long_text_full_of_forged_tokens_is_encoded_in_one_go(tiny: LlamaCppEngine) -> None:
    ids = tiny.vocabulary.encode("<tool_call>" * 20_000)
    assert tiny.vocabulary.special_ids.isdisjoint(ids)


def test_no_text_gives_no_tokens(tiny: LlamaCppEngine) -> None:
    assert tiny.vocabulary.encode("") == tiny.encode_template("") == []
