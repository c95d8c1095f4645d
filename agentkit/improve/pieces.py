"""Pieces of a prompt that an improvement may change: instructions, rules, demonstrations, descriptions of tools.

Names and schemas of tools never change, so neither approvals nor the taint rule see another tool. Each piece names
its source. Pieces are read from files, so they are checked when they are made: bounded in size, without hidden
characters.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, model_validator

from agentkit.basics.hidden import strip_prose

MAX_TEXT_CHARS = 12_000
"""Maximum characters of all pieces together; about 3,000 tokens, which each request carries."""
MAX_RULES, MAX_DEMONSTRATIONS, MAX_DESCRIPTIONS = 12, 8, 64
MAX_MODEL_NAME_CHARS = 1_000

Source = Literal["agent", "template", "task", "trace", "reflection"]
"""Author of a piece.

- "agent": the declaration of the agent.
- "template": a sentence of this package, filled with names of tools and parameters.
- "task": the user's own tasks and their solutions.
- "trace": the prompt of an earlier run, which anyone may have written who could use the agent, and its calls.
- "reflection": a model.

Pieces of the last two ship only after a review.
"""


def visible_text(text: str) -> str:
    """Return text without hidden characters and without blanks at its ends."""
    return strip_prose(text)[0].strip()


def _is_visible(text: str) -> str:
    if visible_text(text) != text:
        raise ValueError("the text has hidden characters, or blanks at its ends")
    return text


Visible = Annotated[str, AfterValidator(_is_visible)]
"""Text without hidden characters."""


class Rule(BaseModel, frozen=True, extra="forbid"):
    """A sentence that is added to the instructions."""

    text: Visible = Field(min_length=1, max_length=500)
    source: Source


class DemonstratedCall(BaseModel, frozen=True, extra="forbid"):
    """A call of a demonstration; a value that the prompt does not contain is a placeholder such as `<path>`."""

    name: Visible = Field(min_length=1, max_length=200)
    arguments: dict[str, Any] = {}


class Demonstration(BaseModel, frozen=True, extra="forbid"):
    """A request and the calls that answer it. No result of a tool is part of it."""

    prompt: Visible = Field(min_length=1, max_length=2_000)
    calls: tuple[DemonstratedCall, ...] = Field(min_length=1, max_length=8)
    source: Source

    @property
    def text(self) -> str:
        """The demonstration as lines of the instructions."""
        calls = [f"{call.name}({_arguments_text(call.arguments)})" for call in self.calls]
        return f'- Request: "{" ".join(self.prompt.split())}"\n  Calls: {", then ".join(calls)}'


class ToolDescription(BaseModel, frozen=True, extra="forbid"):
    """A description in place of a tool's own."""

    name: Visible = Field(min_length=1, max_length=200)
    text: Visible = Field(min_length=1, max_length=2_000)
    replaces: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the description that it was written for; a tool that has changed since keeps its own."""
    source: Source


class Pieces(BaseModel, frozen=True, extra="forbid"):
    """A candidate: all that is sent differently from what the agent declares. The default changes nothing."""

    instructions: Visible | None = None
    """Instructions in place of the agent's own; None keeps those."""
    instructions_source: Source = "agent"
    rules: tuple[Rule, ...] = Field(default=(), max_length=MAX_RULES)
    demonstrations: tuple[Demonstration, ...] = Field(default=(), max_length=MAX_DEMONSTRATIONS)
    tool_descriptions: tuple[ToolDescription, ...] = Field(default=(), max_length=MAX_DESCRIPTIONS)
    model: Annotated[str, Field(min_length=1, max_length=MAX_MODEL_NAME_CHARS)] | None = None
    """Name of a model in place of the agent's own, for example with another adapter; None keeps that."""

    @model_validator(mode="after")
    def _is_bounded(self) -> Self:
        n_chars = len(self.added_text) + len(self.instructions or "")
        n_chars += sum(len(each.text) for each in self.tool_descriptions)
        if n_chars > MAX_TEXT_CHARS:
            raise ValueError(
                f"the pieces have {n_chars} characters together, at most {MAX_TEXT_CHARS} are allowed"
            )
        for kind, names in (
            ("rules", [rule.text for rule in self.rules]),
            ("demonstrations", [each.prompt for each in self.demonstrations]),
            ("tool descriptions", [each.name for each in self.tool_descriptions]),
        ):
            if len(set(names)) < len(names):
                raise ValueError(f"two of the {kind} are for the same")
        return self

    @property
    def added_text(self) -> str:
        """Rules and demonstrations, as they follow the instructions; "" without any."""
        blocks: list[str] = []
        if self.rules:
            blocks.append("\n".join(("Rules:", *(f"- {rule.text}" for rule in self.rules))))
        if self.demonstrations:
            shown = (each.text for each in self.demonstrations)
            blocks.append("\n".join(("Examples of requests and the right calls:", *shown)))
        return "\n\n".join(blocks)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the content."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()

    @property
    def needs_review(self) -> bool:
        """True if a model, or whoever used the agent before, wrote some of the text."""
        sources = {self.instructions_source, *(each.source for each in self.rules)}
        sources |= {each.source for each in (*self.demonstrations, *self.tool_descriptions)}
        return bool(sources & {"reflection", "trace"})

    def lines(self) -> list[str]:
        """Return the pieces as lines for a comparison."""
        shown = [] if self.model is None else [f"model: {self.model}"]
        if self.instructions is not None:
            shown += ["instructions:", *self.instructions.splitlines()]
        shown += self.added_text.splitlines()
        for each in self.tool_descriptions:
            shown += [f"description of {each.name}:", *each.text.splitlines()]
        return shown


def description_sha256(description: str) -> str:
    """Return the hash by which a description is recognised."""
    return hashlib.sha256(description.encode("utf-8", "backslashreplace")).hexdigest()


def _arguments_text(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in arguments.items())
