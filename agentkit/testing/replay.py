"""A model that replays the responses of a trace: an application's run without weights or a server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agentkit.errors import UnexpectedModelBehavior
from agentkit.events import ModelRequestEvent, ModelResponseEvent
from agentkit.messages import ModelMessage, ModelRequest, ModelResponse
from agentkit.models.base import ModelRequestParameters, OnDelta
from agentkit.testing.models import NamedModel, told_deltas
from agentkit.tracing.reading import read_events


class ReplayModel(NamedModel):
    """Returns the responses of a trace in order, as long as the requests are those of the trace."""

    def __init__(self, trace: str | Path, *, name: str = "replay") -> None:
        """Read the trace of one run.

        Raises:
            UserError: the file is not a trace.
        """
        super().__init__(name)
        self._turns: list[tuple[tuple[ModelRequest, ...], ModelResponse]] = []
        asked: tuple[ModelRequest, ...] = ()
        for _, event in read_events(Path(trace)):
            if isinstance(event, ModelRequestEvent):
                asked = event.messages
            elif isinstance(event, ModelResponseEvent):
                self._turns.append((asked, event.response))
        self._n_given = 0

    async def request(
        self,
        messages: Sequence[ModelMessage],
        parameters: ModelRequestParameters,
        *,
        on_delta: OnDelta | None = None,
    ) -> ModelResponse:
        """Return the next response.

        Raises:
            UnexpectedModelBehavior: the trace has no more responses, or its request was different.
        """
        if self._n_given == len(self._turns):
            raise UnexpectedModelBehavior(f"the trace has {len(self._turns)} responses; another one is asked for.")
        asked, response = self._turns[self._n_given]
        new = [message for message in messages if isinstance(message, ModelRequest)][-len(asked) :]
        then, now = _said(asked), _said(new)
        if then != now:
            raise UnexpectedModelBehavior(
                f"request {self._n_given + 1} is not the one of the trace: then it asked {_first(then, now)!r}, "
                f"now {_first(now, then)!r}."
            )
        self._n_given += 1
        return told_deltas(response, on_delta)


def _said(messages: Sequence[ModelRequest]) -> list[tuple[str, str, str | None]]:
    """Return parts without the ids of calls."""
    return [
        (part.part_kind, part.text, getattr(part, "tool_name", None))
        for message in messages
        for part in message.parts
    ]


def _first(these: Sequence[object], others: Sequence[object]) -> object:
    return next((one for index, one in enumerate(these) if index >= len(others) or others[index] != one), None)
