"""The driver of a pipeline: what runs again, what stays, what comes back, and what is named."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs torch (extra `train`)")

from modelstack.errors import UserError
from modelstack.pipeline import driver
from modelstack.pipeline.child import Finished
from modelstack.pipeline.driver import Wish
from modelstack.pipeline.steps import BY_NAME
from tests.modelstack.pipeline.toy_pipeline import EVERY, MODELS, Toy, toy_recipe
from tests.modelstack.pipeline.toy_pipeline import toy as toy  # a fixture
from tests.modelstack.sft.toy_sft import write_base


def after(step: str) -> list[str]:
    return EVERY[EVERY.index(step) :]


def test_every_step_runs_once_and_is_current_then(toy: Toy) -> None:
    first = toy.run()
    assert toy.did == EVERY and toy.measured == MODELS
    assert set(first.status.values()) == {"done"}
    digest = json.loads((toy.path / "pipeline.json").read_text("utf-8"))["digest"]
    second = toy.run()
    assert toy.did == [] == toy.measured and second.ran == []
    assert all("current: did" in line for line in toy.told)
    state = json.loads((toy.path / "pipeline.json").read_text("utf-8"))
    assert state["digest"] == digest
    assert [(step["number"], step["name"], step["status"]) for step in state["steps"]] == [
        (number, name, "done") for number, name in enumerate(EVERY, 1)
    ]


def test_a_changed_key_runs_the_steps_again_that_read_it_or_what_follows_from_it(toy: Toy) -> None:
    toy.run()
    toy.run("preferences.steps=5")
    # The toolcalls, align, release and agent read the served model.
    assert toy.did == after("preferences")
    assert "runs again: the recipe's preferences.steps changed" in "\n".join(toy.told)
    assert "current: did sft" in toy.line("sft")


def test_the_output_of_an_earlier_recipe_comes_back_with_it(toy: Toy) -> None:
    before = toy.run().records["sft"]
    toy.run("sft.steps=9")
    assert toy.did == after("sft")
    back = toy.run()
    assert toy.did == [] and back.records["sft"] == before
    assert "is back: the output of the same inputs was kept" in "\n".join(toy.told)
    toy.run("sft.steps=9")
    assert toy.did == []


def test_a_change_without_effect_on_the_output_stops_there(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.run()
    folder = toy.path / BY_NAME["tokenizer"].folder
    shutil.rmtree(folder)
    toy.run()
    assert toy.did == ["tokenizer"]


def test_an_altered_file_is_named_and_its_step_runs_again(toy: Toy) -> None:
    toy.run()
    file = toy.path / BY_NAME["sft"].folder / "result" / "file.txt"
    content = file.read_text("utf-8")
    file.write_text(content.replace("(", "[", 1), encoding="utf-8")
    toy.run()
    assert toy.did == ["sft"]  # the same output again, so nothing after it is stale
    told = "\n".join(toy.told)
    assert "sft           runs again: its output was altered: result/file.txt has changed content" in told
    assert file.read_text("utf-8") == content
    kept = list((toy.path / "superseded").glob("07-sft-*/result/file.txt"))
    assert [each.read_text("utf-8")[0] for each in kept] == ["["]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: (folder / "result/file.txt").unlink(), "result/file.txt is missing"),
        (lambda folder: (folder / "result/more.txt").write_text("x"), "result/more.txt was added"),
        (lambda folder: (folder / "step.json").write_text("{}"), "is not a record of a step"),
    ],
    ids=["missing", "added", "record"],
)
def test_other_damage_is_named_too(toy: Toy, damage: object, told: str) -> None:
    toy.run()
    assert callable(damage)
    damage(toy.path / BY_NAME["preferences"].folder)
    toy.run()
    assert toy.did == ["preferences"]
    assert told in "\n".join(toy.told)


def test_a_record_that_was_edited_to_fit_an_altered_file_is_found(toy: Toy) -> None:
    toy.run()
    folder = toy.path / BY_NAME["reasoning"].folder
    record = json.loads((folder / "step.json").read_text("utf-8"))
    record["hashes"]["result/file.txt"] = "0" * 64
    (folder / "step.json").write_text(json.dumps(record), encoding="utf-8")
    toy.run()
    assert toy.did == ["reasoning"]


def test_another_version_of_the_package_is_named_and_uses_nothing_of_the_old_one(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.run()
    old = driver.package_version()
    monkeypatch.setattr(driver, "package_version", lambda: "99.0")
    toy.run()
    assert toy.did == EVERY
    assert f"made by version {old} of the package, this is 99.0" in toy.told[0]
    monkeypatch.undo()
    monkeypatch.setattr(driver, "run_step", toy.step)
    toy.run()
    assert toy.did == []  # the old version finds its own output


def test_a_step_that_was_killed_is_named_and_the_same_call_goes_on_in_its_folder(toy: Toy) -> None:
    def killed(folder: Path) -> Finished:
        (folder / "checkpoint").write_text("half", encoding="utf-8")
        return Finished("killed", "its process ended by SIGKILL")

    toy.ends["train"] = killed
    with pytest.raises(UserError, match=r"step train: its process ended by SIGKILL.*resume\. Log: "):
        toy.run()
    toy.ends.clear()
    toy.run()
    assert toy.did == after("train")
    assert (toy.path / BY_NAME["train"].folder / "checkpoint").read_text("utf-8") == "half"
    assert "train         resumes" in "\n".join(toy.told)


def test_a_recipe_that_changed_while_a_step_was_unfinished_begins_it_anew(toy: Toy) -> None:
    def killed(folder: Path) -> Finished:
        (folder / "checkpoint").write_text("half", encoding="utf-8")
        return Finished("killed", "its process ended by SIGKILL")

    toy.ends["train"] = killed
    with pytest.raises(UserError):
        toy.run()
    toy.ends.clear()
    toy.run("train.steps=31")
    folder = toy.path / BY_NAME["train"].folder
    assert not (folder / "checkpoint").exists()
    assert "runs again: its inputs changed while it was unfinished" in "\n".join(toy.told)
    toy.run()  # the unfinished one is gone on with, when its inputs are back
    assert (folder / "checkpoint").read_text("utf-8") == "half"
    assert toy.did[0] == "train"


def test_a_full_disk_is_named_before_a_step_and_in_it(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.ends["data"] = lambda folder: Finished("full disk", "[Errno 28] No space left on device")
    with pytest.raises(UserError, match=r"step data: the disk is full .*Errno 28.*finished steps stay"):
        toy.run()
    toy.ends.clear()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(driver.shutil, "disk_usage", lambda path: usage(10**9, 10**9, 5 * 10**6))
    with pytest.raises(UserError, match=r"step data: 5 MB are free on the disk .*MB are needed"):
        toy.run()
    monkeypatch.undo()
    monkeypatch.setattr(driver, "run_step", toy.step)
    toy.run()
    assert toy.did == after("data")


def test_a_skipped_step_is_marked_and_others_use_what_is_there(toy: Toy) -> None:
    progress = toy.run('skip=["preferences", "architecture"]')
    assert "preferences" not in toy.did and "architecture" not in toy.did
    assert progress.status["preferences"] == "skipped"
    assert "skipped: the recipe leaves it out" in toy.line("preferences")
    state = json.loads((toy.path / "pipeline.json").read_text("utf-8"))
    assert [step["name"] for step in state["steps"] if step["status"] == "skipped"] == [
        "architecture",
        "preferences",
    ]
    assert progress.records["reasoning"].inputs["model"] == progress.records["sft"].digest


def test_a_step_whose_input_is_skipped_is_refused_by_name(toy: Toy) -> None:
    with pytest.raises(UserError, match="step train needs tokenizer/tokenizer, and the step tokenizer is skipped"):
        toy.run('skip=["tokenizer"]')
    with pytest.raises(UserError, match="needs a model, the step train is skipped and the recipe has no base"):
        toy.run('skip=["train", "stability"]')


def test_a_base_takes_the_place_of_steps_3_to_6(toy: Toy, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    progress = toy.run(f"base={base}")
    assert toy.did == [name for name in EVERY if name not in ("tokenizer", "architecture", "train", "stability")]
    assert "skipped: the recipe begins with" in toy.line("train")
    write_base(tmp_path / "base", type_name="f16")
    assert toy.run(f"base={base}").records["sft"] != progress.records["sft"]
    assert toy.did == after("sft")


def test_from_a_step_on_all_run_again_and_those_before_must_be_current(toy: Toy) -> None:
    with pytest.raises(
        UserError, match=r"step decide is not current \(not run yet\), and --from sft leaves it out"
    ):
        toy.run(wish=Wish(first="sft"))
    toy.run()
    toy.run(wish=Wish(first="inference"))
    assert toy.did == after("inference")
    with pytest.raises(
        UserError, match=r"step preferences is not current \(the recipe's preferences.steps changed\)"
    ):
        toy.run("preferences.steps=7", wish=Wish(first="inference"))


def test_only_one_step_runs_and_the_others_stay(toy: Toy) -> None:
    toy.run()
    toy.run(wish=Wish(only="align"))
    assert toy.did == ["align"]
    toy.run()
    assert toy.did == []
    with pytest.raises(UserError, match="--only sft leaves it out"):
        toy.run("data.pages=61", wish=Wish(only="sft"))


def test_a_lost_evaluation_is_made_again_without_its_step(toy: Toy) -> None:
    toy.run()
    (toy.path / "evaluations" / "07-sft.json").unlink()
    toy.run()
    assert toy.did == [] and toy.measured == ["sft"]
    toy.run("evaluation.tasks=1")
    assert toy.did == [] and toy.measured == MODELS


def test_two_drivers_do_not_work_in_one_folder(toy: Toy) -> None:
    def meanwhile(folder: Path) -> Finished:
        with pytest.raises(UserError, match="another process works in it"):
            driver.run_pipeline(toy_recipe(), toy.path, print)
        return Finished("stopped")

    toy.ends["data"] = meanwhile
    with pytest.raises(UserError, match="step data was stopped; run the same command to resume"):
        toy.run()


def test_own_texts_are_an_input_by_their_content(toy: Toy, tmp_path: Path) -> None:
    text = tmp_path / "own.txt"
    text.write_text("a text of my own", encoding="utf-8")
    toy.run(f'data.folders=["{text}"]')
    moved = tmp_path / "moved" / "own.txt"
    moved.parent.mkdir()
    text.rename(moved)
    toy.run(f'data.folders=["{moved}"]')
    assert toy.did == []
    moved.write_text("another text of my own", encoding="utf-8")
    toy.run(f'data.folders=["{moved}"]')
    assert toy.did[0] == "data"
    with pytest.raises(UserError, match=r"data.folders: '.*no.txt' does not exist"):
        toy.run(f'data.folders=["{tmp_path}/no.txt"]')
