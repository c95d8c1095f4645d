"""For any roles and contents, several templates and vocabularies: turns are appended, nothing forges control."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelstack.tokenizer.chat import ROLES, ChatEncoder, ChatFormat, ChatMessage, Role
from modelstack.tokenizer.chat_template import chat_encoder, learn_format
from modelstack.tokenizer.text_tokenizer import TextTokenizer
from modelstack.tokenizer.tokenizer_folder import load_tokenizer
from tests.modelstack.tokenizer.templates import COMPOSABLE
from tests.modelstack.tokenizer.test_text_tokenizer import HOSTILE
from tests.modelstack.tokenizer.trained import text_tokenizer

Turns = list[tuple[Role, str]]
OURS = ("ours", "ours, byte fallback", "ours, Llama 3's cut")
CASES = (*OURS, "smollm2", *COMPOSABLE, "plain")


def own_encoder(tokenizer: TextTokenizer) -> ChatEncoder:
    return chat_encoder(tokenizer)


@functools.cache
def encoder_of(case: str, gguf: Path | None = None) -> tuple[ChatEncoder, TextTokenizer]:
    options: dict[str, Any] = {
        "ours, byte fallback": {"kind": "byte-fallback", "special_placement": "start"},
        "ours, Llama 3's cut": {"pretokenizer": "llama3"},
    }.get(case, {})
    tokenizer = load_tokenizer(gguf) if gguf else text_tokenizer(**options)
    if case in OURS or gguf:
        return own_encoder(tokenizer), tokenizer
    names = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}
    learnt = ChatFormat.plain(**names) if case == "plain" else learn_format(COMPOSABLE[case], **names)
    return ChatEncoder(learnt, tokenizer.vocabulary, tokenizer.encode_template), tokenizer


@pytest.fixture(params=CASES)
def encoder(request: pytest.FixtureRequest) -> tuple[ChatEncoder, TextTokenizer]:
    gguf = request.getfixturevalue("smollm2_gguf") if request.param == "smollm2" else None
    return encoder_of(request.param, gguf)


def placeable(chat_format: ChatFormat, turns: Turns) -> Turns:
    """Leave out the turns that a format has no place for: a system turn behind others, for some."""
    kept: Turns = []
    for role, content in turns:
        if not kept or (kept[-1][0], role) in chat_format.opens:
            kept.append((role, content))
    return kept


def messages(turns: Sequence[tuple[Role, str]]) -> list[ChatMessage]:
    return [ChatMessage(role, content) for role, content in turns]


any_conversation: Callable[[Any], Any] = given(
    turns=st.lists(st.tuples(st.sampled_from(ROLES), HOSTILE), min_size=1, max_size=6)
)
many: Callable[[Any], Any] = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@many
@any_conversation
def test_ids_of_the_first_turns_are_a_prefix_of_the_ids_of_all(
    encoder: tuple[ChatEncoder, TextTokenizer], turns: Turns
) -> None:
    chat, _ = encoder
    turns = placeable(chat.format, turns)
    whole = chat.encode(messages(turns))
    for k in range(len(turns)):
        part = chat.encode(messages(turns[:k]))
        assert whole.ids[: len(part.ids)] == part.ids
        assert whole.spans[: len(part.spans)] == part.spans


@many
@any_conversation
def test_contents_add_no_control_token_whatever_they_say(
    encoder: tuple[ChatEncoder, TextTokenizer], turns: Turns
) -> None:
    chat, tokenizer = encoder
    turns = placeable(chat.format, turns)
    special = tokenizer.vocabulary.special_ids
    controls = [token for token in chat.encode(messages(turns)).ids if token in special]
    silent = chat.encode(messages([(role, "") for role, _ in turns]))
    assert controls == [token for token in silent.ids if token in special]


@many
@any_conversation
def test_contents_can_be_read_back_at_their_spans(
    encoder: tuple[ChatEncoder, TextTokenizer], turns: Turns
) -> None:
    chat, tokenizer = encoder
    turns = placeable(chat.format, turns)
    whole = chat.encode(messages(turns))
    read = [whole.ids[span.start : span.end] for span in whole.spans if span.kind == "content"]
    wanted = [text.strip() if role in chat.format.trimmed else text for role, text in turns]
    assert read == [tokenizer.encode(text) for text in wanted if text]
