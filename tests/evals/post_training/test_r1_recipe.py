"""R1's recipe at a small scale: the task is sound, the report says what was measured, all stages go through."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from evals.post_training.r1 import running_sums as sums
from evals.post_training.r1 import stages
from evals.post_training.r1.__main__ import main
from evals.post_training.r1.measuring import AtBudget, Measured
from evals.post_training.r1.plan import R1Plan, Shape
from evals.post_training.r1.report import CURVES_PLOT, DIAL_PLOT, REPORT_FILE, RESULTS_FILE, write_report
from modelstack.inference.curves_at_k import Judged
from modelstack.posttrain.stages.lineage import find_stages, lineage
from modelstack.posttrain.stages.stage import open_stage
from modelstack.tokenizer.chat_template import chat_encoder
from modelstack.tokenizer.tokenizer_folder import load_tokenizer

pytestmark = [pytest.mark.xdist_group("r1"), pytest.mark.usefixtures("pictures_drawn_once")]
TINY = R1Plan(
    teacher=Shape(layers=1, width=32, feed_forward=32, heads=2),
    student=Shape(layers=1, width=32, feed_forward=32, heads=2),
    n_documents=600,
    base_steps=4,
    student_base_steps=4,
    n_cold=12,
    cold_steps=2,
    n_tasks=8,
    rl_steps=1,
    rl_prompts=2,
    group=2,
    n_sampled_tasks=4,
    replies_per_task=2,
    sft_steps=1,
    distil_steps=1,
    rows=4,
    max_tokens=8,
    n_held_back=6,
    budgets=(0, 3),
    n_replies=2,
)


def test_a_problem_is_added_up_step_by_step() -> None:
    one = sums.Problem((3, 4, 1, 0, 2))
    assert (one.question, one.answer) == ("3+4+1+0+2+.+.+.+.=?", "0")
    assert one.steps() == ["33", "42", "13", "03", "20"]
    assert sums.reply(one.steps(), one.answer) == "<think>3342130320</think>0"


def test_held_back_problems_are_in_nothing_that_is_learnt_from() -> None:
    taken: set[sums.Problem] = set()
    held_back = sums.problems(random.Random("a"), 100, taken)
    assert len(set(held_back)) == 100 and {len(one.digits) for one in held_back} == {5, 6, 7, 8, 9}
    more = sums.problems(random.Random("a"), 100, taken)
    assert not set(more) & set(held_back)  # the same random numbers, other problems
    texts = list(sums.documents(random.Random("b"), 3000, set(held_back)))
    asked = {text.partition("?")[0] + "?" for text in texts if "?" in text}
    assert len(asked) > 1000 and not asked & {one.question for one in held_back}


def test_documents_are_right_and_a_cold_start_is_not_always() -> None:
    n_worked = 0
    for text in sums.documents(random.Random(1), 300, set()):
        question, worked, steps = text.partition(sums.WORKED)
        if worked:
            digits = tuple(int(digit) for digit in question.removesuffix("=?").split("+") if digit != ".")
            assert sums.Problem(digits).question == question and len(digits) <= sums.MOST_SHOWN
            one = sums.Problem(digits)
            assert steps == f"{''.join(one.steps())}{sums.TOTAL}{one.answer}"
            n_worked += 1
        for fact in text.split() if "?" not in text else ():
            assert eval(fact.partition("=")[0]) % sums.MODULUS == int(fact[-1])
    assert n_worked / 300 == pytest.approx(sums.SHARES[2], abs=0.08)
    several = sums.problems(random.Random(2), 600, set())
    replies = list(sums.imperfect_replies(random.Random(3), several))
    right = [text.endswith(f"</think>{one.answer}") for one, text in zip(several, replies, strict=True)]
    whole = [text == sums.reply(one.steps(), one.answer) for one, text in zip(several, replies, strict=True)]
    assert sum(whole) / 600 == pytest.approx(1 - sums.BROKEN_OFF - sums.SLIPPED, abs=0.06)
    assert sum(whole) < sum(right) < 500  # some that broke off are right by chance


def test_what_is_copied_stands_as_far_back_in_documents_as_in_conversations(tmp_path: Path) -> None:
    work = stages.Work(TINY, tmp_path, Console(quiet=True))
    stages.write_data(work)
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    encoder = chat_encoder(tokenizer)
    one = sums.Problem((3, 4, 1, 0, 2))
    encode = tokenizer.vocabulary.encode
    prompt = [*encoder.encode_turn("user", one.question).ids, *encoder.generation_ids("user"), *encode("<think>")]
    question = encode(one.question)
    assert len(question) == 2 * sums.MOST + 1
    (at,) = [n for n in range(len(prompt)) if prompt[n : n + len(question)] == question]
    assert len(prompt) - at - len(question) == len(encode(sums.WORKED))
    assert len(encode("</think>")) == len(encode(sums.TOTAL))
    assert {encode(each)[-1] for each in (sums.WORKED, sums.TOTAL, "</think>")} == {prompt[-1]}


def measured(name: str, n_right: int, **more: Any) -> Measured:
    right = tuple(number < n_right for number in range(20))
    return Measured(
        name=name, plan="x", n_parameters=10, is_right=right, is_formed=right, n_tokens=(5,) * 20, **more
    )


def test_a_report_has_every_figure_with_its_interval(tmp_path: Path) -> None:
    def thinking(name: str, n_right: int) -> Measured:
        dial = tuple(
            AtBudget(budget=b, is_right=tuple(n < b for n in range(20)), n_thinking=(b,) * 20) for b in (0, 6)
        )
        replies = (Judged(("1", "1", "2", None), (True, True, False, False), (-0.1, -0.2, -0.3, -0.4)),) * 20
        return measured(name, n_right, dial=dial, replies=replies)

    found = [measured(stages.BASE, 2), thinking(stages.COLD, 8), thinking(stages.RL, 19)]
    tables = write_report(tmp_path, R1Plan(), found, {"load": "none"})
    text = (tmp_path / REPORT_FILE).read_text(encoding="utf-8")
    assert "0.400 (0.219 to 0.613)" in text and "cold-start -> rl | 11 | 0 |" in text
    assert "| 6 | 0.300 (0.145 to 0.519), 6 |" in text
    results = json.loads((tmp_path / RESULTS_FILE).read_text(encoding="utf-8"))
    rl = results["stages"][stages.RL]
    assert rl["accuracy"]["value"] == 0.95 and rl["accuracy"]["n"] == 20
    assert rl["curves"]["maj@k"][0][:2] == [1, 0.5] and rl["curves"]["pass@k"][-1][:2] == [4, 1.0]
    assert [table.title for table in tables][3:] == [
        "cold-start: k sampled replies of each problem",
        "rl: k sampled replies of each problem",
    ]
    for picture in (DIAL_PLOT, CURVES_PLOT):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_all_stages_go_through_and_are_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n_threads = torch.get_num_threads()
    # A model of one step says nothing right, and a distillation needs some replies: its own cold start's.
    monkeypatch.setattr(stages, "_sampled", lambda work: work.data("cold.jsonl"))
    try:
        assert main(["--out", str(tmp_path)], TINY) == 0
        nodes = lineage(find_stages([tmp_path]))
        assert {node.name for node in nodes.values() if node.state == "whole"} >= {
            stages.COLD,
            stages.RL,
            stages.FRESH,
            stages.STUDENT_SFT,
            stages.STUDENT_LOGITS,
            stages.STUDENT_ON_POLICY,
        }
        student = open_stage(tmp_path / stages.STUDENT_ON_POLICY).record
        assert student.kind == "distilled"
        assert [parent.name for parent in student.parents] == [stages.STUDENT_SFT, stages.FRESH]
        results = json.loads((tmp_path / RESULTS_FILE).read_text(encoding="utf-8"))["stages"]
        assert len(results) == 9 and [at["budget"] for at in results[stages.RL]["dial"]] == [0, 3]
        before = (tmp_path / REPORT_FILE).read_bytes()
        monkeypatch.setattr(stages, "launch", lambda *_: pytest.fail("a finished base is trained again"))
        assert main(["--out", str(tmp_path)], TINY) == 0
        assert (tmp_path / REPORT_FILE).read_bytes()[:200] == before[:200]
        assert main(["--out", str(tmp_path)], TINY.model_copy(update={"rows": 8})) == 1
    finally:
        torch.set_num_threads(n_threads)
