"""Golds of episodes in worlds outside this process, as written in a task file.

`{"state": {...}}` is the expected state of the world at the end. `{"calls": [{"name", "arguments"}]}` are calls
that lead to it, executed once in a separate world. `n_changes` is the maximum number of calls that change the
world (default: as many as the gold's calls). `answer` is the expected answer in the last turn.
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
    """Gold as written in a task file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    state: dict[str, Any] | None = None
    calls: list[Call] | None = None
    n_changes: int | None = Field(default=None, ge=0)
    answer: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _says_one(self) -> Self:
        if (self.state is None) == (self.calls is None):
            raise ValueError("give either state, the expected end state, or calls that lead to it")
        return self

    def made_in(self, world: AbstractContextManager[EpisodeTools], item_id: str) -> OutcomeGold:
        """Return the gold in the form that the verifier reads.

        Args:
            world: New world, opened only if there are calls to execute.
            item_id: Id of the task, for error messages.

        Raises:
            UserError: A gold call is refused or fails, or the state of the world cannot be read.
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
        raise UserError(f"task {item_id!r}: the state after the gold calls is not JSON: {run.end}") from error
