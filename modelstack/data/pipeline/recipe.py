"""Data recipe: raw files, evaluations to decontaminate against, and the steps in order."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, model_validator
from typing_extensions import TypeIs

from modelstack.data.allowed_sources import AllowedSources
from modelstack.data.code.generated import GeneratedCode
from modelstack.data.code.license_step import License
from modelstack.data.code.rules import CodeRules
from modelstack.data.contamination import Decontaminate
from modelstack.data.extract import Extract
from modelstack.data.language import Language
from modelstack.data.mojibake import RepairText
from modelstack.data.pipeline.dedup_phases import CorpusStepConfig
from modelstack.data.privacy.step import Privacy
from modelstack.data.quality import QualityRules
from modelstack.data.quality_model.step import QualityScore
from modelstack.data.quota import Quota
from modelstack.data.reading import InputConfig
from modelstack.data.urls import UrlRules

DocumentStepConfig = (
    UrlRules
    | AllowedSources
    | Extract
    | RepairText
    | Language
    | QualityRules
    | QualityScore
    | CodeRules
    | GeneratedCode
    | License
    | Privacy
    | Decontaminate
)
StepConfig = DocumentStepConfig | CorpusStepConfig | Quota


class DataRecipe(BaseModel, frozen=True, extra="forbid"):
    """Configuration of a data run: its inputs and steps."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    """Name of the run; its folder is runs/NAME unless --out names another."""
    inputs: tuple[InputConfig, ...] = Field(min_length=1)
    """Raw files, by kind."""
    evaluations: tuple[Path, ...] = ()
    """Evaluation files for each step `decontaminate` without its own; like `inputs`, set by a command."""
    steps: tuple[Annotated[StepConfig, Field(discriminator="kind")], ...] = ()
    """Steps in their order, by kind."""

    @model_validator(mode="before")
    @classmethod
    def _pass_evaluations_to_steps(cls, content: Any) -> Any:
        if not isinstance(content, dict) or not content.get("evaluations"):
            return content
        given = {"evaluations": content["evaluations"]}
        steps = [
            given | step if isinstance(step, dict) and step.get("kind") == "decontaminate" else step
            for step in content.get("steps", ())
        ]
        return content | {"steps": steps}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the recipe with all its defaults."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def is_document_step(config: StepConfig) -> TypeIs[DocumentStepConfig]:
    """Return whether a step considers each document alone."""
    return not isinstance(config, CorpusStepConfig | Quota)
