"""Files of preferences: a conversation with a chosen reply, a rejected reply, or both.

One JSON object a line (zstd if the name ends in `.zst`), in one of three forms:

- own form: `messages` and `tools` as in `sft.examples`; `chosen` and `rejected` are each `{"reply": ...}` or
  `{"calls": [...]}`. One of the two may be missing, for losses on single completions.
- pairs, as in TRL and most published sets: `prompt` (or `conversations`; a text or messages), `chosen`, `rejected`
  (texts, or the message after the prompt). Without `prompt`, the prompt is the common beginning of both sides.
  HH-RLHF writes it as one text with `Human:` and `Assistant:`.
- thumbs: `prompt`, `completion`, `label` (true: desirable).

This file does not need torch.
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
    """Reply of a model: a text, calls, or neither, which is an abstention."""

    calls: tuple[Call, ...] = ()
    reply: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if self.calls and self.reply is not None:
            raise ValueError("both calls and a reply are given; a reply is either calls or a text")
        return self


class Preference(_Data):
    """A conversation with a chosen reply, a rejected reply, or both."""

    id: str = Field(min_length=1)
    source: str = Field(min_length=1)
    license: str = Field(default=UNKNOWN, min_length=1)
    split: Literal["train", "validation", "test"] = "train"
    tools: tuple[Tool, ...] = ()
    messages: tuple[Message, ...] = Field(min_length=1)
    chosen: Reply | None = None
    rejected: Reply | None = None

    @model_validator(mode="after")
    def _check_replies(self) -> Self:
        if self.chosen is None and self.rejected is None:
            raise ValueError("neither chosen nor rejected is given; at least one reply is needed")
        if any(message.train for message in self.messages):
            raise ValueError("a message has train, which is for fine-tuning: a preference compares last replies")
        if self.chosen == self.rejected:
            raise ValueError("chosen and rejected are the same reply: a preference needs different replies")
        return self

    @property
    def is_pair(self) -> bool:
        """Whether both replies are given."""
        return self.chosen is not None and self.rejected is not None

    def example(self, reply: Reply) -> Example:
        """Return the conversation with one of its replies, as an example for fine-tuning."""
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
    """Yield the preferences of a file.

    Args:
        path: Path of the file.
        on_empty: Receives the line number of a preference with an empty reply or with two equal replies, which is
            then skipped; published sets have some. None: such a line is an error.

    Raises:
        UserError: The file is missing or truncated, a line has none of the forms, or an id occurs twice.
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
            raise UserError(f"{path}, line {number}: id {preference.id!r} occurs twice; ids of a file are unique")
        seen.add(preference.id)
        yield preference


def _ours(record: Mapping[str, Any], path: Path, number: int) -> dict[str, Any]:
    """Return a record of any form in the own form.

    Raises:
        UserError: The record has none of the forms.
    """
    stem = path.name.split(".")[0]
    origin = {key: record[key] for key in ("id", "source", "license", "split") if key in record}
    origin = {"id": f"{stem}-{number}", "source": stem} | origin
    if "messages" in record:
        return dict(record) | origin
    if "label" in record and "completion" in record:
        if not isinstance(record["label"], bool):
            raise UserError(f"label is {record['label']!r}: it must be true (desirable) or false")
        side = "chosen" if record["label"] else "rejected"
        return origin | {"messages": _turns(record.get("prompt")), side: _reply(record["completion"])}
    if "chosen" not in record or "rejected" not in record:
        raise UserError(
            f"keys are {sorted(record)[:8]}: a preference needs messages with chosen or rejected, or prompt, "
            f"chosen and rejected, or prompt, completion and label"
        )
    chosen, rejected = record["chosen"], record["rejected"]
    prompt = record.get("prompt", record.get("conversations"))
    if prompt is not None:
        return origin | {"messages": _turns(prompt), "chosen": _reply(chosen), "rejected": _reply(rejected)}
    sides = [_turns(_marked_turns(side) if isinstance(side, str) else side) for side in (chosen, rejected)]
    if min(map(len, sides)) < 2 or sides[0][:-1] != sides[1][:-1]:
        raise UserError("without a prompt, chosen and rejected must be messages that differ in the last one only")
    return origin | {"messages": sides[0][:-1], "chosen": _reply(sides[0][-1:]), "rejected": _reply(sides[1][-1:])}


def _prefers_nothing(ours: Mapping[str, Any]) -> bool:
    sides = [ours[side] for side in ("chosen", "rejected") if ours.get(side) is not None]
    return any(side == {"reply": ""} for side in sides) or (len(sides) == 2 and sides[0] == sides[1])


def _turns(value: Any) -> list[dict[str, str]]:
    """Return messages from a text, which is a user's, or from a list of messages with either set of usual keys."""
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise UserError(f"a prompt must be a text or a list of messages; this one is {str(value)[:60]!r}")
    return [_turn(message) for message in value]


def _marked_turns(text: str) -> list[dict[str, str]]:
    """Return the messages of a conversation that is one text, as in HH-RLHF."""
    parts = _MARK.split(text)
    if len(parts) < 3 or parts[0].strip():
        raise UserError(
            "chosen and rejected are texts without a prompt and do not begin with '\\n\\nHuman:': add a prompt"
        )
    roles = ("human" if who == "Human" else "gpt" for who in parts[1::2])
    return [{"role": role, "content": said.strip()} for role, said in zip(roles, parts[2::2], strict=True)]


def _turn(message: Any) -> dict[str, str]:
    if not isinstance(message, dict):
        raise UserError(f"a message must be an object with role and content; this one is {str(message)[:60]!r}")
    role, content = message.get("role", message.get("from")), message.get("content", message.get("value"))
    if role not in _ROLES or not isinstance(content, str):
        raise UserError(
            f"a message needs a role of {sorted(set(_ROLES.values()))} and a text; its role is {role!r}"
        )
    return {"role": _ROLES[role], "content": content}


def _reply(value: Any) -> dict[str, str]:
    """Return the single assistant message of a side."""
    if isinstance(value, str):
        return {"reply": value}
    turns = _turns([value] if isinstance(value, dict) else value)
    if len(turns) != 1 or turns[0]["role"] != "assistant":
        raise UserError("a side must be a text or one assistant message after the prompt")
    return {"reply": turns[0]["content"]}
