"""What is right at the end of an episode, as a task file says it, for worlds that are not in this process.

`{"state": {...}}` is the whole state that the world is to be in; `{"calls": [{"name", "arguments"}]}` are calls
that lead there, which are performed once, in a world of their own. With `n_changes`, no more calls than that may
change the world (by default as many as the gold's calls do); with `answer`, the last turn has to say it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from modelstack.data.examples import Call
from modelstack.errors import UserError
from modelstack.reasoning.verifiers.deeds import EpisodeTools, Witness
from modelstack.reasoning.verifiers.outcomes import OutcomeGold

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


class WorldGold(BaseModel):
    """A gold as it is written."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    state: dict[str, Any] | None = None
    calls: list[Call] | None = None
    n_changes: int | None = Field(default=None, ge=0)
    answer: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _says_one(self) -> Self:
        if (self.state is None) == (self.calls is None):
            raise ValueError("give state, what the world is to be, or calls that lead there; not both")
        return self

    def made_in(self, world: AbstractContextManager[EpisodeTools], item_id: str) -> OutcomeGold:
        """Return what a verifier takes.

        Args:
            world: A fresh one; it is opened where there are calls to be performed.
            item_id: For messages.

        Raises:
            UserError: A gold call is refused or fails, or the world cannot be read.
        """
        if self.calls is None:
            return OutcomeGold(self.state, self.n_changes, self.answer)
        with world as tools:
            end, n_changes = _performed(tools, self.calls, item_id)
        return OutcomeGold(end, n_changes if self.n_changes is None else self.n_changes, self.answer)


def _performed(tools: EpisodeTools, calls: Sequence[Call], item_id: str) -> tuple[Any, int]:
    witness = Witness(tools)
    for call in calls:
        done = witness.perform(call.name, json.dumps(call.arguments))
        if done.is_refused or done.has_failed:
            raise UserError(f"task {item_id!r}: a gold call of {call.name!r} is refused: {done.text[:200]}")
    run = witness.episode("", "answered", 1)
    if run.fault:
        raise UserError(f"task {item_id!r}: {run.fault}")
    try:
        return json.loads(run.end), run.n_changes
    except ValueError as error:
        raise UserError(f"task {item_id!r}: the gold calls lead to a state that is {run.end}") from error
