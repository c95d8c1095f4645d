"""Messages and events whose files are stored elsewhere, under the hash of their bytes.

What is written for each message and each event has a reference in place of a file (`FileReference`), so the bytes
are stored once, however often a conversation is written or sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import cast

from agentkit.errors import CheckpointError
from agentkit.events import AgentEvent, HandoffEvent, ModelRequestEvent, RunRequestedEvent, SideRequestEvent
from agentkit.files import files_of
from agentkit.messages import (
    BinaryContent,
    Content,
    ContentItem,
    FileReference,
    ModelMessage,
    ModelRequest,
    ToolReturnPart,
    UserPromptPart,
)

Files = dict[str, bytes]
"""Bytes of files by their hash."""


def may_have_files(message: ModelMessage) -> bool:
    """Return whether a message has more than texts; a loop, because it is asked for each message and event."""
    if isinstance(message, ModelRequest):
        for part in message.parts:
            if not isinstance(part.content, str):
                return True
    return False


def with_references(messages: Sequence[ModelMessage], files: Files) -> tuple[ModelMessage, ...]:
    """Return messages with a reference in place of each file; `files` receives the bytes."""

    def referred(content: tuple[ContentItem, ...]) -> Content:
        files.update({file.reference.sha256: file.data for file in files_of(content)})
        return tuple(item.reference if isinstance(item, BinaryContent) else item for item in content)

    return tuple(_changed(message, referred) for message in messages)


def event_with_references(event: AgentEvent, files: Files) -> AgentEvent:
    """Return an event with a reference in place of each file; `files` receives the bytes."""
    match event:
        case ModelRequestEvent():
            if not any(map(may_have_files, (*event.messages, *(event.sent or ())))):
                return event  # as most events; a copy costs as much as its JSON
            sent = None if event.sent is None else with_references(event.sent, files)
            return replace(event, messages=with_references(event.messages, files), sent=sent)
        case HandoffEvent():
            return replace(event, opening=with_references(event.opening, files))
        case SideRequestEvent():
            return replace(event, messages=with_references(event.messages, files))
        case RunRequestedEvent():
            (asked,) = with_references([ModelRequest((UserPromptPart(event.prompt),))], files)
            prompt = cast("UserPromptPart", asked.parts[0]).content
            return replace(event, prompt=prompt, history=with_references(event.history, files))
        case _:
            return event


def with_files(messages: Sequence[ModelMessage], files: Files, *, whose: str) -> tuple[ModelMessage, ...]:
    """Return messages with the file in place of each reference whose bytes are in `files`.

    Raises:
        CheckpointError: the bytes are not those of the hash.
    """

    def resolved(content: tuple[ContentItem, ...]) -> Content:
        return tuple(
            _file(item, files, whose) if isinstance(item, FileReference) and item.sha256 in files else item
            for item in content
        )

    return tuple(_changed(message, resolved) for message in messages)


def references_in(messages: Iterable[ModelMessage]) -> set[str]:
    """Return the hashes of the files that messages refer to."""
    parts = (part for message in messages if isinstance(message, ModelRequest) for part in message.parts)
    contents = (part.content for part in parts if isinstance(part, UserPromptPart | ToolReturnPart))
    items = (item for content in contents if not isinstance(content, str) for item in content)
    return {item.sha256 for item in items if isinstance(item, FileReference)}


def _file(reference: FileReference, files: Files, whose: str) -> BinaryContent:
    file = BinaryContent(files[reference.sha256], reference.media_type, reference.name)
    if file.reference != reference:
        raise CheckpointError(f"{whose}: the file {reference.sha256} was changed.")
    return file


def _changed(message: ModelMessage, change: Callable[[tuple[ContentItem, ...]], Content]) -> ModelMessage:
    """Return a message with changed contents; the same object if it has text alone."""
    if not isinstance(message, ModelRequest) or not may_have_files(message):
        return message
    return ModelRequest(
        tuple(
            part
            if isinstance(part.content, str)
            else replace(cast("UserPromptPart | ToolReturnPart", part), content=change(part.content))
            for part in message.parts
        )
    )
