"""`modelstack pipeline test` end to end: killed in every step with the same hashes, the page, the lineage."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("torch", reason="needs torch (extra `train`)")
pytest.importorskip("llama_cpp", reason="needs llama.cpp (extra `local`)")

from modelstack.align.release.check import check_release
from modelstack.cli import app
from modelstack.errors import UserError
from modelstack.pipeline.driver import Progress, run_pipeline
from modelstack.pipeline.measuring import read_evaluation
from modelstack.pipeline.page import write_page
from modelstack.pipeline.recipe import PipelineRecipe
from modelstack.pipeline.steps import STEPS
from modelstack.pipeline.worth import worth_of_steps
from modelstack.recipe_file import read_recipe
from modelstack.shipped_recipes import recipe_path

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("pipeline_run"), pytest.mark.timeout(1800)]
MODELS = [step.name for step in STEPS if step.makes_model]


def recipe(*overrides: str) -> PipelineRecipe:
    return read_recipe(PipelineRecipe, recipe_path("test", "pipeline"), overrides)


def digests(progress: Progress) -> dict[str, str]:
    return {name: record.digest for name, record in progress.records.items()}


class Whole:
    """A run that nothing happened to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.told: list[str] = []
        self.progress = run_pipeline(recipe(), path, self.told.append)
        write_page(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    made = Whole(tmp_path_factory.mktemp("pipeline") / "whole")
    yield made
    shutil.rmtree(made.path)


def test_each_step_ends_with_one_line_that_has_its_cost_and_the_planned_one(whole: Whole) -> None:
    lines = [line for line in whole.told if re.match(r"^ ?\d+ ", line)]
    assert [line.split()[1] for line in lines] == [step.name for step in STEPS]
    assert all(re.search(r"\d+ s \(planned .+\), [\d,]+ MB: ", line) for line in lines)
    assert "17 of 17 planted faults found" in lines[1]
    assert "resume gives the same bits" in lines[5]


def test_the_model_of_each_step_is_measured_on_the_same_cases(whole: Whole) -> None:
    found = [read_evaluation(whole.path, name) for name in MODELS]
    names = [[figure.name for figure in each.figures] for each in found if each is not None]
    assert len(names) == len(MODELS) and all(each == names[0] for each in names)
    assert {"bits per byte", "valid replies", "right calls", "harmful refused", "harmless refused"} <= set(
        names[0]
    )
    assert all(each is not None and len(each.samples) == 10 for each in found)


def test_killed_in_every_step_the_outputs_are_the_same(whole: Whole, tmp_path: Path) -> None:
    killed: list[str] = []
    draw = random.Random(4)

    def say(text: str) -> None:
        """Kill the process of a step at its first heartbeat; it told its name."""
        found = re.match(r"^   (\w+) ", text)
        if found is None or found[1] in killed or draw.random() < 0.3:
            return
        for child in multiprocessing.active_children():
            assert child.pid is not None
            os.kill(child.pid, signal.SIGKILL)
            killed.append(found[1])

    progress = None
    while progress is None:
        try:
            progress = run_pipeline(recipe(), tmp_path / "run", say, beat_s=0.4)
        except UserError as error:
            assert "SIGKILL" in str(error)
    assert len(set(killed)) >= len(STEPS) - 2, killed  # a short step may end before a drawn moment
    assert digests(progress) == digests(whole.progress)
    evaluations = [
        (path / "evaluations" / f"{step.folder}.json").read_bytes()
        for step in STEPS
        if step.makes_model
        for path in (whole.path, tmp_path / "run")
    ]
    assert evaluations[::2] == evaluations[1::2]
    shutil.rmtree(tmp_path / "run")


def test_the_release_is_signed_and_passes_its_check_or_names_what_is_missing(whole: Whole) -> None:
    gate = json.loads((whole.path / "13-release/verdict/gate.json").read_text(encoding="utf-8"))
    assert gate == {"passes": True, "faults": []}
    key = whole.path / "keys" / "release.pem.pub"
    assert check_release(whole.path / "13-release/release", key, None) == []
    assert (whole.path / "keys/release.pem").stat().st_mode & 0o077 == 0


def test_the_agent_was_asked_and_its_answers_are_scored(whole: Whole) -> None:
    tasks = json.loads((whole.path / "14-agent/results/tasks.json").read_text(encoding="utf-8"))
    assert len(tasks) == 3 and all(set(task) == {"task", "right", "status"} for task in tasks)
    record = whole.progress.records["agent"]
    assert record.result.what == f"{sum(task['right'] for task in tasks)} of 3 tasks right"


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src", "data", "action")]


def test_the_page_is_one_file_without_requests_and_shows_every_step(whole: Whole) -> None:
    text = (whole.path / "index.html").read_text(encoding="utf-8")
    page = _Page()
    page.feed(text)
    assert "script" not in page.tags and "img" not in page.tags and "link" not in page.tags
    assert all(address.startswith("#") for address in page.addresses)
    assert "default-src 'none'" in text
    assert page.tags.count("svg") >= 5
    for step in STEPS:
        assert f'id="{step.name}"' in text
    assert text.count("<figure>") == page.tags.count("figure") >= 5
    assert "Once upon a time" in text
    assert "raw pages, kept pages" in text and "bytes, own tokenizer" in text


def test_the_table_of_what_steps_were_worth_has_every_step_that_is_compared(whole: Whole) -> None:
    found = worth_of_steps(whole.path)
    assert list(dict.fromkeys(each.step for each in found)) == [
        "data",
        "tokenizer",
        "sft",
        "preferences",
        "reasoning",
        "inference",
        "align",
    ]
    bits = next(each for each in found if (each.step, each.figure) == ("inference", "bits per byte"))
    assert bits.difference is not None and bits.difference[0] == pytest.approx(bits.after - bits.before, abs=1e-3)


def test_the_lineage_draws_all_steps_and_names_an_altered_file(whole: Whole) -> None:
    drawn = CliRunner().invoke(app, ["stage", "lineage", str(whole.path)])
    assert drawn.exit_code == 0, drawn.output
    for step in STEPS:
        assert re.search(rf"^{step.number}\t{step.name}\twhole\t", drawn.output, re.MULTILINE), step.name
    for kind in ("sft", "preference", "reasoning", "merged"):
        assert re.search(rf"\t{kind}\t[0-9a-f]{{64}}\twhole\t", drawn.output), kind
    file = whole.path / "11-toolcalls" / "results" / "calls.json"
    content = file.read_bytes()
    file.write_bytes(content.replace(b"ours", b"mine"))
    damaged = CliRunner().invoke(app, ["stage", "lineage", str(whole.path)])
    file.write_bytes(content)
    assert damaged.exit_code == 1
    assert "calls.json has changed content" in " ".join(damaged.output.split())


def test_a_fault_in_the_training_is_survived(whole: Whole, tmp_path: Path) -> None:
    shutil.copytree(whole.path, tmp_path / "run", symlinks=True)
    skip = [step.name for step in STEPS if step.number > 5]
    progress = run_pipeline(
        recipe("fault=nan@12", f"skip={json.dumps(skip)}"), tmp_path / "run", whole.told.append
    )
    assert progress.ran == ["train"]
    assert "survived 1 gradient" in progress.records["train"].result.what
    kept = [path.name for path in (tmp_path / "run" / "superseded").iterdir()]
    assert len(kept) == 1 and kept[0].startswith("05-train-")
