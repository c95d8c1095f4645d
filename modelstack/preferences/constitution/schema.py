"""A constitution: principles by which replies are criticised, revised and compared; a frozen model read from TOML.

The paper (2212.08073) has 16 pairs of a critique request and a revision request, and 16 principles that two
replies are compared under. Here a principle may serve in both stages. Classes of harmful and of harmless requests
stand beside the principles, as in constitutional classifiers (2501.18837): a critic that is told of harm alone
makes a model that is evasive.

`default.toml` beside this file is written for this repository.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from modelstack.errors import UserError
from modelstack.recipe_file import read_recipe

DEFAULT = "default"
"""Names the constitution of this package."""
DEFAULT_FILE = Path(__file__).parent / "default.toml"
LONGEST_FILE = 1 << 20
"""Bytes; ours has some 14,000."""
LONGEST_TEXT = 4000
"""Characters of one request or example: all of them go into each prompt."""

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=60)]
Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=LONGEST_TEXT)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Principle(_Part):
    """One rule, as what is asked of a critic, of a reviser and of a judge."""

    id: Name
    critique: Words | None = None
    """Asks for what is wrong with the last reply."""
    revision: Words | None = None
    """Asks for a reply without that."""
    choice: Words | None = None
    """Asks which of two replies is better."""
    tags: tuple[Name, ...] = ()
    weight: float = Field(default=1.0, gt=0)
    """How often it is drawn, beside the others' weights."""

    @model_validator(mode="after")
    def _serves_a_stage(self) -> Self:
        if (self.critique is None) != (self.revision is None):
            given, missing = ("revision", "critique") if self.critique is None else ("critique", "revision")
            raise ValueError(
                f"principle {self.id!r} has a {given} and no {missing}: they are asked one after another"
            )
        if self.critique is None and self.choice is None:
            raise ValueError(f"principle {self.id!r} asks for nothing: give critique and revision, choice, or all")
        return self


class RequestClass(_Part):
    """A kind of request, harmful or harmless."""

    id: Name
    description: Words
    examples: tuple[Words, ...] = ()

    @property
    def told(self) -> str:
        """The class in one line."""
        shown = "; ".join(f'"{example}"' for example in self.examples)
        return f"{self.description} (for example {shown})" if shown else self.description


class WorkedExample(_Part):
    """An exchange with its critique and revision, shown to the critic before the real one."""

    prompt: Words
    reply: Words
    principle: Name
    """Whose requests were answered."""
    critique: Words
    revision: Words


class Constitution(_Part):
    """All that a critic and a judge go by."""

    name: Name
    critic: Words
    """Tells a model that it criticises and revises."""
    judge: Words
    """Tells a model that it compares two replies."""
    principles: tuple[Principle, ...] = Field(min_length=1)
    harmful: tuple[RequestClass, ...] = ()
    """What replies must not help with."""
    harmless: tuple[RequestClass, ...] = ()
    """What is to be answered in full, though it may sound alike."""
    examples: tuple[WorkedExample, ...] = ()

    @model_validator(mode="after")
    def _is_of_one_piece(self) -> Self:
        _refuse_twice("principles", [each.id for each in self.principles])
        _refuse_twice("harmful and harmless", [each.id for each in (*self.harmful, *self.harmless)])
        for example in self.examples:
            revising = {each.id for each in self.revising}
            if example.principle not in revising:
                raise ValueError(
                    f"an example names principle {example.principle!r}, which no critique has; those with one are "
                    f"{', '.join(sorted(revising)) or 'none'}"
                )
        return self

    @property
    def revising(self) -> tuple[Principle, ...]:
        """The principles of the supervised stage."""
        return tuple(each for each in self.principles if each.critique is not None)

    @property
    def choosing(self) -> tuple[Principle, ...]:
        """The principles of the preference stage."""
        return tuple(each for each in self.principles if each.choice is not None)

    @property
    def classes_text(self) -> str:
        """What critic and judge are told of the kinds of requests; empty where there are none."""
        parts = [
            f"{title}\n" + "\n".join(f"- {each.told}" for each in classes)
            for title, classes in (
                ("Replies must not help with:", self.harmful),
                ("These are harmless, though they may sound alike, and deserve a full answer:", self.harmless),
            )
            if classes
        ]
        return "\n\n".join(parts)

    def of_tags(self, tags: Sequence[str]) -> Constitution:
        """Return the constitution with the principles of some tags alone; without tags all of it.

        Raises:
            UserError: No principle has a tag.
        """
        known = {tag for each in self.principles for tag in each.tags}
        if unknown := sorted(set(tags) - known):
            raise UserError(
                f"no principle of constitution {self.name!r} has the tag {unknown[0]!r}; "
                f"there are {', '.join(sorted(known)) or 'none'}"
            )
        if not tags:
            return self
        principles = tuple(each for each in self.principles if not set(tags).isdisjoint(each.tags))
        revising = {each.id for each in principles if each.critique is not None}
        examples = tuple(each for each in self.examples if each.principle in revising)
        return self.model_copy(update={"principles": principles, "examples": examples})

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all of it."""
        content = json.dumps(self.model_dump(mode="json"), ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


def read_constitution(file: str | os.PathLike[str] = DEFAULT) -> Constitution:
    """Return the constitution of a TOML file, or of this package by the name "default".

    Raises:
        UserError: The file is not there, too large or no TOML, a key is not known, or a value is not allowed.
    """
    path = DEFAULT_FILE if str(file) == DEFAULT else Path(file)
    try:
        n_bytes = path.stat().st_size
    except OSError as error:
        raise UserError(
            f"constitution {path} cannot be read: {error.strerror or error}. Give a TOML file, or {DEFAULT!r}"
        ) from error
    if n_bytes > LONGEST_FILE:
        raise UserError(f"constitution {path} has {n_bytes:,} bytes; at most {LONGEST_FILE:,} are read")
    try:
        return read_recipe(Constitution, path)
    except UserError as error:
        raise UserError(f"constitution {path}: {error}") from error


def drawn(principles: Sequence[Principle], *place: object) -> Principle:
    """Return the principle of a place: a prompt and a round; the same whatever is asked around it, and when.

    Args:
        principles: At least one.
        place: A seed and whatever tells this draw from others.

    Raises:
        UserError: There is none.
    """
    if not principles:
        raise UserError(
            "the constitution has no principle for this stage: the supervised one needs critique and revision, "
            "the preference stage choice"
        )
    digest = hashlib.sha256("\x1f".join(["principle", *map(str, place)]).encode()).digest()
    left = int.from_bytes(digest[:7]) / 2**56 * sum(each.weight for each in principles)
    for principle in principles:
        left -= principle.weight
        if left < 0:
            return principle
    return principles[-1]  # rounding ate the last one's share


def _refuse_twice(of: str, ids: Sequence[str]) -> None:
    twice = next((each for each in ids if ids.count(each) > 1), None)
    if twice is not None:
        raise ValueError(f"id {twice!r} comes twice in {of}; ids are unique")
