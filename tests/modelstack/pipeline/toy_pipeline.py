"""A pipeline whose steps write what follows from their key, in milliseconds: for tests of the driver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from modelstack.pipeline import driver
from modelstack.pipeline.child import Finished, Request
from modelstack.pipeline.driver import Progress, Wish, run_pipeline
from modelstack.pipeline.measuring import FOLDER, Evaluated, evaluation_key
from modelstack.pipeline.recipe import PipelineRecipe
from modelstack.pipeline.record import StepResult, read_record, seal_step
from modelstack.pipeline.steps import BY_NAME, MODEL, STEPS
from modelstack.posttrain.stages.record import Measurement
from modelstack.recipe_file import read_recipe
from modelstack.shipped_recipes import recipe_path

PARTS = {
    step.name: sorted(
        {
            need.partition("/")[2]
            for other in STEPS
            for need in (*other.needs, *other.wants)
            if need.startswith(f"{step.name}/")
        }
    )
    or ["result"]
    for step in STEPS
}
"""Parts of each step's output: those that later steps read."""


def toy_recipe(*overrides: str) -> PipelineRecipe:
    """Return the shipped recipe of the test size."""
    return read_recipe(PipelineRecipe, recipe_path("test", "pipeline"), overrides)


@dataclass
class Toy:
    """A pipeline's folder, the steps that were done in it, and what was told."""

    path: Path
    did: list[str] = field(default_factory=list[str])
    measured: list[str] = field(default_factory=list[str])
    told: list[str] = field(default_factory=list[str])
    ends: dict[str, Callable[[Path], Finished]] = field(default_factory=dict[str, Any])
    """How a step ends instead of being done."""

    def run(self, *overrides: str, wish: Wish | None = None) -> Progress:
        """Run the pipeline; forget what earlier runs did and told."""
        self.did.clear()
        self.measured.clear()
        self.told.clear()
        return run_pipeline(toy_recipe(*overrides), self.path, self.told.append, wish=wish)

    def line(self, step: str) -> str:
        """Return the last line about a step."""
        return next(line for line in reversed(self.told) if f" {step} " in line)

    def step(self, request: Request, beat: object, beat_s: float) -> Finished:
        """Do a step in place of a process."""
        step, folder = BY_NAME[request.step], request.folder / BY_NAME[request.step].folder
        if step.name in self.ends:
            return self.ends[step.name](folder)
        record = request.record
        if not request.only_measure:
            self.did.append(step.name)
            for part in PARTS[step.name]:
                (folder / part).mkdir(parents=True, exist_ok=True)
                # Of the package's version nothing follows, as of most versions.
                shown = repr((part, record.config, record.inputs))
                (folder / part / "file.txt").write_text(shown, encoding="utf-8")
            model = PARTS[step.name][0] if step.makes_model else None
            result = StepResult(what=f"did {step.name}", content=tuple(PARTS[step.name]), model=model)
            record = seal_step(folder, record.model_copy(update={"result": result, "seconds": 1.5}))
        if step.makes_model:
            self._measure(request, step.name)
        return Finished("done")

    def _measure(self, request: Request, name: str) -> None:
        self.measured.append(name)
        record, data = (read_record(request.folder / BY_NAME[each].folder) for each in (name, "data"))
        assert record is not None and data is not None
        table = request.recipe.evaluation
        key = evaluation_key(record.digest, data.part("evaluation"), table, record.package)
        figure = Measurement(name="bits per byte", value=3.0, low=2.9, high=3.1, n=5)
        found = Evaluated(key=key, step=name, figures=(figure,), samples=())
        (request.folder / FOLDER).mkdir(exist_ok=True)
        file = request.folder / FOLDER / f"{BY_NAME[name].folder}.json"
        file.write_text(found.model_dump_json(), encoding="utf-8")


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """Return a pipeline in a new folder, whose steps are toys."""
    made = Toy(tmp_path / "run")
    monkeypatch.setattr(driver, "run_step", made.step)
    return made


EVERY = [step.name for step in STEPS]
MODELS = [step.name for step in STEPS if step.makes_model]
assert MODEL == "model"
