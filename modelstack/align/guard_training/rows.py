"""Rows of a guard: conversations with a verdict on their last message.

A file is JSON Lines:

    {"id": "g1", "turns": [{"role": "user", "content": "..."}], "unsafe": true, "categories": ["S2"],
     "source": "advbench", "license": "MIT"}

`categories` may be missing for an unsafe row: its verdict is `unsafe` under every policy, and its second line is
no target.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from modelstack.align.guard_model.policy import MLCOMMONS
from modelstack.align.guard_model.prompt import GuardTurn, Judged
from modelstack.errors import UserError


class Turn(BaseModel, frozen=True, extra="forbid"):
    """A message."""

    role: Judged
    content: str = Field(min_length=1)


class GuardRow(BaseModel, frozen=True, extra="forbid"):
    """A conversation and the verdict on its last message."""

    id: str
    turns: tuple[Turn, ...] = Field(min_length=1)
    unsafe: bool
    categories: tuple[str, ...] = ()
    """Violated categories of the MLCommons policy; empty for an unsafe row: unknown."""
    source: str
    license: str
    pair: str | None = None
    """Name that a harmful row and its harmless twin share; both are always in the same batch."""
    ordinary: bool = False
    """Whether the row is ordinary traffic, on which false alarms are counted."""

    @model_validator(mode="after")
    def _check_categories(self) -> Self:
        if self.categories and not self.unsafe:
            raise ValueError("a safe row violates no category; leave categories out")
        if unknown := set(self.categories) - set(MLCOMMONS.codes):
            raise ValueError(f"category {min(unknown)!r} is not one of {', '.join(MLCOMMONS.codes)}")
        return self

    @property
    def judged(self) -> Judged:
        """Role of the judged message."""
        return self.turns[-1].role

    @property
    def guard_turns(self) -> list[GuardTurn]:
        """The conversation as the prompt takes it."""
        return [GuardTurn(turn.role, turn.content) for turn in self.turns]


def read_rows(path: str | Path) -> Iterator[GuardRow]:
    """Yield the rows of a file.

    Raises:
        UserError: The file cannot be read, or a line is no row.
    """
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    try:
                        yield GuardRow.model_validate_json(line)
                    except ValidationError as error:
                        first = error.errors()[0]
                        place = ".".join(map(str, first["loc"])) or "row"
                        raise UserError(f"{path}, line {number}: {place}: {first['msg']}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
