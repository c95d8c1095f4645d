"""The stored form of a run's state: JSON with a version, read back strictly.

A stored state is untrusted: somebody may have edited it. It holds data only, no class names, nothing that is
executed or imported (the way in of LangGraph CVE-2025-64439 and langchain-core CVE-2025-68664), and it is accepted
only if writing what was read gives the same JSON again. So a key that means nothing here, wherever it stands, is
an error rather than something that is carried along.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from agentkit.errors import CheckpointError
from agentkit.json_values import parsed_json
from agentkit.messages import ModelMessage
from agentkit.state import CallAnswer, RunState
from agentkit.tagged import TaggedBy

if TYPE_CHECKING:
    from pydantic import TypeAdapter

STATE_VERSION = 2
"""Version 2 numbers the attempts of calls, and holds the runs of agents that serve as tools."""
_VERSION = "schema_version"
_MESSAGES = "messages"


def state_to_json(state: RunState) -> bytes:
    """Return a state as JSON, conversation included."""
    return _dumped({_VERSION: STATE_VERSION, **_fields(state), _MESSAGES: state.messages})


def state_from_json(data: bytes | str) -> RunState:
    """Read a state back.

    Raises:
        CheckpointError: it is damaged, of another version, or not as `state_to_json` writes it.
    """
    return _state(_parsed(data, "the state"), "the state")


def head_to_json(state: RunState) -> bytes:
    """Return all of a state but its messages, which a journal keeps beside it."""
    return _dumped({_VERSION: STATE_VERSION, **_fields(state)})


def head_from_json(data: bytes | str, messages: tuple[ModelMessage, ...], *, whose: str) -> RunState:
    """Put a state together again.

    Raises:
        CheckpointError: as `state_from_json`.
    """
    from dataclasses import replace

    head = _parsed(data, whose)
    return replace(_state({**head, _MESSAGES: []}, whose), messages=messages)


def message_to_json(message: ModelMessage) -> bytes:
    """Return one message as JSON."""
    return _dumped(message)


def message_from_json(data: bytes | str, *, whose: str) -> ModelMessage:
    """Read one message back.

    Raises:
        CheckpointError: it is not as `message_to_json` writes it.
    """
    return _read(_message_adapter(), _parsed(data, whose), whose)


def answer_to_json(part: CallAnswer) -> bytes:
    """Return the answer to one call as JSON."""
    return _dumped(part)


def answer_from_json(data: bytes | str, *, whose: str) -> CallAnswer:
    """Read the answer to one call back.

    Raises:
        CheckpointError: it is not as `answer_to_json` writes it.
    """
    return _read(_answer_adapter(), _parsed(data, whose), whose)


def ids_to_json(ids: Sequence[str]) -> bytes:
    """Return a list of calls' ids as JSON."""
    return _dumped(ids)


def ids_from_json(data: bytes | str, *, whose: str) -> list[str]:
    """Read a list of calls' ids back.

    Raises:
        CheckpointError: it is something else.
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
    if version != STATE_VERSION:
        raise CheckpointError(
            f"{whose} has schema_version {version!r}; this version of agentkit reads up to {STATE_VERSION}. "
            f"Resume it with the version that wrote it."
        )
    return _read(_state_adapter(), known, whose)


def _from_version_1(known: dict[str, Any], whose: str) -> RunState:
    """Read a state whose questions did not say which attempt they allow; they are asked anew.

    An approval of a question of version 1 decides nothing any more: it could have been given for another attempt.
    """
    from dataclasses import replace

    from agentkit.questions import asked_now, attempted

    if isinstance(known.get("pending"), list):
        known["pending"] = [
            {**cast("dict[str, Any]", call), "attempt": 1} if isinstance(call, dict) else call
            for call in cast("list[Any]", known["pending"])
        ]
    state = cast("RunState", _read(_state_adapter(), {**known, "attempts": [], "inner": []}, whose))
    cut_off = [call.tool_call_id for call in state.pending if call.kind == "unknown"]
    state = attempted(state, dict.fromkeys((*cut_off, *state.in_doubt)))
    return replace(state, pending=tuple(asked_now(state, call) for call in state.pending))


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
    """Return the path of the first place where two JSON values differ, None if they are the same."""
    if type(written) is not type(stored):
        return where
    if isinstance(written, Mapping):
        for key in [*written, *(key for key in stored if key not in written)]:  # pyright: ignore[reportUnknownVariableType]
            path = f"{where}.{key}".lstrip(".")
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

    return to_json(value, inf_nan_mode="strings")  # of a history that was given; results of tools have none


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
