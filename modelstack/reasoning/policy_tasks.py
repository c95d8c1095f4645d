"""Tasks that a policy is trained on: a conversation, and the item that a verifier judges replies by.

One JSON object a line: `id`, `prompt` (a text) or `messages` (as in `sft.examples`), and `gold`, whose form is the
verifier's: for `math` the answer as a text, for `json` a JSON Schema. `canary: true` marks a task that no reply
can do.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from modelstack.errors import UserError
from modelstack.reasoning.verifiers.formats import StrictJson
from modelstack.reasoning.verifiers.mathematics import MathVerifier
from modelstack.reasoning.verifiers.rewards import Item, Verifier
from modelstack.sft.examples import Message, example_lines, told
from modelstack.tokenizer.chat import ChatEncoder, Role

VerifierName = Literal["math", "json"]


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: str = Field(min_length=1)
    prompt: str | None = None
    messages: tuple[Message, ...] = ()
    gold: Any
    canary: bool = False
    license: str = "unknown"
    source: str = ""


@dataclass(frozen=True, slots=True)
class PolicyTask:
    """What is asked, and what judges the answer."""

    item: Item[Any]
    messages: tuple[Message, ...]
    license: str = "unknown"

    def prompt_ids(self, encoder: ChatEncoder) -> list[int]:
        """Return the conversation as the model reads it, up to where its reply begins."""
        ids: list[int] = []
        last: Role | None = None
        for message in self.messages:
            role: Role = message.role
            ids += encoder.encode_turn(role, message.content, previous=last).ids
            last = role
        return [*ids, *encoder.generation_ids(last or "user")]


def read_tasks(path: str | os.PathLike[str]) -> Iterator[PolicyTask]:
    """Give the tasks of a file, one after the other.

    Raises:
        UserError: The file is not there, a line is no task, or an id comes twice.
    """
    path = Path(path)
    seen: set[str] = set()
    for number, raw in enumerate(example_lines(path), 1):
        if not raw.strip():
            continue
        try:
            line = _Line.model_validate_json(raw)
        except ValidationError as error:
            raise UserError(f"{path}, line {number}: {told(error)}") from error
        if (line.prompt is None) == (not line.messages):
            raise UserError(f"{path}, line {number}: give prompt, a text, or messages, not both")
        if line.id in seen:
            raise UserError(f"{path}, line {number}: id {line.id!r} comes twice; ids of a file are unique")
        seen.add(line.id)
        messages = line.messages or (Message(role="user", content=line.prompt or ""),)
        said = messages[-1].content
        yield PolicyTask(Item(line.id, line.gold, prompt=said, is_canary=line.canary), messages, line.license)


def verifier_of(name: VerifierName) -> Verifier[Any]:
    """Return the verifier of a name.

    Raises:
        UserError: Its package is not installed.
    """
    return MathVerifier(lenient=True) if name == "math" else StrictJson(lambda item: item.gold)


def gold_complaint(name: VerifierName, task: PolicyTask) -> str:
    """Return what is wrong with a task's gold for a verifier; "" where nothing is."""
    gold = task.item.gold
    if name == "math" and not isinstance(gold, str):
        return f"task {task.item.id!r}: gold is {json.dumps(gold)[:60]}; for math it is the answer as a text"
    if name == "json" and not isinstance(gold, dict):
        return f"task {task.item.id!r}: gold is {json.dumps(gold)[:60]}; for json it is a JSON Schema"
    return ""
