"""`modelstack sample`: right replies become examples, rules drop the others, a stopped sampling goes on."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
from typer.testing import CliRunner

from modelstack.commands.reasoning import sample as command
from modelstack.data.examples import read_examples
from modelstack.errors import UserError
from modelstack.reasoning.rejection import run as rejection
from modelstack.reasoning.rejection.recipe import SampleRecipe
from modelstack.reasoning.rejection.rules import KeepRules, complaint, scripts
from modelstack.reasoning.rejection.run import EXAMPLES_FILE, REPLIES_FILE, REPORT_FILE, kept, sample
from modelstack.reasoning.verifiers.canaries import GuardedReward
from modelstack.reasoning.verifiers.rewards import Completion, Item, Reward
from modelstack.recipe_file import checked_recipe
from tests.modelstack.sft.toy_sft import write_base
from tests.modelstack.train.run.toy_run import write_toml


class World(NamedTuple):
    base: Path
    tasks: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("rejection")
    write_tasks(folder / "tasks.jsonl", 6)
    return World(write_base(folder / "base"), folder / "tasks.jsonl")


def write_tasks(path: Path, n: int, **more: Any) -> None:
    lines = [{"id": str(i), "prompt": f"say {i}", "gold": str(i), "license": "CC0-1.0", **more} for i in range(n)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


class EvenTokens:
    """Pays for replies of an even sum of tokens: about half of what a toy says."""

    def score(self, item: Item[Any], completion: Completion) -> Reward:
        return Reward(float(sum(completion.token_ids) % 2 == 0), answer=completion.text)


class _NoHack:
    item = Item("nothing", "")
    why = "there is nothing to hack"

    def completion(self) -> Completion:
        return Completion("", (501,))


@pytest.fixture
def even(monkeypatch: pytest.MonkeyPatch) -> None:
    probe: Any = ("even", EvenTokens(), _NoHack())
    monkeypatch.setattr(rejection, "GuardedReward", lambda _: GuardedReward(EvenTokens(), probes=[probe]))


def recipe_of(world: World, **changes: Any) -> SampleRecipe:
    return checked_recipe(SampleRecipe, values(world, **changes))


def values(world: World, **changes: Any) -> dict[str, Any]:
    return {
        "name": "toy",
        "model": str(world.base),
        "tasks": [str(world.tasks)],
        "verifier": "math",
        "replies": 6,
        "max_tokens": 5,
        "tasks_at_once": 2,
        "threads": 1,
        "device": "cpu",
        **changes,
    }


def all_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no reply of a toy count as cut off: it seldom ends one."""
    monkeypatch.setattr(rejection, "complaint", lambda *_: "")


def test_right_replies_become_examples(
    world: World, tmp_path: Path, even: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_right(monkeypatch)
    report = sample(recipe_of(world, keep={"at_most": 2}), tmp_path)
    assert report is not None
    records = [json.loads(line) for line in (tmp_path / REPLIES_FILE).read_text(encoding="utf-8").splitlines()]
    assert sorted(record["id"] for record in records) == [str(i) for i in range(6)]
    examples = list(read_examples(tmp_path / EXAMPLES_FILE))
    of_task = Counter(example.id.partition("/")[0] for example in examples)
    assert examples and max(of_task.values()) <= 2
    said = {record["id"]: record["replies"] for record in records}
    for example in examples:
        task, _, number = example.id.partition("/")
        reply = said[task][int(number)]
        assert reply["reward"] == 1.0 and reply["text"] == example.reply
        assert (example.messages[0].content, example.license, example.kind) == (f"say {task}", "CC0-1.0", "answer")
    rates = [sum(reply["reward"] for reply in replies) / len(replies) for replies in said.values()]
    assert report["pass_rate"] == pytest.approx(sum(rates) / 6)
    assert report["n_examples"] + sum(report["dropped"].values()) == report["n_replies"] == 36
    assert json.loads((tmp_path / REPORT_FILE).read_text(encoding="utf-8")) == report


def test_examples_forget_the_instructions_that_the_replies_followed(
    world: World, tmp_path: Path, even: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_right(monkeypatch)
    turns = [{"role": "system", "content": "Follow the policy."}, {"role": "user", "content": "say it"}]
    write_tasks(tmp_path / "tasks.jsonl", 3, prompt=None, messages=turns)
    told = recipe_of(world, tasks=[str(tmp_path / "tasks.jsonl")])
    forgetting = told.model_copy(update={"forget_system": True})
    texts: list[list[str | None]] = []
    for name, recipe in (("told", told), ("forgotten", forgetting)):
        assert sample(recipe, tmp_path / name) is not None
        examples = list(read_examples(tmp_path / name / EXAMPLES_FILE))
        texts.append([example.reply for example in examples])
        roles = {tuple(message.role for message in example.messages) for example in examples}
        assert roles == {("user",) if recipe.forget_system else ("system", "user")}
    assert texts[0] == texts[1] != []


def test_a_stopped_sampling_goes_on_to_the_same_files(
    world: World, tmp_path: Path, even: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_right(monkeypatch)
    whole = sample(recipe_of(world), tmp_path / "whole")

    class Killed(Exception):
        pass

    def kill(name: str, done: int, total: int) -> None:
        if (done, total) == (4, 6):
            raise Killed

    with pytest.raises(Killed):
        sample(recipe_of(world), tmp_path / "cut", progress=kill)
    file = tmp_path / "cut" / REPLIES_FILE
    content = file.read_bytes()
    assert content.count(b"\n") == 4
    file.write_bytes(content[:-30])  # a process killed while it wrote a line
    assert sample(recipe_of(world), tmp_path / "cut") == whole
    assert (tmp_path / "cut" / EXAMPLES_FILE).read_bytes() == (tmp_path / "whole" / EXAMPLES_FILE).read_bytes()
    lines = [set((tmp_path / run / REPLIES_FILE).read_bytes().splitlines()) for run in ("cut", "whole")]
    assert lines[0] == lines[1]
    with pytest.raises(UserError, match="holds a run with recipe.replies = 6, the recipe says 5"):
        sample(recipe_of(world, replies=5), tmp_path / "cut")


def test_a_canary_that_is_paid_ends_the_sampling(
    world: World, tmp_path: Path, even: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tasks(tmp_path / "canaries.jsonl", 4, canary=True)
    with pytest.raises(UserError, match="its examples would teach a hack: canary prompt"):
        sample(recipe_of(world, tasks=[str(tmp_path / "canaries.jsonl")]), tmp_path / "run")


def reply(text: str, reward: float | None = 1.0, complaint: str = "") -> dict[str, Any]:
    return {"text": text, "reward": reward, "complaint": complaint}


def test_each_reply_is_dropped_by_the_first_rule_that_it_breaks(world: World) -> None:
    record = {
        "replies": [
            reply("a"),
            reply("b", 0.0),
            reply("c", None),
            reply(" a\n"),
            reply("d", complaint="one_script"),
            reply("e"),
            reply("f"),
        ]
    }
    dropped: Counter[str] = Counter()
    found = kept(record, recipe_of(world, keep={"at_most": 2}), dropped)
    assert found == [(0, "a"), (5, "e")]
    assert dropped == {"wrong": 1, "unscorable": 1, "said before": 1, "one_script": 1, "at_most": 1}
    easy: Counter[str] = Counter()
    assert kept(record, recipe_of(world, keep={"max_pass_rate": 0.5}), easy) == []
    assert easy["max_pass_rate"] == 4


@pytest.mark.parametrize(
    ("text", "rules", "expected"),
    [
        ("<think>a</think>b", {"thinking": True}, ""),
        ("b", {"thinking": True}, "thinking"),
        ("<think>Привет</think>b", {"one_script": True}, "one_script"),
        ("<think>déjà vu 3 + 4</think>b", {"one_script": True}, ""),
        ("```\nx\n```", {"code_blocks": False}, "code_blocks"),
        ("a" * 9 + "\n\n" + "b" * 9, {"max_paragraph_characters": 9}, ""),
        ("a" * 10, {"max_paragraph_characters": 9}, "max_paragraph_characters"),
        (" \n", {}, "empty"),
        ("abc", {"min_tokens": 4}, "min_tokens"),
        ("abc", {"max_tokens": 2}, "max_tokens"),
    ],
)
def test_rules_say_what_a_reply_has_to_be(text: str, rules: dict[str, Any], expected: str) -> None:
    completion = Completion(text, tuple(range(3)))
    assert complaint(Item("1", "2", prompt="how many?"), completion, KeepRules(**rules)) == expected
    cut = Completion(text, tuple(range(3)), is_truncated=True)
    assert complaint(Item("1", "2", prompt="how many?"), cut, KeepRules(**rules)) == "truncated"


def test_scripts_are_those_of_letters_alone() -> None:
    assert scripts("3 + 4 = 7 ✓ 🦊") == frozenset()
    assert scripts("Grüße, мир") == {"LATIN", "CYRILLIC"}
    assert scripts("漢字とカナ") == {"CJK"}


def test_tasks_that_cannot_be_sampled_are_refused(world: World, tmp_path: Path) -> None:
    tools = [{"name": "lamp", "parameters": {"type": "object", "properties": {}}}]
    write_tasks(tmp_path / "tools.jsonl", 1, tools=tools)
    write_tasks(tmp_path / "gold.jsonl", 1, gold=7)
    for number, (file, complaint_) in enumerate(
        (
            (tmp_path / "tools.jsonl", "task '0' has tools, but only text replies"),
            (tmp_path / "gold.jsonl", "task '0'"),
            (tmp_path / "none.jsonl", "none.jsonl does not exist"),
        )
    ):
        with pytest.raises(UserError, match=complaint_):
            sample(recipe_of(world, tasks=[str(file)]), tmp_path / str(number))
    with pytest.raises(UserError, match="id '0' occurs twice; ids must be unique across all files"):
        write_tasks(tmp_path / "more.jsonl", 1)
        sample(recipe_of(world, tasks=[str(world.tasks), str(tmp_path / "more.jsonl")]), tmp_path / "run2")


def test_the_command_says_what_was_kept(world: World, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(command)
    recipe = write_toml(tmp_path / "r.toml", values(world, replies=2))
    done = CliRunner().invoke(app, [str(recipe), "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    # No toy says a right number and ends: nothing is kept, and the reasons are told.
    told = " ".join(done.output.split())
    assert re.search(r"12 replies to 6 tasks; kept 0 examples of 0 tasks; dropped: wrong \d+", told), told
