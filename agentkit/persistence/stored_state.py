"""Stored form of a run's state: JSON with a version, parsed strictly.

A stored state is untrusted, because it may have been edited. It contains only data: no class names, nothing that
is executed or imported (the attack path of LangGraph CVE-2025-64439 and langchain-core CVE-2025-68664). It is
accepted only if serialising the parsed state gives the same JSON again. So an unknown key, at any level, is an
error and is never carried along. A key that an earlier version did not write is missing; its value is empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from agentkit.basics.json_values import parsed_json
from agentkit.basics.tagged import TaggedBy
from agentkit.errors import CheckpointError
from agentkit.messages import ModelMessage
from agentkit.run.state import CallAnswer, RunState

if TYPE_CHECKING:
    from pydantic import TypeAdapter

STATE_VERSION = 3
"""Version of the stored form.

Version 2 adds the numbers of call attempts, and inner runs; version 3 the tools left out of the last request.
"""
_VERSION = "schema_version"
_MESSAGES = "messages"


def state_to_json(state: RunState) -> bytes:
    """Return a state as JSON, including the conversation."""
    return _dumped({_VERSION: STATE_VERSION, **_fields(state), _MESSAGES: state.messages})


def state_from_json(data: bytes | str) -> RunState:
    """Parse a state.

    Raises:
        CheckpointError: the state is damaged, has an unknown version, or differs from the form of `state_to_json`.
    """
    return _state(_parsed(data, "the state"), "the state")


def head_to_json(state: RunState) -> bytes:
    """Return a state as JSON without its messages, which a journal stores separately."""
    return _dumped({_VERSION: STATE_VERSION, **_fields(state)})


def head_from_json(data: bytes | str, messages: tuple[ModelMessage, ...], *, whose: str) -> RunState:
    """Parse a state from its head and its messages.

    Raises:
        CheckpointError: see `state_from_json`.
    """
    from dataclasses import replace

    head = _parsed(data, whose)
    return replace(_state({**head, _MESSAGES: []}, whose), messages=messages)


def message_to_json(message: ModelMessage) -> bytes:
    """Return one message as JSON."""
    return _dumped(message)


def message_from_json(data: bytes | str, *, whose: str) -> ModelMessage:
    """Parse one message.

    Raises:
        CheckpointError: the data differ from the form of `message_to_json`.
    """
    return _read(_message_adapter(), _parsed(data, whose), whose)


def answer_to_json(part: CallAnswer) -> bytes:
    """Return the answer to one call as JSON."""
    return _dumped(part)


def answer_from_json(data: bytes | str, *, whose: str) -> CallAnswer:
    """Parse the answer to one call.

    Raises:
        CheckpointError: the data differ from the form of `answer_to_json`.
    """
    return _read(_answer_adapter(), _parsed(data, whose), whose)


def ids_to_json(ids: Sequence[str]) -> bytes:
    """Return a list of call ids as JSON."""
    return _dumped(ids)


def ids_from_json(data: bytes | str, *, whose: str) -> list[str]:
    """Parse a list of call ids.

    Raises:
        CheckpointError: the data are not a list of strings.
    """
    ids = _parsed(data, whose)
    if not isinstance(ids, list) or not all(isinstance(each, str) for each in cast("list[Any]", ids)):
        raise CheckpointError(f"{whose} is damaged at its started calls: {ids!r} is no list of ids.")
    return cast("list[str]", ids)


def _fields(state: RunState) -> dict[str, Any]:
    return {name: getattr(state, name) for name in RunState.__slots__ if name != _MESSAGES}


def _state(fields: Any, whose: str) -> RunState:
    known = dict(cast("dict[str, Any]", fields)) if isinstance(fields, dict) else {}
    version = known.pop(_VERSION, None)
    if version == 1:
        return _from_version_1(known, whose)
    if version == 2:
        return _read(_state_adapter(), _from_version_2(known), whose)
    if version != STATE_VERSION:
        raise CheckpointError(
            f"{whose} has schema_version {version!r}; this version of agentkit reads up to {STATE_VERSION}. "
            f"Resume it with the version that wrote it."
        )
    return _read(_state_adapter(), known, whose)


def _from_version_1(known: dict[str, Any], whose: str) -> RunState:
    """Parse a state of version 1, whose questions have no attempt number, and ask the questions again.

    An approval of a version 1 question has no effect: it may have been given for another attempt.
    """
    from dataclasses import replace

    from agentkit.approvals.questions import asked_now, attempted

    if isinstance(known.get("pending"), list):
        known["pending"] = [
            {**cast("dict[str, Any]", call), "attempt": 1} if isinstance(call, dict) else call
            for call in cast("list[Any]", known["pending"])
        ]
    known |= {"attempts": [], "inner": [], "withheld": []}
    state = cast("RunState", _read(_state_adapter(), known, whose))
    cut_off = [call.tool_call_id for call in state.pending if call.kind == "unknown"]
    state = attempted(state, dict.fromkeys((*cut_off, *state.in_doubt)))
    return replace(state, pending=tuple(asked_now(state, call) for call in state.pending))


def _from_version_2(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a version 2 state, and of its inner runs, with no tool withheld."""
    inner: Any = fields.get("inner")
    if isinstance(inner, list):
        inner = [_with_version_2(each) for each in cast("list[Any]", inner)]
    return {**fields, "inner": inner, "withheld": []}


def _with_version_2(run: Any) -> Any:
    match run:
        case {"state": dict()}:
            fields = cast("dict[str, Any]", run)
            return {**fields, "state": _from_version_2(fields["state"])}
        case _:
            return run


def _read(adapter: TypeAdapter[Any], value: Any, whose: str) -> Any:
    from pydantic import ValidationError

    try:
        read = adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "(top level)"
        raise CheckpointError(f"{whose} is damaged at {where}: {first['msg']}.") from None
    if (where := _difference(adapter.dump_python(read, mode="json"), value, "")) is not None:
        raise CheckpointError(
            f"{whose} is not as agentkit writes it at {where or '(top level)'}: it was edited, or holds something "
            f"that this version does not know."
        )
    return read


def _difference(written: Any, stored: Any, where: str) -> str | None:
    """Return the path of the first difference between two JSON values; None if they are equal."""
    if type(written) is not type(stored):
        return where
    if isinstance(written, Mapping):
        for key in [*written, *(key for key in stored if key not in written)]:  # pyright: ignore[reportUnknownVariableType]
            path = f"{where}.{key}".lstrip(".")
            if key not in stored and not written[key]:
                continue
            if key not in written or key not in stored:
                return path
            if (found := _difference(written[key], stored[key], path)) is not None:
                return found
        return None
    if isinstance(written, list):
        if len(written) != len(stored):  # pyright: ignore[reportUnknownArgumentType]
            return where
        for index, (one, other) in enumerate(zip(written, stored, strict=True)):  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
            if (found := _difference(one, other, f"{where}.{index}".lstrip("."))) is not None:
                return found
        return None
    return None if written == stored else where


def _dumped(value: Any) -> bytes:
    from pydantic_core import to_json

    # Only a given history may contain NaN; tool results do not.
    return to_json(value, inf_nan_mode="strings", bytes_mode="base64")


def _parsed(data: bytes | str, whose: str) -> Any:
    try:
        return parsed_json(data)
    except ValueError as error:
        raise CheckpointError(f"{whose} is not JSON: {error}.") from None


@cache
def _state_adapter() -> TypeAdapter[RunState]:
    from pydantic import TypeAdapter

    return TypeAdapter(RunState)


@cache
def _message_adapter() -> TypeAdapter[ModelMessage]:
    from typing import Annotated

    from pydantic import TypeAdapter

    return TypeAdapter(Annotated[ModelMessage, TaggedBy("kind")])


@cache
def _answer_adapter() -> TypeAdapter[CallAnswer]:
    from pydantic import TypeAdapter

    return TypeAdapter(CallAnswer)
