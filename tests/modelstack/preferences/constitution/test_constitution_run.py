from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import anyio
import pytest

from modelstack.data.examples import read_examples
from modelstack.errors import UserError
from modelstack.preferences.constitution.asking import Turn, Unanswered
from modelstack.preferences.constitution.critique import RevisionSettings
from modelstack.preferences.constitution.feedback import FeedbackSettings
from modelstack.preferences.constitution.journal import Journal
from modelstack.preferences.constitution.prompts import Prompt, read_prompts
from modelstack.preferences.constitution.run import (
    EXAMPLES,
    JOURNAL,
    PAIRS,
    REPORT,
    REVISIONS,
    ConstitutionRecipe,
    Models,
    in_turns,
    run_comparisons,
    run_revisions,
)
from modelstack.preferences.examples import read_preferences
from tests.modelstack.preferences.constitution.constitution_doubles import (
    SMALL,
    FunctionChooser,
    FunctionWriter,
    prompt,
    telling,
)

PROMPTS = [prompt(f"Question {number}?", f"p{number}", keep=number == 2) for number in range(5)]
RECIPE = ConstitutionRecipe(revision=RevisionSettings(rounds=2, few_shot=False), concurrency=3)
N_ANSWERS = 5 + 4 * 2 * 2
"""Replies, and critique and revision in two rounds for all but the kept one."""


def _writer(fails_at: int | None = None) -> FunctionWriter:
    """Return a writer that is killed at one of its answers."""

    def answer(turns: Sequence[Turn], seed: int) -> str:
        if fails_at is not None and len(writer.asked) > fails_at:
            raise ConnectionError("killed")
        return telling(turns, seed)

    writer = FunctionWriter(answer)
    return writer


def _revise(path: Path, writer: FunctionWriter, recipe: ConstitutionRecipe = RECIPE) -> None:
    anyio.run(run_revisions, SMALL, PROMPTS, recipe, Models(writer, writer), path)


def test_the_supervised_stage_leaves_examples_records_and_a_report(tmp_path: Path) -> None:
    writer = _writer()
    _revise(tmp_path, writer)
    assert len(writer.asked) == N_ANSWERS
    examples = list(read_examples(tmp_path / EXAMPLES))
    assert [each.id for each in examples] == [each.id for each in PROMPTS]
    records = [json.loads(line) for line in (tmp_path / REVISIONS).read_text().splitlines()]
    assert [len(each["rounds"]) for each in records] == [2, 2, 0, 2, 2]
    assert records[0]["rounds"][1]["revision"] == examples[0].reply
    report = json.loads((tmp_path / REPORT).read_text())
    assert (report["prompts"], report["examples"], report["kept_as_they_were"]) == (5, 5, 1)
    assert sum(report["principles"].values()) == 8


@pytest.mark.parametrize("fails_at", [0, 1, 7, N_ANSWERS - 1])
def test_a_killed_run_goes_on_asks_nothing_twice_and_gives_the_same_files(tmp_path: Path, fails_at: int) -> None:
    _revise(tmp_path / "whole", _writer())
    killed, rest = _writer(fails_at), _writer()
    with pytest.raises(ConnectionError, match="killed"):
        _revise(tmp_path / "run", killed)
    journal = tmp_path / "run" / JOURNAL
    n_kept = len(journal.read_text().splitlines()) if journal.exists() else 0
    assert n_kept >= fails_at - RECIPE.concurrency
    assert not (tmp_path / "run" / EXAMPLES).exists()
    _revise(tmp_path / "run", rest)
    assert len(rest.asked) == N_ANSWERS - n_kept
    for name in (EXAMPLES, REVISIONS, REPORT):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_line_that_was_cut_short_is_dropped_and_asked_again(tmp_path: Path) -> None:
    _revise(tmp_path, _writer())
    journal = tmp_path / JOURNAL
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-7])
    again = _writer()
    _revise(tmp_path, again)
    assert len(again.asked) == 1
    assert Counter(journal.read_bytes().splitlines()) == Counter(whole.splitlines())


def test_two_prompts_with_the_same_words_are_asked_once(tmp_path: Path) -> None:
    twins = [prompt("Why?", name, keep=True) for name in ("a", "b", "c")]
    writer = _writer()
    revised = anyio.run(run_revisions, SMALL, twins, RECIPE, Models(writer, writer), tmp_path)
    assert len(writer.asked) == 1
    assert len({each.target for each in revised}) == 1


def test_a_journal_that_is_none_is_refused_by_its_line(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_text('{"key": "a", "answer": 1}\nnonsense\n{"key": "b", "answer": 1}\n')
    with pytest.raises(UserError, match="line 2 is not an answer"):
        Journal(tmp_path / JOURNAL)


def test_an_answer_that_there_is_none_of_is_remembered(tmp_path: Path) -> None:
    def refuse(turns: Sequence[Turn], seed: int) -> str:
        raise Unanswered("filtered")

    writer = FunctionWriter(refuse)
    _revise(tmp_path, writer)
    assert json.loads((tmp_path / REPORT).read_text())["left_out"] == {"unanswered": 5}
    assert list(read_examples(tmp_path / EXAMPLES)) == []
    _revise(tmp_path, writer)
    assert len(writer.asked) == 5


def test_halves_of_surrogate_pairs_do_not_end_a_run(tmp_path: Path) -> None:
    _revise(tmp_path, FunctionWriter(lambda turns, seed: f"broken \ud83d {len(turns)}"))
    assert len(list(read_examples(tmp_path / EXAMPLES))) == 5


@pytest.mark.parametrize(
    "change",
    [
        lambda path: _revise(path, _writer(), RECIPE.model_copy(update={"seed": 1})),
        lambda path: anyio.run(run_revisions, SMALL, PROMPTS[:4], RECIPE, Models(_writer(), _writer()), path),
        lambda path: anyio.run(
            run_revisions, SMALL, PROMPTS, RECIPE, Models(FunctionWriter(telling, "other"), _writer()), path
        ),
        lambda path: anyio.run(
            run_revisions,
            SMALL.model_copy(update={"critic": "You are strict."}),
            PROMPTS,
            RECIPE,
            Models(_writer(), _writer()),
            path,
        ),
        lambda path: anyio.run(run_comparisons, SMALL, PROMPTS, RECIPE, Models(_writer(), _writer()), path),
    ],
    ids=["seed", "prompts", "model", "constitution", "stage"],
)
def test_a_folder_belongs_to_one_run(tmp_path: Path, change: Callable[[Path], None]) -> None:
    _revise(tmp_path, _writer())
    with pytest.raises(UserError, match="Give another --out"):
        change(tmp_path)


def test_how_many_prompts_are_asked_at_once_may_change_and_changes_nothing(tmp_path: Path) -> None:
    _revise(tmp_path / "a", _writer(), RECIPE.model_copy(update={"concurrency": 1}))
    _revise(tmp_path / "b", _writer())
    assert (tmp_path / "a" / EXAMPLES).read_bytes() == (tmp_path / "b" / EXAMPLES).read_bytes()
    again = _writer()
    _revise(tmp_path / "a", again, RECIPE.model_copy(update={"concurrency": 2}))
    assert again.asked == []


def test_the_preference_stage_leaves_pairs_that_prefer_reads(tmp_path: Path) -> None:
    replier = FunctionWriter(lambda turns, seed: f"{'good' if seed else 'bad'} answer to {turns[-1].content}")

    def p_first(question: str) -> float:
        return 0.9 if question.index("good answer") < question.index("bad answer") else 0.3

    compared = anyio.run(
        run_comparisons, SMALL, PROMPTS, RECIPE, Models(replier, replier, FunctionChooser(p_first)), tmp_path
    )
    assert all(each.label == pytest.approx(1 - 0.8) for each in compared)
    pairs = list(read_preferences(tmp_path / PAIRS))
    assert [each.id for each in pairs] == [each.id for each in PROMPTS]
    assert all(each.chosen and (each.chosen.reply or "").startswith("good") for each in pairs)
    report = json.loads((tmp_path / REPORT).read_text())
    assert report["label_smoothing_for_cdpo"] == pytest.approx(0.2)
    assert report["position_bias"] == pytest.approx(0.1)


def test_a_judge_without_probabilities_is_asked_several_times_and_each_answer_is_kept(tmp_path: Path) -> None:
    judge = FunctionWriter(lambda turns, seed: "A" if seed == 0 else "B")
    replier = FunctionWriter(lambda turns, seed: f"reply {seed}")
    recipe = ConstitutionRecipe(n_samples=4, feedback=FeedbackSettings(min_margin=0))
    compared = anyio.run(run_comparisons, SMALL, PROMPTS[:1], recipe, Models(replier, judge), tmp_path)
    assert [each.p_first_shown for each in compared[0].shown] == [0.25, 0.25]
    assert len((tmp_path / JOURNAL).read_text().splitlines()) == 2 + 2 * 4


def test_a_constitution_without_principles_of_a_stage_is_refused(tmp_path: Path) -> None:
    only_choices = SMALL.model_copy(update={"principles": SMALL.choosing[-1:], "examples": ()})
    with pytest.raises(UserError, match="no principle with critique and revision"):
        anyio.run(run_revisions, only_choices, PROMPTS, RECIPE, Models(_writer(), _writer()), tmp_path)
    with pytest.raises(UserError, match="no prompt"):
        anyio.run(run_revisions, SMALL, [], RECIPE, Models(_writer(), _writer()), tmp_path)


def test_work_is_done_by_so_many_at_once_and_its_results_keep_the_order() -> None:
    at_once: list[int] = []
    running = 0

    async def work(item: int) -> int:
        nonlocal running
        running += 1
        at_once.append(running)
        for _ in range(5 - item):
            await anyio.lowlevel.checkpoint()
        running -= 1
        return item * item

    assert anyio.run(in_turns, list(range(5)), work, 2) == [0, 1, 4, 9, 16]
    assert max(at_once) == 2
    assert anyio.run(in_turns, [], work, 2) == []


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("[1]", "JSON object"),
        ("{", "line 1"),
        ('{"text": "x"}', "either prompt"),
        ('{"prompt": "a", "messages": []}', "either prompt"),
        ('{"prompt": " "}', "empty"),
        ('{"prompt": 3}', "messages.0.content"),
        ('{"prompt": "a", "kep": true}', "kep"),
        ('{"prompt": "a", "replies": ["x", "y", "z"]}', "replies"),
        (
            '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}',
            "it must be the user's",
        ),
        ('{"messages": [{"role": "tool", "content": "a"}, {"role": "user", "content": "b"}]}', "no tools"),
        ('{"prompt": "\\ud800"}', "surrogate"),
        ('{"id": "x", "prompt": "a"}\n{"id": "x", "prompt": "b"}', "line 2: id 'x' occurs twice"),
        ("\n", "has no prompt"),
    ],
)
def test_a_faulty_file_of_prompts_is_refused_with_its_line(tmp_path: Path, line: str, told: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(line + "\n")
    with pytest.raises(UserError, match=r"prompts\.jsonl") as caught:
        read_prompts(file)
    assert told in str(caught.value)


def test_prompts_are_texts_or_conversations(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    file.write_text(f'{{"prompt": "Why?"}}\n{json.dumps({"messages": turns, "id": "m", "replies": ["r"]})}\n')
    first, second = read_prompts(file)
    assert (first.id, first.asked, first.license) == ("prompts-1", "Why?", "unknown")
    assert [turn.content for turn in second.turns] == ["a", "b", "c"]
    assert second.replies == ("r",)
    assert isinstance(second, Prompt)


def test_an_answer_that_has_come_is_kept_although_its_task_is_cancelled(tmp_path: Path) -> None:
    async def run() -> None:
        journal = Journal(tmp_path / JOURNAL)
        with anyio.CancelScope() as scope:

            async def ask() -> str:
                scope.cancel()  # as another task's failure would, while the answer is on its way
                return "paid for"

            await journal.once({"a": 1}, ask)
        assert scope.cancel_called

    anyio.run(run)
    (line,) = (tmp_path / JOURNAL).read_text().splitlines()
    assert json.loads(line)["answer"] == "paid for"
