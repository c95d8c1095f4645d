"""A recipe of synthetic documents: after which ones, how, and what they must be."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, Field, model_validator

from modelstack.data.reading import InputConfig
from modelstack.data.synthetic.checks import Checks
from modelstack.data.synthetic.template import Template


class SyntheticRecipe(BaseModel, frozen=True, extra="forbid"):
    """What is written."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    """Of the documents' source: `synthetic/NAME`."""
    inputs: tuple[InputConfig, ...] = Field(min_length=1)
    """The documents that are written after."""
    templates: tuple[Template, ...] = Field(min_length=1)
    max_attempts: int | None = Field(default=None, ge=1)
    """Documents asked for, whether they are kept or not; None: all templates after all documents."""
    seed: int = 0
    """Of the sampling."""
    license: str | None = None
    """Of what is written; None: the seed document's, which may ask for it."""
    checks: Checks = Checks()

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [template.name for template in self.templates]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two templates are called {twice[0]!r}; documents are told apart by the name")
        return self
