"""Tasks for a policy: a conversation, and an item with the gold that a verifier judges replies by.

File format: one JSON object per line with `id`; `prompt` (a text) or `messages` (as in `sft.examples`); `tools`
if the reply may call tools; and `gold` in the form of the verifier (`golds`). `canary: true` marks a task that
cannot be solved.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from modelstack.data.examples import Example, Message, Tool, example_lines, first_error
from modelstack.errors import UserError
from modelstack.reasoning.tasks.golds import VerifierName, read_gold
from modelstack.reasoning.verifiers.rewards import Item
from modelstack.sft.rendering import render
from modelstack.tokenizer.chat import ChatEncoder


class TaskLine(BaseModel):
    """Task as written in a file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: str = Field(min_length=1)
    prompt: str | None = None
    messages: tuple[Message, ...] = ()
    tools: tuple[Tool, ...] = ()
    gold: Any
    canary: bool = False
    license: str = "unknown"
    source: str = ""

    @model_validator(mode="after")
    def _can_be_asked(self) -> Self:
        if (self.prompt is None) == (not self.messages):
            raise ValueError("give either prompt, a text, or messages")
        if self.messages and self.messages[-1].role == "assistant":
            raise ValueError("the last message is the assistant's, but the policy writes the reply: remove it")
        if any(message.train for message in self.messages):
            raise ValueError(
                "train is for fine-tuning examples, but a policy learns from its own replies: leave it out"
            )
        names = [tool.name for tool in self.tools]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"tool {twice!r} is given twice; names must be unique")
        return self


@dataclass(frozen=True, slots=True)
class PolicyTask:
    """Prompt, and the item that replies are judged by."""

    item: Item[Any]
    messages: tuple[Message, ...]
    license: str = "unknown"
    tools: tuple[Tool, ...] = ()

    @property
    def asked(self) -> str:
        """Return the text that identifies the question: everything that the model is shown."""
        return "\n".join(part.model_dump_json() for part in (*self.tools, *self.messages))

    def prompt_ids(self, encoder: ChatEncoder) -> list[int]:
        """Return the token ids of the conversation up to the beginning of the reply.

        The ids equal those of a fine-tuning example with the same conversation, and therefore those of the
        runtime.

        Raises:
            UserError: The chat format does not support a turn of the conversation.
        """
        example = Example(
            id=self.item.id,
            source="task",
            license=self.license,
            kind="answer",
            tools=self.tools,
            messages=self.messages,
            reply="-",
        )
        rendered = render(example, encoder)
        return rendered.ids[: rendered.labels_at.index(True)]

    def judged_by(self, verifier: VerifierName) -> PolicyTask:
        """Return the task with its gold in the form that a verifier reads.

        Raises:
            UserError: The gold has another form, or can never be met or evaluated.
        """
        try:
            gold = read_gold(verifier, self.item.gold, [tool.spec() for tool in self.tools])
        except ValueError as error:
            raise UserError(f"task {self.item.id!r}: {error}") from error
        return replace(self, item=replace(self.item, gold=gold))


def read_tasks(path: str | os.PathLike[str]) -> Iterator[PolicyTask]:
    """Yield the tasks of a file in order, with golds as written.

    Raises:
        UserError: The file is missing, a line is not a task, or an id is not unique.
    """
    path = Path(path)
    seen: set[str] = set()
    for number, raw in enumerate(example_lines(path), 1):
        if not raw.strip():
            continue
        try:
            line = TaskLine.model_validate_json(raw)
        except ValidationError as error:
            raise UserError(f"{path}, line {number}: {first_error(error)}") from error
        if line.id in seen:
            raise UserError(
                f"{path}, line {number}: id {line.id!r} occurs twice; ids must be unique within a file"
            )
        seen.add(line.id)
        messages = line.messages or (Message(role="user", content=line.prompt or ""),)
        item = Item(line.id, line.gold, prompt=messages[-1].content, is_canary=line.canary)
        yield PolicyTask(item, messages, line.license, line.tools)
