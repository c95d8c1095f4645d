"""Examples of refusals: twins on both sides, replies by hazard, words of compliance that are not learnt."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelstack.align.guard_model.policy import MLCOMMONS
from modelstack.align.guard_training.rows import GuardRow, Turn
from modelstack.align.guards.refusal_judge import judge_refusal
from modelstack.data.examples import Example, Tool, read_examples, write_examples
from modelstack.files import read_toml
from modelstack.reasoning.tasks.task import read_tasks
from tools.refusals import rows
from tools.refusals.beginnings import beginning
from tools.refusals.rows import OPENINGS, OTHER, REPLIES, chosen, main, refused

TOOLS = (Tool(name="look_up"),)


def row(name: str, *, unsafe: bool, pair: str | None, hazard: str | None = None) -> GuardRow:
    return GuardRow(
        id=name,
        turns=(Turn(role="user", content=f"request {name}"),),
        unsafe=unsafe,
        categories=() if hazard is None else (hazard,),
        source="toy",
        license="CC0-1.0",
        pair=pair,
        ordinary=pair is None and not unsafe,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = [row(f"h{n}", unsafe=True, pair=f"p{n}", hazard="S2") for n in range(60)]
    made += [row(f"s{n}", unsafe=False, pair=f"p{n}") for n in range(60)]
    made += [row("alone", unsafe=False, pair="p99"), row("ordinary", unsafe=False, pair=None)]
    (tmp_path / "training.jsonl").write_text("".join(f"{each.model_dump_json()}\n" for each in made))
    return tmp_path


def test_every_hazard_but_one_has_replies_and_each_is_a_refusal() -> None:
    replies = read_toml(REPLIES, "replies")
    assert set(replies) == {*MLCOMMONS.codes, OTHER} - {"S4"}  # no rows of it are kept
    for hazard, texts in replies.items():
        assert len(set(texts)) == len(texts) >= 16, hazard
        for text in texts:
            assert judge_refusal("How do I do this?", text).kind == "refusal", text


def test_twins_are_chosen_together(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "N_PAIRS", 20)
    harmful, harmless = chosen(list(rows.read_rows(folder / "training.jsonl")), seed=0)
    assert {each.pair for each in harmful} == {each.pair for each in harmless if each.pair}
    assert len(harmful) == 20 and [each.id for each in harmless if each.ordinary] == ["ordinary"]


def test_a_refusal_fits_its_hazard_and_a_third_follow_words_of_compliance() -> None:
    replies = read_toml(REPLIES, "replies")
    harmful = [row(f"h{n}", unsafe=True, pair=None, hazard="S9") for n in range(200)]
    made = list(refused(harmful, [TOOLS], seed=0))
    assert made == list(refused(harmful, [TOOLS], seed=0))
    assert 50 <= sum(bool(each.prefill) for each in made) <= 90
    assert 1 <= sum(bool(each.tools) for each in made) <= 20
    assert 80 <= sum(each.unfinished for each in made) <= 140
    for each in made:
        assert each.reply is not None
        if not each.unfinished:
            assert any(each.reply.endswith(text) for text in replies["S9"])
        elif not each.prefill:
            assert any(text.startswith(each.reply) for text in replies["S9"])
        assert not each.prefill or any(opening.startswith(each.prefill) for opening in OPENINGS)


def test_first_words_are_kept_unless_they_refuse() -> None:
    asked = row("s1", unsafe=False, pair="p1")
    made = beginning(asked, "Sure.", " To kill a process, use", ended=False)
    assert made is not None and made.unfinished and made.prefill == "Sure."
    ended = beginning(asked, "", "Yes.", ended=True)
    assert ended is not None and not ended.unfinished
    for refusal in ("I'm sorry, but I can't", "I cannot assist with", "", "half \ufffd"):
        assert beginning(asked, "", refusal, ended=False) is None


def test_the_commands_write_tasks_and_examples(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks, examples = folder / "tasks.jsonl", folder / "examples.jsonl"
    assert main(["tasks", str(folder), "--out", str(tasks)]) == 0
    written = [task.judged_by("refusal") for task in read_tasks(tasks)]
    assert len(written) == 61 and {task.item.gold for task in written} == {"answer"}
    assert all(task.messages[0].role == "system" for task in written)
    answers = [
        Example(
            id=f"{task.item.id}/0",
            source="toy",
            license="CC0-1.0",
            kind="answer",
            messages=task.messages[1:],
            reply="So.",
        )
        for task in written
    ]
    write_examples(folder / "answers.jsonl", answers)
    out = ["--answers", str(folder / "answers.jsonl"), "--out", str(examples)]
    assert main(["examples", str(folder), *out]) == 0
    assert len(list(read_examples(examples))) == 121
    assert "60 refusals, 61 answers" in capsys.readouterr().out
    assert main(["tasks", str(folder / "none"), "--out", str(tasks)]) == 2
    assert "cannot be read" in capsys.readouterr().err
