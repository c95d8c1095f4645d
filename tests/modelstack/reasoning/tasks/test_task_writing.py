"""Files of tasks: bytes by seed, two sides that never meet, golds that can be met, canaries that cannot."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from modelstack.cli import app
from modelstack.errors import UserError
from modelstack.reasoning.tasks.golds import VerifierName
from modelstack.reasoning.tasks.task import PolicyTask, read_tasks
from modelstack.reasoning.tasks.verifier_choice import verifier_of
from modelstack.reasoning.tasks.writing.effect_tasks import effects_source
from modelstack.reasoning.tasks.writing.effect_wishes import HELD_OUT, WISHES
from modelstack.reasoning.tasks.writing.gym_tasks import GymSettings, gym_source
from modelstack.reasoning.tasks.writing.json_domains import DOMAINS, HELD_OUT_DOMAINS
from modelstack.reasoning.tasks.writing.json_tasks import json_source
from modelstack.reasoning.tasks.writing.written import Side, Source, tasks_of, write_tasks
from modelstack.reasoning.verifiers.rewards import Completion
from modelstack.reasoning.worlds.registry import WORLDS
from modelstack.toolcalls.convention import render_calls

SOURCES: dict[VerifierName, Source] = {"json": json_source(), "effects": effects_source()}


def written(path: Path, source: Source, side: Side, n: int = 120, seed: int = 0, **more: Any) -> list[PolicyTask]:
    assert write_tasks(path, tasks_of(source, side, n, seed, **more)) == n
    return list(read_tasks(path))


def right_reply(name: VerifierName, task: PolicyTask) -> str:
    """Return what a gold as it stands in the file asks for."""
    gold = task.item.gold
    if name == "effects":
        return render_calls([(call["name"], call["arguments"]) for call in gold["calls"]])

    def value(schema: dict[str, Any]) -> Any:
        if "const" in schema:
            return schema["const"]
        return {key: value(each) for key, each in schema["properties"].items()}

    return json.dumps(value(gold))


@pytest.mark.parametrize("name", SOURCES)
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(name: VerifierName, tmp_path: Path) -> None:
    for file, seed in (("a", 0), ("b", 0), ("c", 1)):
        written(tmp_path / file, SOURCES[name], "train", 40, seed)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()


@pytest.mark.parametrize("name", SOURCES)
def test_no_prompt_is_on_both_sides_whatever_the_seeds(name: VerifierName, tmp_path: Path) -> None:
    said: dict[str, set[str]] = {"train": set(), "held-back": set()}
    for side, seeds in (("train", (0, 1)), ("held-back", (0, 2))):
        for seed in seeds:
            tasks = written(tmp_path / "t", SOURCES[name], side, 100, seed)  # type: ignore[arg-type]
            assert len({task.item.prompt for task in tasks}) == len(tasks)
            said[side] |= {task.item.prompt for task in tasks}
    assert not said["train"] & said["held-back"]


@pytest.mark.parametrize("side", ["train", "held-back"])
@pytest.mark.parametrize("name", SOURCES)
def test_every_gold_can_be_met_and_earns_1_and_doing_nothing_is_right_only_where_no_tool_fits(
    name: VerifierName, side: Side, tmp_path: Path
) -> None:
    verifier = verifier_of(name)
    for task in written(tmp_path / "t", SOURCES[name], side, canaries=0.0):
        judged = task.judged_by(name).item
        assert verifier.score(judged, Completion(right_reply(name, task))).value == 1.0, task
        is_nothing_right = name == "effects" and not task.item.gold["calls"]
        for nothing in ("[]", "{}", "I cannot do that."):
            is_right = is_nothing_right and nothing != "{}"
            assert verifier.score(judged, Completion(nothing)).value == float(is_right), task


@pytest.mark.parametrize("name", SOURCES)
def test_canaries_look_like_the_others_and_pay_for_nothing(name: VerifierName, tmp_path: Path) -> None:
    plain = written(tmp_path / "p", SOURCES[name], "train", 100, canaries=0.0)
    tasks = written(tmp_path / "t", SOURCES[name], "train", 100, canaries=0.1)
    assert sum(task.item.is_canary for task in tasks) == 10
    verifier = verifier_of(name)
    for task, same in zip(tasks, plain, strict=True):
        assert task.messages == same.messages and task.tools == same.tools
        if task.item.is_canary:
            for reply in (right_reply(name, same), "[]", "{}", "true"):
                assert verifier.score(task.judged_by(name).item, Completion(reply)).value == 0.0


def test_held_back_files_have_no_canaries(tmp_path: Path) -> None:
    tasks = written(tmp_path / "t", json_source(), "held-back", 60, canaries=0.5)
    assert not any(task.item.is_canary for task in tasks)


def test_worlds_and_words_are_held_back(tmp_path: Path) -> None:
    training = written(tmp_path / "t", effects_source(), "train", 300, canaries=0.0)
    held_back = written(tmp_path / "h", effects_source(), "held-back", 300)
    worlds = {side: Counter(task.item.gold["world"] for task in tasks) for side, tasks in
              (("train", training), ("held-back", held_back))}  # fmt: skip
    assert set(worlds["train"]) == set(WORLDS) - set(HELD_OUT)
    assert set(worlds["held-back"]) == set(WORLDS)
    assert sum(worlds["held-back"][world] for world in HELD_OUT) in range(110, 190)
    assert not any("Check off" in task.item.prompt for task in training)
    assert any("Check off" in task.item.prompt for task in held_back)
    for tasks in (training, held_back):
        n_nothing = sum(not task.item.gold["calls"] for task in tasks)
        assert n_nothing in range(20, 60)  # one in eight


def test_every_wish_is_of_a_tool_of_its_world_and_every_tool_has_one() -> None:
    for name, world in WORLDS.items():
        assert [wish.tool for wish in WISHES[name]] == [deed.name for deed in world.deeds]
        assert all(len(wish.phrasings) > 1 for wish in WISHES[name])


def test_things_are_held_back(tmp_path: Path) -> None:
    new = {f"json {domain.name}" for domain in HELD_OUT_DOMAINS}
    known = {f"json {domain.name}" for domain in DOMAINS}

    def sources(file: Path) -> Counter[str]:
        return Counter(json.loads(line)["source"] for line in file.read_text(encoding="utf-8").splitlines())

    written(tmp_path / "t", json_source(), "train", 200)
    written(tmp_path / "h", json_source(), "held-back", 200)
    assert set(sources(tmp_path / "t")) == known
    assert set(sources(tmp_path / "h")) == known | new
    assert sum(sources(tmp_path / "h")[name] for name in new) in range(70, 130)


def test_there_are_only_so_many_prompts() -> None:
    one = next(iter(tasks_of(json_source(), "train", 1, 0)))
    source = Source("one", lambda chance, side, number: one, lambda task: task)
    with pytest.raises(
        UserError, match="one has 1 different prompts for the side 'train' with these settings, and 2"
    ):
        list(tasks_of(source, "train", 2, 0))


@pytest.fixture(scope="module")
def gym_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("reasoning_gym")
    file = tmp_path_factory.mktemp("gym") / "train.jsonl"
    config = '{"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2}'
    run = CliRunner().invoke(
        app, ["tasks", "gym", "--out", str(file), "--n", "30", "--form", "equation", "--config", config,
              "--canaries", "0.1"],
    )  # fmt: skip
    assert run.exit_code == 0, run.output
    assert "30 tasks (train, seed 0); verifier: gym" in run.output
    return file


def test_puzzles_come_with_an_example_and_right_answers_earn_1(gym_file: Path) -> None:
    from modelstack.reasoning.verifiers.gym import dataset_of

    tasks = list(read_tasks(gym_file))
    n_canaries = sum(task.item.is_canary for task in tasks)
    assert n_canaries == 3
    verifier = verifier_of("gym")
    for task in tasks:
        system, asked, said, question = task.messages
        assert system.content == "Write the equation with its result."
        assert said.content.startswith(asked.content) and question.content.endswith("=")
        judged = task.judged_by("gym").item
        left = question.content.removesuffix("=").split()
        sign = 1 if left[1] == "+" else -1
        reply = f"{question.content} {int(left[0]) + sign * int(left[2])}"
        assert verifier.score(judged, Completion(reply)).value == float(not task.item.is_canary)
        entry = judged.gold.entry
        if not task.item.is_canary:
            assert str(dataset_of(entry.task)[entry.index]["question"]).endswith(question.content)
    verifier.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (GymSettings(task="chain_sums"), "reasoning-gym has no task 'chain_sums'"),
        (
            GymSettings(task="letter_counting", form="equation"),
            "form = 'equation' is for questions that end with '='",
        ),
        (GymSettings(config={"min_terms": 0}), "task 'chain_sum' refuses"),
    ],
)
def test_generators_that_cannot_be_are_refused(settings: GymSettings, complaint: str) -> None:
    pytest.importorskip("reasoning_gym")
    with pytest.raises(UserError, match=complaint):
        gym_source(settings, 0)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--config", "{"], "--config is '{', which is not JSON"),
        (["--config", "[1]"], "it must be a JSON object"),
        (["--n", "1000000", "--side", "held-back"], "different prompts for the side 'held-back'"),
    ],
)
def test_the_command_says_what_is_wrong(arguments: list[str], complaint: str, tmp_path: Path) -> None:
    pytest.importorskip("reasoning_gym")
    if "1000000" in arguments:
        arguments = [*arguments, "--config", '{"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}']
    run = CliRunner().invoke(app, ["tasks", "gym", "--form", "equation", "--out", str(tmp_path / "t"), *arguments])
    assert run.exit_code == 1 and complaint in " ".join(run.output.split())
    assert not (tmp_path / "t").exists()
