"""Context of a step at work: its recipe, its folder, the folders of earlier steps, and a log."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from modelstack.errors import UserError
from modelstack.pipeline.recipe import PipelineRecipe
from modelstack.pipeline.steps import BY_NAME, Step
from modelstack.terminal.tables import print_wrapped


@dataclass(frozen=True, slots=True)
class StepJob:
    """A step at work; all paths are relative to the pipeline's folder, which is the working directory."""

    step: Step
    recipe: PipelineRecipe
    models: tuple[str, ...]
    """Steps whose models this step may continue with, the newest last; empty: there is only the recipe's base."""
    model_paths: Mapping[str, str]
    """Path of each step's model."""
    console: Console
    """The step's log."""

    @property
    def folder(self) -> Path:
        """Folder of the step's output."""
        return Path(self.step.folder)

    @property
    def model(self) -> str:
        """Path or name of the newest model before this step.

        Raises:
            UserError: There is none, because the training was skipped and the recipe has no base.
        """
        if self.models:
            return self.model_paths[self.models[-1]]
        if self.recipe.base is None:
            raise UserError(
                f"step {self.step.name} needs a model: the step train is skipped, and the recipe has no `base`"
            )
        return self.recipe.base

    def of(self, place: str) -> Path:
        """Return the path of a part of an earlier step, STEP/PART."""
        step, _, part = place.partition("/")
        return Path(BY_NAME[step].folder) / part

    def has(self, step: str) -> bool:
        """Whether an earlier step was run."""
        return step not in self.recipe.skipped and Path(BY_NAME[step].folder).is_dir()

    def say(self, text: str) -> None:
        """Write a line to the log."""
        print_wrapped(self.console, text, indent="  ")

    def read_json(self, place: str) -> Any:
        """Return the JSON of an earlier step's file."""
        return json.loads(self.of(place).read_text(encoding="utf-8"))


Say = Callable[[str], object]
