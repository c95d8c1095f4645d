"""Training examples for tool use: a conversation, the available tools and the correct reply.

A file holds one JSON object per line, compressed with zstd when its name ends in `.zst`. The target is `calls`, or
`reply` when no call is correct. Without either, the correct reply is to abstain, which the convention writes `[]`.
Earlier turns of the assistant are context; a turn with `train` is a target too.

Files are untrusted input. An invalid line is refused with its number, the value and the rule. Validating calls
against the schemas of their tools costs more and is a separate function: `check_example`.

This module does not import torch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from modelstack.errors import UserError, reason_of
from modelstack.files import replacing
from modelstack.toolcalls.convention import ToolSpec
from modelstack.toolcalls.grammar.pointers import SchemaReferenceError
from modelstack.toolcalls.grammar.schemas import MergeError, normalise
from modelstack.toolcalls.grammar.validation import SchemaValidator, check_schema
from modelstack.zstd_files import open_unpacked

Kind = Literal["call", "parallel", "multi", "clarify", "irrelevant", "answer"]
"""Kind of target.

In this order: one call; several calls of one tool; calls of several tools; a clarifying question; no tool fits; an
answer in words.
"""
KINDS_WITH_CALLS: frozenset[Kind] = frozenset({"call", "parallel", "multi"})
LONGEST_LINE = 1 << 24
"""Maximum bytes of one example; the longest real examples have about ten thousand."""
_READ_BYTES = 1 << 16
_SHOWN = 80
"""Maximum characters of an invalid value quoted in a message."""
_LEVEL = 10
"""zstd compression level: within 5 % of the smallest size in a tenth of the time."""


class _Data(BaseModel):
    """Base of all parts of an example: immutable, no unknown keys, no type coercion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Tool(_Data):
    """A tool as described to the model."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict[str, Any])
    """JSON Schema of the arguments object."""

    @model_validator(mode="after")
    def _check_writable(self) -> Self:
        self.spec()
        _check_json(self.parameters)
        return self

    def spec(self) -> ToolSpec:
        """Return the tool in the convention's form."""
        return ToolSpec(self.name, self.description, self.parameters)


class Call(_Data):
    """A tool call with its arguments."""

    name: str
    arguments: dict[str, Any] = Field(default_factory=dict[str, Any])

    @model_validator(mode="after")
    def _check_writable(self) -> Self:
        ToolSpec(self.name, "", {})
        _check_json(self.arguments)
        return self


class Message(_Data):
    """A turn of the conversation before the target."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    calls: tuple[Call, ...] = ()
    """Calls made by the assistant; when present, the content is not shown."""
    name: str | None = None
    """Name of the tool that returned this result; None: the tool of the call at the same position."""
    train: bool = False
    """Whether this assistant turn is also a training target."""

    @model_validator(mode="after")
    def _check_role(self) -> Self:
        if self.role != "assistant" and (self.calls or self.train):
            raise ValueError(f"calls and train are for the role assistant; this one is {self.role}")
        if self.role != "tool" and self.name is not None:
            raise ValueError(f"name is for the role tool; this one is {self.role}")
        return self


class Example(_Data):
    """A conversation with its target."""

    id: str = Field(min_length=1)
    source: str = Field(min_length=1)
    license: str = Field(min_length=1)
    split: Literal["train", "validation", "test"] = "train"
    kind: Kind
    tools: tuple[Tool, ...] = ()
    messages: tuple[Message, ...] = Field(min_length=1)
    calls: tuple[Call, ...] = ()
    """Calls of the target; empty: no call is correct."""
    reply: str | None = Field(default=None, min_length=1)
    """Reply of the target when there are no calls; without either, the target is to abstain."""
    prefill: str = ""
    """Beginning of the reply that is given and not learnt; the target continues it."""
    unfinished: bool = False
    """Whether the reply goes on after its last word, so that its end is not learnt."""
    abstain: bool = True
    """Whether the prompt offers `[]`, provided that the run's options offer it."""

    @model_validator(mode="after")
    def _check_target(self) -> Self:
        if self.calls and self.reply is not None:
            raise ValueError("both calls and a reply are given; the target is one of them")
        if self.prefill and self.reply is None:
            raise ValueError("prefill is the beginning of a reply in words, and there is no reply")
        if self.unfinished and self.reply is None:
            raise ValueError("unfinished is said of a reply in words, and there is no reply")
        if self.messages[-1].role == "assistant":
            raise ValueError("the last message is the assistant's; give its content as calls or reply")
        names = [tool.name for tool in self.tools]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"tool {twice!r} is given twice; names must be unique")
        return self

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """The tools in the convention's form."""
        return tuple(tool.spec() for tool in self.tools)


def read_examples(path: str | os.PathLike[str]) -> Iterator[Example]:
    """Yield the examples of a file in order.

    Raises:
        UserError: The file is missing or truncated, a line is not a valid example, or an id occurs twice.
    """
    path = Path(path)
    seen: set[str] = set()
    for number, line in enumerate(example_lines(path), 1):
        if not line.strip():
            continue
        try:
            example = Example.model_validate_json(line)
        except ValidationError as error:
            raise UserError(f"{path}, line {number}: {first_error(error)}") from error
        if example.id in seen:
            raise UserError(
                f"{path}, line {number}: id {example.id!r} occurs twice; ids must be unique within a file"
            )
        seen.add(example.id)
        yield example


def write_examples(path: str | os.PathLike[str], examples: Iterable[Example]) -> int:
    """Write a file of examples atomically and return their number. Equal examples give equal bytes."""
    path = Path(path)
    n_examples = 0
    with (
        replacing(path) as temporary,
        temporary.open("wb") as raw,
        _compressed(raw) if path.suffix == ".zst" else raw as file,
    ):
        for example in examples:
            file.write(as_line(example))
            n_examples += 1
    return n_examples


def as_line(example: Example) -> bytes:
    """Return an example as one line of a file, without fields at their default; `calls` is always written."""
    record = example.model_dump(exclude_defaults=True) | {"split": example.split}
    reply = record.pop("reply", None)
    record |= {"calls": record.pop("calls", ())} | ({} if reply is None else {"reply": reply})
    return json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def check_example(example: Example) -> None:
    """Check that the kind fits the target and that each trained call satisfies the closed schema of its tool.

    Raises:
        UserError: A check fails; the message names the example, the call, the value and the rule.
    """
    if bool(example.calls) != (example.kind in KINDS_WITH_CALLS):
        raise UserError(
            f"example {example.id!r} ({example.source}): kind {example.kind!r} with {len(example.calls)} calls; "
            f"{sorted(KINDS_WITH_CALLS)} need calls, the other kinds have none"
        )
    tools = {tool.name: tool for tool in example.tools}
    turns = [message.calls for message in example.messages if message.train]
    for call in (call for calls in [*turns, example.calls] for call in calls):
        where = f"example {example.id!r} ({example.source}), call of {call.name!r}"
        if call.name not in tools:
            raise UserError(f"{where}: the tools shown are {sorted(tools)}; call one of them")
        try:
            validator = _validator(json.dumps(tools[call.name].parameters, sort_keys=True))
        except (MergeError, SchemaReferenceError, UserError) as error:
            raise UserError(f"{where}: the tool's parameters are not a valid schema: {error}") from error
        errors = validator.errors(call.arguments)
        if errors:
            raise UserError(f"{where}: {errors[0]} (the arguments are {_shown(call.arguments)})")


def tool_names_of_results(messages: Sequence[Message]) -> list[str | None]:
    """Return for each message the name of the tool whose result it is; None for other roles.

    A result without a name belongs to the call at the same position in the preceding assistant turn. Surplus
    results belong to the last call.

    Raises:
        UserError: A result without a name has no preceding call.
    """
    names: list[str | None] = []
    calls: tuple[Call, ...] = ()
    at = 0
    for message in messages:
        if message.role != "tool":
            names.append(None)
            if message.role == "assistant":
                calls, at = message.calls, 0
            continue
        if message.name is None and not calls:
            raise UserError(
                f"a tool result ({_shown(message.content)}) follows no call; set the message's `name` to the tool"
            )
        names.append(message.name or calls[min(at, len(calls) - 1)].name)
        at += 1
    return names


def first_error(error: ValidationError) -> str:
    """Return the first validation error: location, rule, value."""
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"])) or "the example"
    return f"{place}: {reason_of(first)} (given: {_shown(first['input'])})"


@lru_cache(maxsize=4096)
def _validator(parameters: str) -> SchemaValidator:
    schema = json.loads(parameters)
    wrong = check_schema(schema)
    if wrong is not None:
        raise UserError(f"{wrong[0] or 'the root'}: {wrong[1]}")
    return SchemaValidator(schema, normalise(schema, is_arguments=True))


def _check_json(value: dict[str, Any]) -> None:
    """Reject values that JSON cannot represent: NaN, infinity, lone surrogates, other objects."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"not a JSON value: {error}") from error


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _compressed(raw: Any) -> Any:
    import zstandard

    return zstandard.ZstdCompressor(level=_LEVEL).stream_writer(raw, closefd=False)


def example_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file; refuse an overlong line without holding it in memory."""
    rest = b""
    n_lines = 0
    for block in _blocks(path):
        *lines, rest = (rest + block).split(b"\n")
        n_lines += len(lines)
        if len(rest) > LONGEST_LINE:
            raise UserError(
                f"{path}, line {n_lines + 1}: over {LONGEST_LINE} bytes without line end; one example is one line"
            )
        yield from lines
    if rest:
        yield rest


def _blocks(path: Path) -> Iterator[bytes]:
    """Yield the decompressed content of a file in blocks."""
    try:
        with open_unpacked(path) as raw:
            yield from iter(lambda: raw.read(_READ_BYTES), b"")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
