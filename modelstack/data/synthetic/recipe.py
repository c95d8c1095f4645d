"""Recipe of synthetic documents: seed documents, templates and checks."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, Field, model_validator

from modelstack.data.reading import InputConfig
from modelstack.data.synthetic.checks import Checks
from modelstack.data.synthetic.template import Template


class SyntheticRecipe(BaseModel, frozen=True, extra="forbid"):
    """Configuration of a run that writes synthetic documents."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    """Name of the run; the documents' source is `synthetic/NAME`."""
    inputs: tuple[InputConfig, ...] = Field(min_length=1)
    """Inputs with the seed documents."""
    templates: tuple[Template, ...] = Field(min_length=1)
    max_attempts: int | None = Field(default=None, ge=1)
    """Maximum number of generated documents, kept or not; None: all templates for all seed documents."""
    seed: int = 0
    """Seed of the sampling."""
    license: str | None = None
    """Licence of the generated documents; None: the seed document's, which may require it."""
    checks: Checks = Checks()

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [template.name for template in self.templates]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two templates are called {twice[0]!r}; documents are told apart by the name")
        return self
