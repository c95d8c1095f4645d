"""Recipe, plan and page of a pipeline: wrong keys are named, sizes are planned, texts cannot break the page."""

from __future__ import annotations

import errno
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

pytest.importorskip("torch", reason="needs torch (extra `train`)")

from modelstack.cli import app
from modelstack.errors import UserError
from modelstack.pipeline import child
from modelstack.pipeline.measuring import FOLDER, Evaluated, Sample
from modelstack.pipeline.page import page, write_page
from modelstack.pipeline.page_plots import cost_plot, loss_plot, refusal_plot
from modelstack.pipeline.planning import StepCost, n_parameters, planned_costs, scaled_plan, training_plan
from modelstack.pipeline.recipe import PipelineRecipe, checked_section, fault_table
from modelstack.pipeline.record import StepRecord, StepResult, seal_step
from modelstack.pipeline.steps import STEPS
from modelstack.posttrain.stages.record import Measurement
from modelstack.recipe_file import read_recipe
from modelstack.shipped_recipes import recipe_path, shipped_recipes
from tests.modelstack.pipeline.toy_pipeline import toy_recipe


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tokenizer.vocab_sise=512", "'tokenizer.vocab_sise' is not known; nearest: 'tokenizer.vocab_size'"),
        ("train.stepz=5", "table 'train': recipe key 'stepz' is not known; nearest: 'steps'"),
        (
            "sft.data.row_token=5",
            "table 'sft': recipe key 'data.row_token' is not known; nearest: 'data.row_tokens'",
        ),
        ("preferences.micro_batches=3", "table 'preferences': .*rows = 2 is not a multiple of micro_batches"),
        ("reasoning.base=x", "'reasoning.base' is filled in by the pipeline: leave it out"),
        ("train.tokenizer.path=x", "'train.tokenizer' is filled in by the pipeline"),
        ("fault=nann@3", "fault 'nann@3' must be KIND@STEP, for example nan@120; kinds: bit_flip"),
        ("fault=spike", "fault 'spike' must be KIND@STEP"),
        ('skip=["trian"]', "skip"),
    ],
)
def test_a_wrong_key_is_named_before_any_work(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        toy_recipe(override)


def test_a_fault_is_that_of_the_training() -> None:
    assert fault_table("nan@120") == {"kind": "gradient", "step": 120}
    assert fault_table("kill@7") == {"kind": "sigkill", "step": 7}


def test_a_table_gets_the_filled_keys_and_keeps_its_own() -> None:
    recipe = toy_recipe("train.threads=3", "train.data.window_rows=8")
    run = checked_section(recipe, "train", {"name": "a", "data.text": ["b"], "tokenizer": {"path": "c"}})
    assert (run.name, run.threads, run.data.text, run.data.window_rows) == ("a", 3, ("b",), 8)
    assert checked_section(recipe, "sft").threads == recipe.threads


@pytest.mark.parametrize("shipped", shipped_recipes("pipeline"), ids=lambda recipe: recipe.path.stem)
def test_every_step_of_a_shipped_recipe_has_a_cost(shipped: Any) -> None:
    recipe = read_recipe(PipelineRecipe, shipped.path)
    costs = planned_costs(recipe)
    assert list(costs) == [step.name for step in STEPS]
    for name, cost in costs.items():
        assert (cost == StepCost(0.0, 0.0, 0.0)) == (name in recipe.skipped)
    hours = sum(cost.seconds for cost in costs.values()) / 3600
    assert hours < 1.2 * recipe.decide.hours or recipe.base is not None  # of a base that is not here, a guess


def test_the_plans_are_of_the_recipes_size_and_of_a_thousand_times_it() -> None:
    recipe = toy_recipe()
    plan = training_plan(recipe)
    assert plan.model.n_parameters == n_parameters(recipe) == 156_288
    scaled = scaled_plan(recipe)
    assert 0.8 < scaled.model.n_parameters / (1000 * n_parameters(recipe)) < 1.25
    assert scaled.request.n_devices == recipe.decide.scale_devices


def test_a_plan_is_printed_without_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["pipeline", "test", "--dry-run", "--skip", "align", "decide.scale_devices=1", "--out", "there"]
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 0, found.output
    assert re.search(r"^12 align +skipped$", found.output, re.MULTILINE)
    assert "1,000 times the size: " in found.output
    assert list(tmp_path.iterdir()) == []
    wrong = CliRunner().invoke(app, ["pipeline", "test", "--from", "sft", "--only", "align"])
    assert "contradict each other" in " ".join(wrong.output.split())
    assert "RECIPE is missing" in CliRunner().invoke(app, ["pipeline"]).output


def test_a_disk_without_room_is_told_apart_from_other_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def fill(request: object, console: object) -> bool:
        with open("/dev/full", "w", encoding="utf-8") as file:
            file.write("a")
        return True

    monkeypatch.setattr(child, "_do", fill)
    outcome, text = child._attempted(None, Console(quiet=True))  # pyright: ignore[reportArgumentType, reportPrivateUsage]
    assert (outcome, str(errno.ENOSPC) in text) == ("full disk", True)

    def wrong(request: object, console: object) -> bool:
        raise ZeroDivisionError("1 / 0")

    monkeypatch.setattr(child, "_do", wrong)
    outcome, text = child._attempted(None, Console(quiet=True))  # pyright: ignore[reportArgumentType, reportPrivateUsage]
    assert (outcome, text) == ("failed", "ZeroDivisionError: 1 / 0")


def written(folder: Path, text: str) -> dict[str, Any]:
    """Write a pipeline with two measured steps, whose texts are all `text`; return its state."""
    for number, name in ((5, "train"), (7, "sft")):
        place = folder / f"{number:02}-{name}"
        place.mkdir(parents=True)
        (place / "model").write_text("weights", encoding="utf-8")
        result = StepResult(what=text, content=("model",), model="model", table=((text,), (text,)), notes=(text,))
        record = StepRecord(
            step=name, key="k", package="1", inputs={"model": "a"}, config={}, result=result, hashes={}, files={},
            seconds=2.0, peak_memory_bytes=10**8,
        )  # fmt: skip
        seal_step(place, record)
        value = 3.0 - number / 10
        figure = Measurement(name="bits per byte", value=value, low=value - 0.01, high=value + 0.01, n=5)
        samples = (Sample(prompt=text, is_request=True, text=text),)
        found = Evaluated(key="k", step=name, figures=(figure,), samples=samples)
        (folder / FOLDER).mkdir(exist_ok=True)
        (folder / FOLDER / f"{number:02}-{name}.json").write_text(found.model_dump_json(), encoding="utf-8")
    steps = [{"name": step.name, "status": "waiting", "planned_seconds": 3.0} for step in STEPS]
    for step in steps:
        if step["name"] in ("train", "sft"):
            step["status"] = "done"
        if step["name"] == "align":
            step["status"] = "skipped"
    state = {"name": text, "package": text, "digest": "0" * 64, "steps": steps}
    (folder / "pipeline.json").write_text(json.dumps(state), encoding="utf-8")
    return state


def test_no_text_of_a_model_or_user_becomes_markup(tmp_path: Path) -> None:
    state = written(tmp_path, "<script>alert('&')</script>\u202e")
    text = page(tmp_path, state)
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 8
    assert "\\u202e" in text  # in samples, where a model could reorder the line


def test_a_clear_change_is_told_apart_from_chance_and_a_skipped_step_is_marked(tmp_path: Path) -> None:
    text = page(tmp_path, written(tmp_path, "plain"))
    assert '<span class="better">-0.200</span>' in text
    assert "<em>skipped</em>" in text and "<b>Skipped.</b>" in text
    assert write_page(tmp_path).read_text(encoding="utf-8") == text
    with pytest.raises(UserError, match="holds no pipeline"):
        write_page(tmp_path / FOLDER)


def test_plots_leave_out_what_is_broken_or_missing(tmp_path: Path) -> None:
    assert loss_plot(tmp_path / "none.jsonl") == "" == refusal_plot(tmp_path / "none.json")
    lines = [
        json.dumps({"step": step, "losses": {"total": 5.0 - step}, "rejected": "spike" if step == 1 else ""})
        for step in range(4)
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, "broken", '{"step": 3, "loss": 2.5}']), "utf-8")
    plot = loss_plot(tmp_path / "metrics.jsonl")
    assert plot.count("<polyline") == 1 and plot.count("<circle") == 1
    assert len(plot.partition('points="')[2].partition('"')[0].split()) == 3
    assert cost_plot({"a": (3.0, 1.0), "b": (0.0, 0.0)}).count('class="bar"') == 2
    assert recipe_path("nano", "pipeline").is_file()
