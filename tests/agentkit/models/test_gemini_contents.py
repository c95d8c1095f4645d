"""A conversation as Google's contents, compared as whole objects and checked by the types of Google's SDK."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Any

import pytest
from google.genai import types

from agentkit.errors import UserError
from agentkit.messages import (
    BinaryContent,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    ModelResponsePart,
    RetryPromptPart,
    SystemPromptPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from agentkit.models.google.contents import CONTINUE, UNSIGNED_CALL, function_name, gemini_conversation
from agentkit.models.google.dialect import GEMINI_2, GEMINI_3, PROVIDER, GeminiDialect, dialect_of

SIGNATURE = b64encode(b"\xff\xfe a thought of Gemini's").decode()
PNG = BinaryContent(b"\x89PNG\r\n\x1a\n", "image/png", "chart.png")
PDF = BinaryContent(b"%PDF-1.7", "application/pdf")
MP3 = BinaryContent(b"\xff\xfb\x90\x00", "audio/mpeg")
GIF = BinaryContent(b"GIF89a", "image/gif", "cat.gif")


def contents_of(
    *messages: ModelMessage, dialect: GeminiDialect = GEMINI_3, **options: Any
) -> list[dict[str, Any]]:
    """Return the contents, after Google's own types accepted them."""
    contents = gemini_conversation(messages, dialect, **options).contents
    for content in contents:
        types.Content.model_validate(content)
    return contents


def asked(*parts: Any) -> ModelRequest:
    return ModelRequest(tuple(UserPromptPart(part) if isinstance(part, str) else part for part in parts))


def called(*parts: ModelResponsePart) -> ModelResponse:
    return ModelResponse(parts)


def call(call_id: str, name: str = "look", **options: Any) -> ToolCallPart:
    return ToolCallPart(name, "{}", call_id, **options)


def test_a_conversation_alternates_and_answers_every_call_in_one_content() -> None:
    conversation = gemini_conversation(
        (
            ModelRequest(
                (SystemPromptPart("Be brief."), SystemPromptPart("Use tools."), UserPromptPart("19 + 23?"))
            ),
            called(TextPart("Let me add."), ToolCallPart("add", '{"a": 19}', "c1"), ToolCallPart("now", "", "c2")),
            asked(
                "Quick.",
                ToolReturnPart("add", "c1", "42", data=42),
                RetryPromptPart("now is broken", tool_name="now", tool_call_id="c2"),
            ),
            called(TextPart("forty-two")),
            ModelRequest((RetryPromptPart("Answer with digits."),)),
            ModelRequest((UserPromptPart("Please."),)),
        ),
        GEMINI_2,
    )
    assert conversation.system == [{"text": "Be brief."}, {"text": "Use tools."}]
    assert conversation.contents == [
        {"role": "user", "parts": [{"text": "19 + 23?"}]},
        {
            "role": "model",
            "parts": [
                {"text": "Let me add."},
                {"functionCall": {"id": "c1", "name": "add", "args": {"a": 19}}},
                {"functionCall": {"id": "c2", "name": "now", "args": {}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"id": "c1", "name": "add", "response": {"output": "42"}}},
                {"functionResponse": {"id": "c2", "name": "now", "response": {"error": "now is broken"}}},
                {"text": "Quick."},
            ],
        },
        {"role": "model", "parts": [{"text": "forty-two"}]},
        {"role": "user", "parts": [{"text": "Answer with digits."}, {"text": "Please."}]},
    ]
    for content in conversation.contents:
        types.Content.model_validate(content)


def test_signatures_of_gemini_return_in_their_parts() -> None:
    contents = contents_of(
        asked("Go."),
        called(
            ThinkingPart("A summary without a signature."),
            ThinkingPart("A signed thought.", SIGNATURE, PROVIDER),
            ThinkingPart("", "sig+text", PROVIDER),
            TextPart("Signed."),
            TextPart("Unsigned."),
            call("c1", signature=SIGNATURE, provider=PROVIDER),
            call("c2"),
        ),
        asked(ToolReturnPart("look", "c1", "sea"), ToolReturnPart("look", "c2", "sky")),
        called(TextPart("Done."), ThinkingPart("", "sig+last", PROVIDER)),
        asked("Thanks."),
    )
    assert contents[1]["parts"] == [
        {"text": "A signed thought.", "thought": True, "thoughtSignature": SIGNATURE},
        {"text": "Signed.", "thoughtSignature": "sig+text"},
        {"text": "Unsigned."},
        {"functionCall": {"id": "c1", "name": "look", "args": {}}, "thoughtSignature": SIGNATURE},
        {"functionCall": {"id": "c2", "name": "look", "args": {}}},
    ]
    assert contents[3]["parts"] == [{"text": "Done."}, {"text": "", "thoughtSignature": "sig+last"}]
    assert types.Content.model_validate(contents[1]).parts[0].thought_signature.startswith(b"\xff\xfe a thought")  # type: ignore[index, union-attr]


def test_a_signed_empty_text_before_a_call_stays_apart_from_it() -> None:
    contents = contents_of(asked("Go."), called(ThinkingPart("", "sig+", PROVIDER), call("c1")), dialect=GEMINI_2)
    assert contents[1]["parts"] == [
        {"text": "", "thoughtSignature": "sig+"},
        {"functionCall": {"id": "c1", "name": "look", "args": {}}},
    ]


def test_signatures_of_others_are_not_sent() -> None:
    history = (
        asked("Go."),
        called(
            ThinkingPart("Hm.", "claude-signature", "anthropic"),
            ThinkingPart("", "openai-signature", "openai"),
            ThinkingPart("Nobody's.", "orphan"),
            TextPart("Text."),
            call("c1", signature="other", provider="openai"),
        ),
        asked(ToolReturnPart("look", "c1", "sea")),
    )
    assert b64decode(UNSIGNED_CALL) == b"skip_thought_signature_validator"
    unsigned = {"functionCall": {"id": "c1", "name": "look", "args": {}}}
    assert contents_of(*history, dialect=GEMINI_2)[1]["parts"] == [{"text": "Text."}, unsigned]
    assert contents_of(*history)[1]["parts"] == [
        {"text": "Text."},
        {**unsigned, "thoughtSignature": UNSIGNED_CALL},
    ]


def test_each_step_of_a_foreign_history_has_the_value_that_skips_the_check_on_its_first_call_only() -> None:
    contents = contents_of(
        asked("Go."),
        called(call("c1"), call("c2")),
        asked(ToolReturnPart("look", "c1", "sea"), ToolReturnPart("look", "c2", "sky")),
        called(call("c3")),
        asked(ToolReturnPart("look", "c3", "sun")),
    )
    signed = [[part.get("thoughtSignature") for part in content["parts"]] for content in contents]
    assert signed == [[None], [UNSIGNED_CALL, None], [None, None], [UNSIGNED_CALL], [None]]


def test_earlier_contents_stay_the_same_while_a_conversation_grows() -> None:
    history: list[ModelMessage] = [
        asked("Go."),
        called(ThinkingPart("", "sig+", PROVIDER), TextPart("Looking."), call("c1")),
        asked(ToolReturnPart("look", "c1", ("A chart.", PNG, MP3))),
        called(call("c2", signature="sig+next", provider=PROVIDER)),
        asked(ToolReturnPart("look", "c2", "sun"), "And now?"),
        called(TextPart("Done.")),
        asked("Thanks."),
    ]
    whole = contents_of(*history)
    for n_messages in range(1, len(history), 2):
        assert contents_of(*history[:n_messages]) == whole[:n_messages]


def test_files_stand_in_prompts() -> None:
    contents = contents_of(asked(UserPromptPart(("Look", PNG, PDF, MP3, ""))))
    assert contents[0]["parts"] == [
        {"text": "Look"},
        {"inlineData": {"mimeType": "image/png", "data": b64encode(PNG.data).decode()}},
        {"inlineData": {"mimeType": "application/pdf", "data": b64encode(PDF.data).decode()}},
        {"inlineData": {"mimeType": "audio/mpeg", "data": b64encode(MP3.data).decode()}},
    ]
    blob = types.Content.model_validate(contents[0]).parts[1].inline_data  # type: ignore[index]
    assert blob is not None and blob.data == PNG.data


def test_files_of_results_stand_inside_the_response_or_after_all_responses() -> None:
    history = (
        asked("Go."),
        called(call("c1"), call("c2")),
        asked(
            ToolReturnPart("look", "c1", ("Two.", PNG, MP3)), ToolReturnPart("look", "c2", (GIF,), is_error=True)
        ),
    )
    png = {"inlineData": {"mimeType": "image/png", "data": b64encode(PNG.data).decode()}}
    mp3 = {"inlineData": {"mimeType": "audio/mpeg", "data": b64encode(MP3.data).decode()}}
    label = {"text": "[files of look, call c1]"}
    said = f"Two.\n{PNG.note}\n{MP3.note}"
    first = {"id": "c1", "name": "look", "response": {"output": said}}
    second = {"functionResponse": {"id": "c2", "name": "look", "response": {"error": GIF.note}}}
    assert contents_of(*history)[2]["parts"] == [
        {"functionResponse": {**first, "parts": [png]}}, second, label, mp3,
    ]  # fmt: skip
    assert contents_of(*history, dialect=GEMINI_2)[2]["parts"] == [
        {"functionResponse": first}, second, label, png, mp3,
    ]  # fmt: skip


def test_a_note_stands_for_files_that_the_model_does_not_read() -> None:
    history = (
        asked(UserPromptPart(("Look", PNG))),
        called(call("c1")),
        asked(ToolReturnPart("look", "c1", (PDF, PNG))),
    )
    contents = contents_of(*history, kinds=frozenset({"document"}))
    assert contents[0]["parts"] == [{"text": f"Look\n{PNG.note} is not shown here"}]
    response = contents[2]["parts"][0]["functionResponse"]
    assert [part["inlineData"]["mimeType"] for part in response["parts"]] == ["application/pdf"]
    assert response["response"] == {"output": f"{PDF.note}\n{PNG.note} is not shown here"}


def test_a_prompt_with_a_type_that_gemini_does_not_read_is_refused() -> None:
    with pytest.raises(UserError, match=r"reads no image/gif .*cat\.gif.*it reads image/png, "):
        contents_of(asked(UserPromptPart(("Look", GIF))))


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ((), [("user", [CONTINUE])]),
        ((ModelRequest((SystemPromptPart("Only this."),)),), [("user", [CONTINUE])]),
        ((called(TextPart("Hi.")), asked("A")), [("user", [CONTINUE]), ("model", ["Hi."]), ("user", ["A"])]),
        ((asked("A"), called(TextPart("Hi."))), [("user", ["A"]), ("model", ["Hi."]), ("user", [CONTINUE])]),
        ((asked("A"), called(), asked("B")), [("user", ["A", "B"])]),
        ((asked(""), called(TextPart("")), asked("B", "")), [("user", ["B"])]),
        ((asked("A"), called(TextPart("1")), called(TextPart("2")), asked("B")),
         [("user", ["A"]), ("model", ["1", "2"]), ("user", ["B"])]),
    ],
)  # fmt: skip
def test_odd_histories_become_ones_that_the_api_accepts(
    messages: Sequence[ModelMessage], expected: list[tuple[str, list[str]]]
) -> None:
    contents = contents_of(*messages)
    assert [(content["role"], [part["text"] for part in content["parts"]]) for content in contents] == expected


def test_calls_without_a_result_are_answered_and_results_without_a_call_left_out() -> None:
    contents = contents_of(
        asked("Go.", ToolReturnPart("look", "c0", "of no call")), called(call("c1"), call("c2")), asked("And?")
    )
    assert contents[0]["parts"] == [{"text": "Go."}]
    ids = [part["functionResponse"]["id"] for part in contents[2]["parts"][:2]]
    assert ids == ["c1", "c2"] and contents[2]["parts"][2] == {"text": "And?"}
    assert contents[2]["parts"][0]["functionResponse"]["response"]["error"].startswith("Interrupted")


@pytest.mark.parametrize("arguments", ['{"a": ', "[1]", "NaN", '{"a": NaN}', '"text"', "[" * 100_000])
def test_arguments_that_are_no_object_are_wrapped(arguments: str) -> None:
    contents = contents_of(asked("Go."), called(ToolCallPart("look", arguments, "c1")))
    assert contents[1]["parts"][0]["functionCall"]["args"] == {"invalid_arguments": arguments}


def test_a_correction_without_a_tool_name_gets_that_of_its_call() -> None:
    contents = contents_of(asked("Go."), called(call("c1", "find")), asked(RetryPromptPart("No.", None, "c1")))
    assert contents[2]["parts"] == [
        {"functionResponse": {"id": "c1", "name": "find", "response": {"error": "No."}}},
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["look", "_x", "server.look-at:it", "A" * 128])
def test_allowed_names_stay(name: str) -> None:
    assert function_name(name) == name


@pytest.mark.parametrize("name", ["2look", "look at", "schauen/ü", "-x", "A" * 129, "", "look\n"])
def test_other_names_are_replaced_by_allowed_ones_of_their_own(name: str) -> None:
    replaced = function_name(name)
    assert function_name(replaced) == replaced != name
    assert function_name(name) == replaced and function_name(f"{name} ") != replaced


@pytest.mark.parametrize(
    ("name", "is_newest"),
    [
        ("gemini-2.0-flash", False),
        ("gemini-2.5-pro", False),
        ("models/gemini-2.5-flash-lite-preview-09-2025", False),
        ("gemma-3-27b-it", False),
        ("gemini-3-pro-preview", True),
        ("gemini-3.8-flash", True),
        ("gemini-4-argon", True),
        ("gemini-12-x", True),
        ("gemini-flash-latest", True),
    ],
)
def test_the_dialect_is_that_of_the_generation_in_the_name(name: str, is_newest: bool) -> None:
    assert dialect_of(name).signed_calls is is_newest
    assert dialect_of(name).thinking == ("level" if is_newest else "budget" if "2.5" in name else "none")
    assert dialect_of(name).validated_calls is (is_newest or "gemini-2.5" in name)
