"""Stored form of the events of a run: JSON, validated when it is read, because a file may have been edited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from agentkit.basics.json_values import parsed_json, written_json
from agentkit.errors import CheckpointError
from agentkit.events import AgentEvent
from agentkit.file_references import Files, event_with_references

if TYPE_CHECKING:
    from pydantic import TypeAdapter


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as the journal has it."""

    number: int
    """Number within the run, from 1, without gaps."""
    time: float
    """Time at which it was sent, in seconds since 1970."""
    body: str
    """The event as JSON, with a reference in place of each file."""
    files: Files = field(default_factory=dict[str, bytes], repr=False, compare=False)
    """The files of an event that is being stored; empty when it is read."""

    def without_files(self) -> StoredEvent:
        """Return the event as it is read: its files are stored."""
        return StoredEvent(self.number, self.time, self.body) if self.files else self

    @property
    def event(self) -> AgentEvent:
        """The event.

        Raises:
            CheckpointError: it is damaged.
        """
        return event_from_json(self.body, whose=f"number {self.number}")


def event_to_json(event: AgentEvent) -> str:
    """Return an event as JSON; an output without a JSON form becomes text."""
    return written_json(event).decode()


def numbered(sent: Sequence[tuple[float, AgentEvent]], last: int) -> list[StoredEvent]:
    """Return events as they are stored behind the event `last`."""
    return [_stored(last + n, at, event) for n, (at, event) in enumerate(sent, start=1)]


def _stored(number: int, at: float, event: AgentEvent) -> StoredEvent:
    files: Files = {}
    body = event_to_json(event_with_references(event, files))
    return StoredEvent(number, at, body, files)


def event_from_json(data: bytes | str, *, whose: str) -> AgentEvent:
    """Parse an event.

    Raises:
        CheckpointError: the data are not an event that this version knows.
    """
    from pydantic import ValidationError

    try:
        return event_adapter().validate_python(parsed_json(data))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "(top level)"
        raise CheckpointError(f"event {whose} is damaged at {where}: {first['msg']}.") from None
    except ValueError as error:
        raise CheckpointError(f"event {whose} is not JSON: {error}.") from None


@cache
def event_adapter() -> TypeAdapter[AgentEvent]:
    """Return the validator of events."""
    from pydantic import TypeAdapter

    return TypeAdapter(AgentEvent)
