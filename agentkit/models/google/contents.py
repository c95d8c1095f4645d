"""A conversation as `contents` of a generateContent request: pure functions from our messages to Google's.

The roles "user" and "model" alternate and the first is "user". The answers to calls follow the calls at once, in
one content. A thought signature goes back in the part in which it came, never in another one (Google's guide
"Thought signatures"); those of other providers are not sent. Earlier messages are rendered the same when a
conversation grows, so Google's implicit prompt cache holds.

Signed text is stored as two parts, since `TextPart` has no signature: an empty `ThinkingPart` with the signature,
then the text. Without text after it, it stands for the empty text with which a stream delivers a signature.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, cast

from agentkit.errors import UserError
from agentkit.files import files_of, readable
from agentkit.history.repair import repaired
from agentkit.messages import (
    BinaryContent,
    Content,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    RetryPromptPart,
    SystemPromptPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
    text_of,
)
from agentkit.models.google.dialect import GEMINI_3, PROVIDER, GeminiDialect

UNSIGNED_CALL = b64encode(b"skip_thought_signature_validator").decode()
"""Signature of calls that Gemini did not make, from the FAQ of Google's guide "Thought signatures". The field
holds bytes, which JSON writes in base64."""
CONTINUE = "Continue."
"""Text of a user's content that the alternation of roles demands and the conversation lacks."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,127}")
"""Names of functions that the API accepts (`FunctionDeclaration.name`)."""
_READ_MEDIA = (
    "image/png", "image/jpeg", "image/webp", "audio/wav", "audio/mpeg", "audio/flac", "audio/ogg", "audio/mp4",
    "application/pdf",
)  # fmt: skip
"""Media types that Gemini reads, of those in `agentkit.files`."""
_RESULT_MEDIA = frozenset({"image/png", "image/jpeg", "image/webp", "application/pdf"})
"""Media types that may stand inside a function response, from Google's guide "Function calling"."""


@dataclass(slots=True)
class Conversation:
    """A conversation in Google's terms."""

    system: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """Parts of `systemInstruction`."""
    contents: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def add(self, role: str, parts: list[dict[str, Any]]) -> None:
        """Append parts; adjacent contents of one role become one."""
        if not parts:
            return
        if self.contents and self.contents[-1]["role"] == role:
            self.contents[-1]["parts"].extend(parts)
        else:
            self.contents.append({"role": role, "parts": parts})


def gemini_conversation(
    messages: Sequence[ModelMessage], dialect: GeminiDialect = GEMINI_3, kinds: Collection[str] | None = None
) -> Conversation:
    """Return the conversation as system instruction and contents; a note stands for each file not of `kinds`.

    Raises:
        UserError: a prompt holds a file of a type that Gemini does not read.
    """
    conversation = Conversation()
    names: dict[str, str] = {}
    for message in repaired(messages):
        if isinstance(message, ModelRequest):
            texts = (part.content for part in message.parts if isinstance(part, SystemPromptPart))
            conversation.system.extend({"text": text} for text in texts if text)
            conversation.add("user", [*_answers(message, names, dialect, kinds), *_prompts(message, kinds)])
        else:
            names.update({call.tool_call_id: call.tool_name for call in message.tool_calls})
            conversation.add("model", _model_parts(message, dialect))
    contents = conversation.contents
    if not contents or contents[0]["role"] != "user":
        contents.insert(0, {"role": "user", "parts": [{"text": CONTINUE}]})
    if contents[-1]["role"] != "user":
        contents.append({"role": "user", "parts": [{"text": CONTINUE}]})
    return conversation


def function_name(tool_name: str) -> str:
    """Return the name under which Gemini knows a tool: the same if its characters allow it.

    Another name is derived from the tool's name alone, so that earlier calls are rendered alike at any time.
    """
    if _NAME.fullmatch(tool_name):
        return tool_name
    legible = re.sub(r"[^A-Za-z0-9_.:-]", "_", tool_name)[:100]
    return f"_{legible}_{sha256(tool_name.encode('utf-8', 'replace')).hexdigest()[:12]}"


def _prompts(request: ModelRequest, kinds: Collection[str] | None) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    for part in request.parts:
        is_correction = isinstance(part, RetryPromptPart) and part.tool_call_id is None
        if isinstance(part, UserPromptPart) or is_correction:
            parts.extend(_content_parts(readable(part.content, kinds)))
    return parts


def _content_parts(content: Content) -> list[dict[str, Any]]:
    """Return texts and files as parts; an empty text is no part that the API accepts."""
    items = (content,) if isinstance(content, str) else content
    return [
        _inline(item) if isinstance(item, BinaryContent) else {"text": text_of((item,))} for item in items if item
    ]


def _inline(file: BinaryContent) -> dict[str, Any]:
    if file.media_type not in _READ_MEDIA:
        raise UserError(f"Gemini reads no {file.media_type} ({file.note}); it reads {', '.join(_READ_MEDIA)}.")
    return {"inlineData": {"mimeType": file.media_type, "data": b64encode(file.data).decode()}}


def _answers(
    request: ModelRequest, names: dict[str, str], dialect: GeminiDialect, kinds: Collection[str] | None
) -> list[dict[str, Any]]:
    """Return the function responses of a request, then the files that may not stand inside them."""
    responses: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for part in request.parts:
        if isinstance(part, RetryPromptPart) and part.tool_call_id is not None:
            name = part.tool_name or names.get(part.tool_call_id, "")
            responses.append(_function_response(name, part.tool_call_id, {"error": part.text}))
        elif isinstance(part, ToolReturnPart):
            content = readable(part.content, kinds)
            key = "error" if part.is_error else "output"
            response = _function_response(part.tool_name, part.tool_call_id, {key: text_of(content)})
            responses.append(response)
            inside, after = _placed(files_of(content), dialect)
            if inside:
                response["functionResponse"]["parts"] = [_inline(file) for file in inside]
            if after:
                others.append({"text": f"[files of {part.tool_name}, call {part.tool_call_id}]"})
                others.extend(map(_inline, after))
    return responses + others


def _placed(
    files: Sequence[BinaryContent], dialect: GeminiDialect
) -> tuple[list[BinaryContent], list[BinaryContent]]:
    """Return the files that may stand inside a function response, and the others that Gemini reads."""
    inside: list[BinaryContent] = []
    after: list[BinaryContent] = []
    for file in files:
        if dialect.files_in_results and file.media_type in _RESULT_MEDIA:
            inside.append(file)
        elif file.media_type in _READ_MEDIA:
            after.append(file)
    return inside, after


def _function_response(tool_name: str, call_id: str, response: dict[str, str]) -> dict[str, Any]:
    return {"functionResponse": {"id": call_id, "name": function_name(tool_name), "response": response}}


def _model_parts(response: ModelResponse, dialect: GeminiDialect) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    signature: str | None = None
    must_sign = dialect.signed_calls
    for part in response.parts:
        if isinstance(part, TextPart):
            if part.content or signature is not None:
                parts.append(_signed({"text": part.content}, signature))
            signature = None
            continue
        if signature is not None:
            parts.append(_signed({"text": ""}, signature))
            signature = None
        if isinstance(part, ToolCallPart):
            own = _own_signature(part)
            parts.append(_signed(_function_call(part), own or (UNSIGNED_CALL if must_sign else None)))
            must_sign = False
        elif (own := _own_signature(part)) is not None and part.content:
            parts.append(_signed({"text": part.content, "thought": True}, own))
        else:
            signature = own
    if signature is not None:
        parts.append(_signed({"text": ""}, signature))
    return parts


def _own_signature(part: ThinkingPart | ToolCallPart) -> str | None:
    return part.signature if part.provider == PROVIDER else None


def _signed(part: dict[str, Any], signature: str | None) -> dict[str, Any]:
    return part if signature is None else {**part, "thoughtSignature": signature}


def _function_call(part: ToolCallPart) -> dict[str, Any]:
    return {
        "functionCall": {
            "id": part.tool_call_id,
            "name": function_name(part.tool_name),
            "args": _arguments(part.arguments),
        }
    }


def _arguments(text: str) -> dict[str, Any]:
    """Return arguments as an object; those that are none are wrapped, or the API would refuse the conversation."""
    try:
        value: Any = json.loads(text, parse_constant=_no_constant) if text.strip() else {}
    except (ValueError, RecursionError):
        value = None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {"invalid_arguments": text}


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
