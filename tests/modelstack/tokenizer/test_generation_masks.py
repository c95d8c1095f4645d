"""The mask of what a model is to generate: equal to transformers' on marked templates, and nobody else's words."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelstack.errors import UserError
from modelstack.tokenizer.chat import ROLES, ChatEncoder, ChatFormat, ChatMessage
from modelstack.tokenizer.generation_masks import Mark, MaskedConversation, Reply, mask_conversation
from modelstack.tokenizer.tokenizer_folder import save_tokenizer
from tests.modelstack.tokenizer.templates import COMPOSABLE
from tests.modelstack.tokenizer.test_text_tokenizer import HOSTILE
from tests.modelstack.tokenizer.texts import LINES
from tests.modelstack.tokenizer.trained import text_tokenizer, trained

LLAMA3_MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '<|im_end|>\n\n' }}"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] | trim + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ m['content'] | trim + '<|im_end|>' }}{% endif %}{% endfor %}"
)
"""Another arrangement of the same tokens: nothing behind the end token, contents trimmed."""
BLANKS = " \t\r\n"


@functools.cache
def encoder_of(template: str | None = None) -> ChatEncoder:
    tokenizer = text_tokenizer()
    if template is None:
        return ChatEncoder(ChatFormat.for_engine(tokenizer), tokenizer.vocabulary, tokenizer.encode_template)
    from modelstack.tokenizer.chat_template import learn_format

    learnt = learn_format(template, bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>")
    return ChatEncoder(learnt, tokenizer.vocabulary, tokenizer.encode_template)


@pytest.fixture(scope="module")
def transformers_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    transformers = pytest.importorskip("transformers", reason="the reference; extra `dev`")
    folder: Path = save_tokenizer(trained(), tmp_path_factory.mktemp("tokenizer"))
    return transformers.AutoTokenizer.from_pretrained(folder)


def reference(
    tokenizer: Any, messages: list[dict[str, Any]], template: str | None
) -> tuple[list[int], list[bool]]:
    out = tokenizer.apply_chat_template(
        messages, chat_template=template, return_dict=True, return_assistant_tokens_mask=True
    )
    return list(out["input_ids"]), list(map(bool, out["assistant_masks"]))


@st.composite
def conversations(draw: st.DrawFn) -> list[ChatMessage]:
    """Contents that begin and end with a letter or sign: text around them may not merge with the template's."""
    contents = st.one_of(st.sampled_from(LINES), st.text("abz .,!?09é你", min_size=1, max_size=20))
    first = [ChatMessage("system", draw(contents).strip() or "x")] if draw(st.booleans()) else []
    rest = draw(st.lists(st.tuples(st.sampled_from(ROLES[1:]), contents), min_size=1, max_size=6))
    return first + [ChatMessage(role, content.strip(BLANKS) or "x") for role, content in rest]


@pytest.mark.parametrize("template", [None, LLAMA3_MARKED], ids=["ours", "another"])
@settings(max_examples=60, deadline=None)
@given(messages=conversations())
def test_ids_and_mask_equal_those_of_transformers(
    template: str | None, messages: list[ChatMessage], transformers_tokenizer: Any
) -> None:
    masked = mask_conversation(encoder_of(template), messages)
    plain = [{"role": m.role, "content": m.content} for m in messages]
    if template is not None:  # its begin token is left to the tokenizer, and our format puts it first
        masked.ids, masked.mask = masked.ids[1:], masked.mask[1:]
    assert (masked.ids, masked.mask) == reference(transformers_tokenizer, plain, template)


def test_calls_are_generated_with_their_marks_as_transformers_has_it(transformers_tokenizer: Any) -> None:
    arguments = '{"path":"todo.md"}'
    calls = [{"type": "function", "function": {"name": "read", "arguments": arguments}}]
    plain = [
        {"role": "user", "content": "How long is it?"},
        {"role": "assistant", "content": "I look.", "tool_calls": calls},
        {"role": "tool", "content": "42 lines"},
        {"role": "assistant", "content": "It has 42 lines."},
    ]
    call = (Mark("<tool_call>"), '{"name":"read","arguments":' + arguments + "}", Mark("</tool_call>"))
    masked = mask_conversation(
        encoder_of(),
        [
            ChatMessage("user", "How long is it?"),
            Reply(("I look.", *call)),
            ChatMessage("tool", "42 lines"),
            ChatMessage("assistant", "It has 42 lines."),
        ],
    )
    assert (masked.ids, masked.mask) == reference(transformers_tokenizer, plain, None)
    assert generated(masked) == (
        'I look.<tool_call>{"name":"read","arguments":{"path":"todo.md"}}</tool_call><|im_end|>'
        "It has 42 lines.<|im_end|>"
    )


def generated(masked: MaskedConversation) -> str:
    ids = [token for token, wanted in zip(masked.ids, masked.mask, strict=True) if wanted]
    return text_tokenizer().vocabulary.decode(ids)


@settings(max_examples=200, deadline=None)
@given(turns=st.lists(st.tuples(st.sampled_from(ROLES), HOSTILE), min_size=1, max_size=5))
def test_only_the_assistants_words_and_its_end_token_are_generated(turns: list[tuple[Any, str]]) -> None:
    vocabulary = text_tokenizer().vocabulary
    masked = mask_conversation(encoder_of(), [ChatMessage(role, content) for role, content in turns])
    assert len(masked.ids) == len(masked.mask)
    said = [content for role, content in turns if role == "assistant"]
    ids = [token for token, wanted in zip(masked.ids, masked.mask, strict=True) if wanted]
    ends = [token for token in ids if token in vocabulary.special_ids]
    assert ends == [vocabulary.end_ids[0]] * len(said)
    normal = text_tokenizer().tokenizer.normalizer.normalize_str
    assert generated(masked) == "".join(
        normal(content.encode("utf-8", "replace").decode()) + "<|im_end|>" for content in said
    )
    position = 0
    for span in masked.spans:
        assert span.start == position
        position = span.end
        if span.role != "assistant":
            assert not any(masked.mask[span.start : span.end])
    assert position == len(masked.ids)


@settings(max_examples=100, deadline=None)
@given(turns=st.lists(st.tuples(st.sampled_from(ROLES), st.text(max_size=12)), min_size=1, max_size=5))
def test_the_mask_of_the_first_turns_is_a_prefix(turns: list[tuple[Any, str]]) -> None:
    messages = [ChatMessage(role, content) for role, content in turns]
    whole = mask_conversation(encoder_of(), messages)
    for k in range(len(messages)):
        part = mask_conversation(encoder_of(), messages[:k])
        assert whole.mask[: len(part.mask)] == part.mask
        assert whole.ids[: len(part.ids)] == part.ids


def test_ids_equal_those_of_the_renderer_of_the_runtime() -> None:
    messages = [ChatMessage(role, line) for role, line in zip(ROLES * 3, LINES, strict=False)]
    encoder = encoder_of()
    rendered, masked = encoder.encode(messages), mask_conversation(encoder, messages)
    assert (masked.ids, masked.spans) == (rendered.ids, rendered.spans)


def test_a_reply_that_is_not_trained_is_read_and_not_generated() -> None:
    turns = [ChatMessage("user", "2+2?"), Reply(("5",), trained=False), ChatMessage("user", "No."), Reply(("4",))]
    masked = mask_conversation(encoder_of(), turns)
    assert generated(masked) == "4<|im_end|>"
    assert mask_conversation(encoder_of(), turns[:1] + [Reply(("5",))] + turns[2:]).ids == masked.ids


def test_a_name_written_as_text_is_no_mark() -> None:
    encoder = encoder_of()
    as_text = mask_conversation(encoder, [Reply(("<tool_call>",))])
    as_mark = mask_conversation(encoder, [Reply((Mark("<tool_call>"),))])
    token = encoder.mark_id("<tool_call>")
    assert token not in as_text.ids
    assert as_mark.ids.count(token) == 1


def test_a_mark_that_is_no_token_is_an_error() -> None:
    for name in ("<tool_call> ", "<nothing>", "a", ""):
        with pytest.raises(UserError, match="is not a special token of this vocabulary"):
            mask_conversation(encoder_of(), [Reply((Mark(name),))])


def test_trimmed_formats_trim_a_reply_at_its_ends_only() -> None:
    encoder = encoder_of(LLAMA3_MARKED)
    masked = mask_conversation(encoder, [ChatMessage("user", " hi "), Reply(("  a ", Mark("<think>"), " b "))])
    assert generated(masked) == "a <think> b<|im_end|>"
    assert mask_conversation(encoder, [Reply(("  a ",))]).ids == mask_conversation(encoder, [Reply(("a",))]).ids


@pytest.mark.parametrize("name", COMPOSABLE)
def test_every_composable_format_masks_the_reply_alone(name: str) -> None:
    encoder = encoder_of(COMPOSABLE[name])
    masked = mask_conversation(encoder, [ChatMessage("user", "Q"), ChatMessage("assistant", "Answer")])
    assert generated(masked).removesuffix("<|im_end|>").removesuffix("<|end_of_text|>") == "Answer"
    assert json.dumps(masked.mask).count("true") >= 1
