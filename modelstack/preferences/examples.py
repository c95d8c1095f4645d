"""Preferences as people have them: a conversation, and a reply that was chosen, one that was rejected, or both.

One JSON object a line (zstd where the name ends in `.zst`), in one of three forms:

- ours: `messages` and `tools` as in `sft.examples`, `chosen` and `rejected` each `{"reply": ...}` or
  `{"calls": [...]}`; one of the two may be missing, for losses on single completions;
- pairs as TRL and most published sets have them: `prompt` (or `conversations`; a text or messages), `chosen`,
  `rejected` (texts, or the message that follows the prompt); without `prompt`, the messages that both sides begin
  with are it, which HH-RLHF writes as one text with `Human:` and `Assistant:` in it;
- thumbs: `prompt`, `completion`, `label` (true: it is desirable).

This file needs no torch.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from modelstack.data.examples import Call, Example, Message, Tool, example_lines, first_error
from modelstack.errors import UserError

UNKNOWN = "unknown"
_MARK = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Reply(_Data):
    """What a model may answer: words, calls, or with neither an abstention."""

    calls: tuple[Call, ...] = ()
    reply: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _is_one_of_two(self) -> Self:
        if self.calls and self.reply is not None:
            raise ValueError("both calls and a reply are given; an answer is one of them")
        return self


class Preference(_Data):
    """One conversation and what was thought of replies to it."""

    id: str = Field(min_length=1)
    source: str = Field(min_length=1)
    license: str = Field(default=UNKNOWN, min_length=1)
    split: Literal["train", "validation", "test"] = "train"
    tools: tuple[Tool, ...] = ()
    messages: tuple[Message, ...] = Field(min_length=1)
    chosen: Reply | None = None
    rejected: Reply | None = None

    @model_validator(mode="after")
    def _prefers_something(self) -> Self:
        if self.chosen is None and self.rejected is None:
            raise ValueError("neither chosen nor rejected is given; at least one reply is needed")
        if any(message.train for message in self.messages):
            raise ValueError("a message with train is for fine-tuning: a preference is about the last reply")
        if self.chosen == self.rejected:
            raise ValueError("chosen and rejected are the same reply; nothing is preferred")
        return self

    @property
    def is_pair(self) -> bool:
        """Whether both replies are there."""
        return self.chosen is not None and self.rejected is not None

    def example(self, reply: Reply) -> Example:
        """Return the conversation with a reply to it, as fine-tuning would learn it."""
        kind = "call" if reply.calls else "irrelevant" if reply.reply is None else "answer"
        return Example(
            id=self.id,
            source=self.source,
            license=self.license,
            kind=kind,
            tools=self.tools,
            messages=self.messages,
            calls=reply.calls,
            reply=reply.reply,
        )


def read_preferences(
    path: str | os.PathLike[str], on_empty: Callable[[int], object] | None = None
) -> Iterator[Preference]:
    """Give the preferences of a file, one after the other.

    Args:
        path: Of the file.
        on_empty: Is told the number of a line whose reply is empty, or whose two replies are the same, which then
            is left out: published sets have some. None: such a line is an error.

    Raises:
        UserError: The file is not there or cut short, a line is in none of the forms, or an id comes twice.
    """
    path = Path(path)
    seen: set[str] = set()
    for number, line in enumerate(example_lines(path), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise UserError("a preference is a JSON object")
            ours = _ours(record, path, number)
            if on_empty is not None and _prefers_nothing(ours):
                on_empty(number)
                continue
            preference = Preference.model_validate_json(json.dumps(ours))
        except ValidationError as error:
            raise UserError(f"{path}, line {number}: {first_error(error)}") from error
        except (UserError, ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: {error}") from error
        if preference.id in seen:
            raise UserError(f"{path}, line {number}: id {preference.id!r} comes twice; ids of a file are unique")
        seen.add(preference.id)
        yield preference


def _ours(record: Mapping[str, Any], path: Path, number: int) -> dict[str, Any]:
    """Return a record of any form in ours.

    Raises:
        UserError: It is in none of the forms.
    """
    stem = path.name.split(".")[0]
    origin = {key: record[key] for key in ("id", "source", "license", "split") if key in record}
    origin = {"id": f"{stem}-{number}", "source": stem} | origin
    if "messages" in record:
        return dict(record) | origin
    if "label" in record and "completion" in record:
        if not isinstance(record["label"], bool):
            raise UserError(f"label is {record['label']!r}; it is true (desirable) or false")
        side = "chosen" if record["label"] else "rejected"
        return origin | {"messages": _turns(record.get("prompt")), side: _reply(record["completion"])}
    if "chosen" not in record or "rejected" not in record:
        raise UserError(
            f"keys are {sorted(record)[:8]}: a preference has messages with chosen or rejected, or prompt, chosen "
            f"and rejected, or prompt, completion and label"
        )
    chosen, rejected = record["chosen"], record["rejected"]
    prompt = record.get("prompt", record.get("conversations"))
    if prompt is not None:
        return origin | {"messages": _turns(prompt), "chosen": _reply(chosen), "rejected": _reply(rejected)}
    sides = [_turns(_marked_turns(side) if isinstance(side, str) else side) for side in (chosen, rejected)]
    if min(map(len, sides)) < 2 or sides[0][:-1] != sides[1][:-1]:
        raise UserError("without a prompt, chosen and rejected are messages that differ in the last one alone")
    return origin | {"messages": sides[0][:-1], "chosen": _reply(sides[0][-1:]), "rejected": _reply(sides[1][-1:])}


def _prefers_nothing(ours: Mapping[str, Any]) -> bool:
    sides = [ours[side] for side in ("chosen", "rejected") if ours.get(side) is not None]
    return any(side == {"reply": ""} for side in sides) or (len(sides) == 2 and sides[0] == sides[1])


def _turns(value: Any) -> list[dict[str, str]]:
    """Return messages of a text (a user's) or of a list of messages, by either of the usual names of keys."""
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise UserError(f"a prompt is a text or a list of messages; this one is {str(value)[:60]!r}")
    return [_turn(message) for message in value]


def _marked_turns(text: str) -> list[dict[str, str]]:
    """Return the messages of a conversation in one text, as HH-RLHF has it."""
    parts = _MARK.split(text)
    if len(parts) < 3 or parts[0].strip():
        raise UserError(
            "chosen and rejected are texts without a prompt, and do not begin with '\\n\\nHuman:': give a prompt"
        )
    roles = ("human" if who == "Human" else "gpt" for who in parts[1::2])
    return [{"role": role, "content": said.strip()} for role, said in zip(roles, parts[2::2], strict=True)]


def _turn(message: Any) -> dict[str, str]:
    if not isinstance(message, dict):
        raise UserError(f"a message is an object with role and content; this one is {str(message)[:60]!r}")
    role, content = message.get("role", message.get("from")), message.get("content", message.get("value"))
    if role not in _ROLES or not isinstance(content, str):
        raise UserError(f"a message has a role of {sorted(set(_ROLES.values()))} and a text; here {role!r}")
    return {"role": _ROLES[role], "content": content}


def _reply(value: Any) -> dict[str, str]:
    """Return the one message of the assistant that a side consists of."""
    if isinstance(value, str):
        return {"reply": value}
    turns = _turns([value] if isinstance(value, dict) else value)
    if len(turns) != 1 or turns[0]["role"] != "assistant":
        raise UserError("a side is a text or one message of the assistant, after the prompt")
    return {"reply": turns[0]["content"]}
