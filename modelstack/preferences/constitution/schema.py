"""Schema of a constitution: principles for critique, revision and comparison; a frozen model read from TOML.

The paper (2212.08073) has 16 pairs of a critique request and a revision request, and 16 principles for comparing
replies. Here a principle may serve both stages. Classes of harmful and harmless requests complement the
principles, as in constitutional classifiers (2501.18837): a critic that knows only harmful ones makes a model
evasive.

`default.toml` beside this file was written for this repository.
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
"""Name of the constitution in this package."""
DEFAULT_FILE = Path(__file__).parent / "default.toml"
LONGEST_FILE = 1 << 20
"""Maximum file size in bytes; the default constitution has about 14,000."""
LONGEST_TEXT = 4000
"""Maximum length of a request or example in characters; all of them are part of every prompt."""

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=60)]
Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=LONGEST_TEXT)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Principle(_Part):
    """Rule, as requests to a critic, a reviser and a judge."""

    id: Name
    critique: Words | None = None
    """Request for the faults of the last reply."""
    revision: Words | None = None
    """Request for a reply without these faults."""
    choice: Words | None = None
    """Question which of two replies is better."""
    tags: tuple[Name, ...] = ()
    weight: float = Field(default=1.0, gt=0)
    """Relative frequency of being drawn."""

    @model_validator(mode="after")
    def _serves_a_stage(self) -> Self:
        if (self.critique is None) != (self.revision is None):
            given, missing = ("revision", "critique") if self.critique is None else ("critique", "revision")
            raise ValueError(
                f"principle {self.id!r} has a {given} but no {missing}; give both, as they are used together"
            )
        if self.critique is None and self.choice is None:
            raise ValueError(
                f"principle {self.id!r} has no request: give critique and revision, choice, or all three"
            )
        return self


class RequestClass(_Part):
    """Kind of request, harmful or harmless."""

    id: Name
    description: Words
    examples: tuple[Words, ...] = ()

    @property
    def told(self) -> str:
        """Description of the class with its examples, in one line."""
        shown = "; ".join(f'"{example}"' for example in self.examples)
        return f"{self.description} (for example {shown})" if shown else self.description


class WorkedExample(_Part):
    """Exchange with its critique and revision, shown to the critic as an example."""

    prompt: Words
    reply: Words
    principle: Name
    """Id of the principle applied in the exchange."""
    critique: Words
    revision: Words


class Constitution(_Part):
    """Principles, request classes and examples for critics and judges."""

    name: Name
    critic: Words
    """System prompt for criticising and revising."""
    judge: Words
    """System prompt for comparing two replies."""
    principles: tuple[Principle, ...] = Field(min_length=1)
    harmful: tuple[RequestClass, ...] = ()
    """Kinds of requests that replies must not help with."""
    harmless: tuple[RequestClass, ...] = ()
    """Kinds of requests that deserve a full answer, even though they may sound similar."""
    examples: tuple[WorkedExample, ...] = ()

    @model_validator(mode="after")
    def _is_of_one_piece(self) -> Self:
        _refuse_twice("principles", [each.id for each in self.principles])
        _refuse_twice("harmful and harmless", [each.id for each in (*self.harmful, *self.harmless)])
        for example in self.examples:
            revising = {each.id for each in self.revising}
            if example.principle not in revising:
                raise ValueError(
                    f"an example names principle {example.principle!r}, which has no critique; those with one: "
                    f"{', '.join(sorted(revising)) or 'none'}"
                )
        return self

    @property
    def revising(self) -> tuple[Principle, ...]:
        """Principles of the supervised stage."""
        return tuple(each for each in self.principles if each.critique is not None)

    @property
    def choosing(self) -> tuple[Principle, ...]:
        """Principles of the preference stage."""
        return tuple(each for each in self.principles if each.choice is not None)

    @property
    def classes_text(self) -> str:
        """Description of the request classes for critic and judge; empty if there are none."""
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
        """Return the constitution with only the principles that have one of the tags; without tags, all of it.

        Raises:
            UserError: A tag belongs to no principle.
        """
        known = {tag for each in self.principles for tag in each.tags}
        if unknown := sorted(set(tags) - known):
            raise UserError(
                f"no principle of constitution {self.name!r} has the tag {unknown[0]!r}; "
                f"known tags: {', '.join(sorted(known)) or 'none'}"
            )
        if not tags:
            return self
        principles = tuple(each for each in self.principles if not set(tags).isdisjoint(each.tags))
        revising = {each.id for each in principles if each.critique is not None}
        examples = tuple(each for each in self.examples if each.principle in revising)
        return self.model_copy(update={"principles": principles, "examples": examples})

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the content."""
        content = json.dumps(self.model_dump(mode="json"), ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


def read_constitution(file: str | os.PathLike[str] = DEFAULT) -> Constitution:
    """Return the constitution in a TOML file; the name "default" selects that of this package.

    Raises:
        UserError: The file is missing, too large or not TOML, a key is unknown, or a value is not allowed.
    """
    path = DEFAULT_FILE if str(file) == DEFAULT else Path(file)
    try:
        n_bytes = path.stat().st_size
    except OSError as error:
        raise UserError(
            f"constitution {path} cannot be read: {error.strerror or error}. Give a TOML file, or {DEFAULT!r}"
        ) from error
    if n_bytes > LONGEST_FILE:
        raise UserError(f"constitution {path} has {n_bytes:,} bytes; the maximum is {LONGEST_FILE:,}")
    try:
        return read_recipe(Constitution, path)
    except UserError as error:
        raise UserError(f"constitution {path}: {error}") from error


def drawn(principles: Sequence[Principle], *place: object) -> Principle:
    """Return the principle drawn at a place (for example a prompt and a round), independent of any other draw.

    Args:
        principles: Principles to draw from, at least one.
        place: Seed and further values that identify the draw.

    Raises:
        UserError: There are no principles.
    """
    if not principles:
        raise UserError(
            "the constitution has no principle for this stage: the supervised stage needs critique and revision, "
            "the preference stage choice"
        )
    digest = hashlib.sha256("\x1f".join(["principle", *map(str, place)]).encode()).digest()
    left = int.from_bytes(digest[:7]) / 2**56 * sum(each.weight for each in principles)
    for principle in principles:
        left -= principle.weight
        if left < 0:
            return principle
    return principles[-1]  # rounding may leave the last principle without its share


def _refuse_twice(of: str, ids: Sequence[str]) -> None:
    twice = next((each for each in ids if ids.count(each) > 1), None)
    if twice is not None:
        raise ValueError(f"id {twice!r} occurs twice in {of}; ids must be unique")
