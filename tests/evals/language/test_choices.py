"""Multiple choice, schemas and continuations: requests, accuracies, and what lies above guessing."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agentkit.errors import UserError
from agentkit.testing import TestModel
from evals.case import Case, Run, Score
from evals.harness.evaluation import evaluate
from evals.harness.specification import Specification
from evals.language import choices
from evals.language.choice_scores import best, centred, choice_tables, exact_match, score_choice
from evals.language.core_tasks import TASKS

CORE = Path(__file__).resolve().parents[4] / "shared/data/evals/capability/core"
PIQA = [
    {"query": f"How to do {i}? ", "choices": [f"So {i}.", f"Not so, but so: {i}."], "gold": i % 2}
    for i in range(4)
]
WINOGRANDE = [
    {"context_options": ["Ann saw that Ann", "Ann saw that Eve"], "continuation": "was late.", "gold": 1}
]
LAMBADA = [{"context": "The quick brown fox jumps over the lazy", "continuation": "dog"}]


def folder(path: Path, **tasks: Sequence[dict[str, Any]]) -> Path:
    for name, records in tasks.items():
        text = "".join(json.dumps(record) + "\n" for record in records)
        (path / TASKS[name].file).write_text(text, encoding="utf-8")
    return path


def choice(gold: int, lengths: list[int], chance: float | None = None, group: str = "t") -> Case:
    data = {"kind": "choice", "lengths": lengths, "chance": chance if chance is not None else 1 / len(lengths)}
    return Case(f"{group}/0", "", group, gold, data)


def observed(logprobs: list[float], n_tokens: list[int], greedy: list[bool] | None = None) -> Run:
    seen = {"logprobs": logprobs, "n_tokens": n_tokens, "is_greedy": greedy or [False] * len(logprobs)}
    return Run("t/0", "completed", observed=seen)


# -- scores -----------------------------------------------------------------------------------------------


def test_three_ways_of_counting_pick_three_choices() -> None:
    case, run = choice(1, [4, 40, 8]), observed([-4.0, -20.0, -6.0], [2, 5, 3])
    # By sum the first; by character the second (-0.5 against -1 and -0.75); by token the first and the third tie.
    score = score_choice(case, run)
    assert (score.value, score.answer) == (0.0, "0")
    assert score.numbers["acc_norm"] == 1.0
    assert score.numbers["acc_token"] == 0.0
    assert score.numbers["p_right"] == pytest.approx(math.exp(-16) / (1 + math.exp(-16) + math.exp(-2)))
    assert score_choice(choice(0, [4, 40, 8]), run).value == 1.0


def test_of_equal_choices_the_first_counts() -> None:
    assert best([-1.0, -1.0]) == 0


def test_a_continuation_is_right_where_it_would_be_written() -> None:
    case = Case("l/0", "", "l", "dog", {"kind": "continuation", "chance": 0.0})
    assert score_choice(case, observed([-3.0], [2], [True])).value == 1.0
    wrong = score_choice(case, observed([-3.0], [2], [False]))
    assert (wrong.value, wrong.numbers) == (0.0, {"logprob": -3.0})


def test_generated_text_is_compared_as_it_is() -> None:
    case = Case("g/0", "", "g", ["Yes.", "yes"], {"kind": "generate", "chance": 0.0, "exact_match": {}})
    assert score_choice(case, Run("g/0", "completed", output="yes")).value == 1.0
    assert score_choice(case, Run("g/0", "completed", output=" yes")).value == 0.0
    assert exact_match("YES!", "yes", ignore_case=True, ignore_punctuation=True)
    assert not exact_match("YES!", "yes", ignore_case=True)


def test_a_failed_run_is_wrong() -> None:
    assert score_choice(choice(0, [1, 1]), Run("t/0", "failed", error="down")).value == 0.0


def test_centred_accuracy_is_0_at_chance_and_1_at_perfection() -> None:
    assert centred(0.25, 0.25) == 0.0
    assert centred(1.0, 0.25) == 1.0
    assert centred(0.0, 0.5) == -1.0


def test_the_table_has_a_row_a_task_and_the_mean_of_the_centred() -> None:
    right, wrong = observed([-1.0, -2.0], [1, 1]), observed([-2.0, -1.0], [1, 1])
    a, b = choice(0, [3, 3], group="a"), choice(0, [3, 3], group="b")
    continuation = Case("l/0", "", "l", "dog", {"kind": "continuation", "chance": 0.0})
    pairs = [(a, right), (a, right), (b, right), (b, wrong), (continuation, observed([-math.log(5)], [1], [True]))]
    scored = [(case, run, score_choice(case, run)) for case, run in pairs]
    (table,) = choice_tables(scored)
    assert [(row[0], row[1], row[2][:5], row[3], row[5], row[6], row[7]) for row in table.rows] == [
        ("a", "2", "1.000", "1.000", "0.500", "1.000", ""),
        ("b", "2", "0.500", "0.500", "0.500", "0.000", ""),
        ("l", "1", "1.000", "", "0.000", "1.000", "5"),
        ("mean of tasks", "", "", "", "", "0.667", ""),
    ]


def test_a_failed_case_stays_in_the_task_s_mean() -> None:
    case = choice(0, [3, 3])
    scored = [(case, observed([-1.0, -2.0], [1, 1]), Score(1.0, numbers={"acc_norm": 1.0, "acc_token": 1.0}))]
    scored.append((case, Run("t/1", "failed"), Score(0.0)))
    (table,) = choice_tables(scored)
    assert (table.rows[0][2][:5], table.rows[0][3], table.rows[0][6]) == ("0.500", "0.500", "0.000")


# -- requests ---------------------------------------------------------------------------------------------


def test_choices_compete_after_one_context_and_contexts_before_one_ending(tmp_path: Path) -> None:
    cases = choices.load({"data": str(folder(tmp_path, piqa=PIQA, winogrande=WINOGRANDE, lambada=LAMBADA))})
    by_id = {case.id: case for case in cases}
    assert [case.group for case in cases] == ["lambada"] + ["piqa"] * 4 + ["winogrande"]
    piqa = by_id["piqa/1"]
    assert piqa.data["requests"] == [
        ["How to do 1?\nAnswer: ", "So 1."],
        ["How to do 1?\nAnswer: ", "Not so, but so: 1."],
    ]
    assert (piqa.target, piqa.data["chance"], piqa.data["lengths"]) == (1, 0.5, [5, 18])
    assert by_id["winogrande/0"].data["requests"] == [
        ["Ann saw that Ann ", "was late."],
        ["Ann saw that Eve ", "was late."],
    ]
    lambada = by_id["lambada/0"]
    assert (lambada.target, lambada.data["kind"], lambada.data["chance"]) == ("dog", "continuation", 0.0)


def test_examples_come_from_the_other_records_and_are_the_same_every_time(tmp_path: Path) -> None:
    options = {"data": str(folder(tmp_path, piqa=PIQA)), "few_shot": "3"}
    cases = choices.load(options)
    assert choices.load(options) == cases
    for i, case in enumerate(cases):
        context = case.data["requests"][0][0]
        assert context.count("How to do") == 4
        assert context.count(f"How to do {i}?") == 1
        assert context.endswith(f"How to do {i}?\nAnswer: ")
        others = [j for j in range(4) if j != i]
        assert all(f"{j}?\nAnswer: {PIQA[j]['choices'][j % 2]}\n\n" in context for j in others)


def test_core_takes_its_own_numbers_of_examples(tmp_path: Path) -> None:
    records = [PIQA[0] | {"query": f"How to do {i}?"} for i in range(12)]
    path = folder(tmp_path, piqa=records, winogrande=WINOGRANDE)
    cases = choices.load({"data": str(path), "few_shot": "core"})
    assert cases[0].data["requests"][0][0].count("How to do") == 11
    assert cases[-1].data["requests"][0][0] == "Ann saw that Ann "


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (
            [{"query": "a", "choices": ["b"], "gold": 0}],
            "record 1: 'choices' must be a list of at least two texts",
        ),
        ([{"query": "a", "choices": ["b", "c"], "gold": 2}], "gold is 2, but there are 2 choices"),
        ([{"query": "a", "choices": ["b", " "], "gold": 0}], "'choices' must be a list"),
        ([{"choices": ["b", "c"], "gold": 0}], "'query' must be str"),
        ([{"query": "a", "choices": ["b", "c"], "gold": True}], "'gold' must be int"),
    ],
)
def test_a_malformed_record_is_named(records: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        choices.load({"data": str(folder(tmp_path, piqa=records))})


def test_what_is_asked_wrongly_is_named(tmp_path: Path) -> None:
    path = str(folder(tmp_path, piqa=PIQA))
    for options, message in (
        ({}, "--option data=PATH.*llm-foundry"),
        ({"data": path, "tasks": "pika"}, "no task 'pika'; nearest: 'piqa'"),
        ({"data": path, "tasks": "boolq"}, r"task 'boolq' needs .*boolq.jsonl"),
        ({"data": path, "few_shot": "4"}, "has 4 records: too few for 4 examples"),
        ({"data": path, "task_files": "a.yaml"}, "task_files excludes other options; remove data"),
        ({"data": str(tmp_path / "none")}, "does not exist"),
    ):
        with pytest.raises(UserError, match=message):
            choices.load(options)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="none of its files is in"):
        choices.load({"data": str(tmp_path / "empty")})


def test_the_real_tasks_are_read() -> None:
    if not CORE.exists():
        pytest.skip(f"needs {CORE}")
    cases = choices.load({"data": str(CORE)})
    counts = {name: sum(case.group == name for case in cases) for name in {case.group for case in cases}}
    assert counts == {
        "arc_easy": 2376, "arc_challenge": 1172, "boolq": 3270, "commonsense_qa": 1221, "copa": 100,
        "jeopardy": 2117, "lambada": 5153, "openbook_qa": 500, "piqa": 1838, "winogrande": 1267,
    }  # fmt: skip


# -- a model ----------------------------------------------------------------------------------------------


def test_a_local_model_is_scored_by_its_log_probabilities(tmp_path: Path, tiny_gguf: Path) -> None:
    from modelstack.inference.llama.engine import LlamaCppEngine
    from modelstack.inference.scoring import continuation_logprobs

    options = {"data": str(folder(tmp_path, piqa=PIQA, winogrande=WINOGRANDE, lambada=LAMBADA))}
    done = evaluate(Specification("choices", f"local:{tiny_gguf}", options), tmp_path / "run")
    assert [s.run.status for s in done.scored] == ["completed"] * 6
    piqa = next(s for s in done.scored if s.case.id == "piqa/1")
    with LlamaCppEngine(tiny_gguf, n_threads=1, n_threads_prefill=1) as engine:
        direct = continuation_logprobs(engine, "How to do 1?\nAnswer: ", ["So 1.", "Not so, but so: 1."])
    assert piqa.run.observed["logprobs"] == pytest.approx([score.logprob for score in direct], abs=0.02)
    assert piqa.run.observed["n_tokens"] == [score.n_tokens for score in direct]
    assert piqa.score.value == float(best([score.logprob for score in direct]) == 1)
    assert done.tables[0].rows[-1][0] == "mean of tasks"


def test_a_model_without_log_likelihoods_is_refused(tmp_path: Path) -> None:
    options = {"data": str(folder(tmp_path, lambada=LAMBADA))}
    (scored,) = evaluate(Specification("choices", "test", options), tmp_path / "run", model=TestModel()).scored
    assert "needs a model in this process" in (scored.run.error or "")
