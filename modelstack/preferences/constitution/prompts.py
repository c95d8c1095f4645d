"""Prompts for the stages of the constitution: a file of requests, optionally with existing replies.

File format: one JSON object per line (zstd if the name ends in `.zst`) with `prompt` (a text) or `messages`
(role and content, the last one from the user), and optionally `id`, `license`, `keep` and `replies`.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from modelstack.data.examples import Message, example_lines, first_error
from modelstack.errors import UserError
from modelstack.preferences.constitution.asking import Turn
from modelstack.preferences.examples import UNKNOWN

_HALF = re.compile("[\ud800-\udfff]")


class Prompt(BaseModel):
    """Conversation that ends with a request of the user."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1)
    messages: tuple[Message, ...] = Field(min_length=1)
    license: str = Field(default=UNKNOWN, min_length=1)
    keep: bool = False
    """Whether to use the first reply unchanged, without critique; such prompts keep a model helpful."""
    replies: tuple[Annotated[str, StringConstraints(min_length=1)], ...] = Field(default=(), max_length=2)
    """Existing replies: one to criticise, two to compare; the replier writes missing ones."""

    @model_validator(mode="after")
    def _waits_for_a_reply(self) -> Self:
        if any(message.role == "tool" or message.calls or message.train for message in self.messages):
            raise ValueError(
                "a prompt may contain only text of system, user and assistant: no tools, calls or train"
            )
        texts = [self.id, self.license, *(message.content for message in self.messages), *self.replies]
        if any(_HALF.search(text) for text in texts):
            raise ValueError("a text has an unpaired surrogate, which is not a character: repair the file")
        if self.messages[-1].role != "user":
            raise ValueError(f"the last message is the {self.messages[-1].role}'s; it must be the user's")
        if not self.asked.strip():
            raise ValueError("the last message is empty: give a request")
        return self

    @property
    def turns(self) -> tuple[Turn, ...]:
        """Messages of the conversation as turns."""
        return tuple(Turn(message.role, message.content) for message in self.messages if message.role != "tool")

    @property
    def asked(self) -> str:
        """Last message of the user."""
        return self.messages[-1].content


def read_prompts(path: str | os.PathLike[str]) -> list[Prompt]:
    """Return the prompts of a file.

    Raises:
        UserError: The file is missing, empty or truncated, a line is not a prompt, or an id is not unique.
    """
    path = Path(path)
    prompts: dict[str, Prompt] = {}
    for number, line in enumerate(example_lines(path), 1):
        if not line.strip():
            continue
        try:
            prompt = _prompt(json.loads(line), f"{path.name.split('.')[0]}-{number}")
        except ValidationError as error:
            raise UserError(f"{path}, line {number}: {first_error(error)}") from error
        except (UserError, ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: {error}") from error
        if prompt.id in prompts:
            raise UserError(
                f"{path}, line {number}: id {prompt.id!r} occurs twice; ids must be unique within a file"
            )
        prompts[prompt.id] = prompt
    if not prompts:
        raise UserError(f'{path} has no prompts; a prompt is a line like {{"prompt": "How do I ..."}}')
    return list(prompts.values())


def _prompt(record: Any, id: str) -> Prompt:
    if not isinstance(record, dict):
        raise UserError("a prompt is a JSON object")
    content = {"id": id} | record
    if ("prompt" in content) == ("messages" in content):
        raise UserError(f"keys are {sorted(record)[:8]}: give either prompt, a text, or messages")
    if "prompt" in content:
        text = content.pop("prompt")
        content["messages"] = [{"role": "user", "content": text}]
    return Prompt.model_validate(content)
