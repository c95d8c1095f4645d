"""Prompts to put through a constitution: a file of requests, each perhaps with replies that are there already.

One JSON object a line (zstd where the name ends in `.zst`): `prompt` (a text) or `messages` (role and content, the
last one the user's); `id`, `license`, `keep` and `replies` may stand beside it.
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
    """A conversation that waits for a reply."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1)
    messages: tuple[Message, ...] = Field(min_length=1)
    license: str = Field(default=UNKNOWN, min_length=1)
    keep: bool = False
    """Whether its first reply is learnt as it is: such prompts keep a model helpful, and are not criticised."""
    replies: tuple[Annotated[str, StringConstraints(min_length=1)], ...] = Field(default=(), max_length=2)
    """Replies that are there: one to criticise, two to compare; none: the replier is asked."""

    @model_validator(mode="after")
    def _waits_for_a_reply(self) -> Self:
        if any(message.role == "tool" or message.calls or message.train for message in self.messages):
            raise ValueError("a prompt is words of system, user and assistant: no tools, calls or train")
        texts = [self.id, self.license, *(message.content for message in self.messages), *self.replies]
        if any(_HALF.search(text) for text in texts):
            raise ValueError("a text has half of a surrogate pair, which is no character; repair the file")
        if self.messages[-1].role != "user":
            raise ValueError(f"the last message is the {self.messages[-1].role}'s; a prompt ends with the user's")
        if not self.asked.strip():
            raise ValueError("the last message is empty; there is nothing to answer")
        return self

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The conversation as a model is asked."""
        return tuple(Turn(message.role, message.content) for message in self.messages if message.role != "tool")

    @property
    def asked(self) -> str:
        """What the user said last."""
        return self.messages[-1].content


def read_prompts(path: str | os.PathLike[str]) -> list[Prompt]:
    """Return the prompts of a file.

    Raises:
        UserError: The file is not there, empty or cut short, a line is no prompt, or an id comes twice.
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
            raise UserError(f"{path}, line {number}: id {prompt.id!r} comes twice; ids of a file are unique")
        prompts[prompt.id] = prompt
    if not prompts:
        raise UserError(f'{path} has no prompt; one is a line like {{"prompt": "How do I ..."}}')
    return list(prompts.values())


def _prompt(record: Any, id: str) -> Prompt:
    if not isinstance(record, dict):
        raise UserError("a prompt is a JSON object")
    content = {"id": id} | record
    if ("prompt" in content) == ("messages" in content):
        raise UserError(f"keys are {sorted(record)[:8]}: a prompt has either prompt, a text, or messages")
    if "prompt" in content:
        text = content.pop("prompt")
        content["messages"] = [{"role": "user", "content": text}]
    return Prompt.model_validate(content)
