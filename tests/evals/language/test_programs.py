"""HumanEval and MBPP: what is asked, what is taken from a reply, and pass@k."""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agentkit.errors import UserError
from agentkit.messages import ModelMessage, ModelResponse, TextPart, UserPromptPart
from agentkit.models.base import ModelRequestParameters, ModelSettings
from agentkit.testing import FunctionModel
from evals.case import Case, Run, Score
from evals.harness.evaluation import evaluate
from evals.harness.specification import Specification
from evals.language import humaneval, mbpp
from evals.language.programs import pass_tables, require_sandbox, score_program
from modelstack.errors import UserError as StackError
from modelstack.reasoning.verifiers.code_answers import fenced_code
from modelstack.sandbox import running
from modelstack.sandbox.running import Verdict, judge_program

DATA = Path(__file__).resolve().parents[4] / "shared/data/evals/capability"
ADD = {
    "task_id": "HumanEval/0",
    "prompt": 'def twice(x):\n    return 2 * x\n\ndef add(a, b):\n    """Add."""\n',
    "entry_point": "add",
    "canonical_solution": "    return a + b\n",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(2, 2) == twice(2)\n",
}


@pytest.fixture(scope="module")
def sandbox() -> None:
    try:
        require_sandbox()
    except UserError as error:
        pytest.skip(str(error))


def test_a_machine_without_a_sandbox_is_told_as_the_users_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise StackError("no namespaces")

    monkeypatch.setattr(running, "require_sandbox", refuse)
    with pytest.raises(UserError, match="no namespaces"):
        require_sandbox()


def answering(*replies: str) -> FunctionModel:
    turn = itertools.cycle(replies)
    return FunctionModel(lambda messages, parameters: ModelResponse((TextPart(next(turn)),)))


def write_lines(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def mbpp_task(number: int, **changes: Any) -> dict[str, Any]:
    task = {
        "task_id": number,
        "text": f"Write a function to add {number}.",
        "code": f"def plus(x):\r\n    return x + {number}",
        "test_setup_code": "",
        "test_list": [f"assert plus(1) == {number + 1}", f"assert plus(0) == {number}"],
    }
    return task | changes


# -- pass@k -----------------------------------------------------------------------------------------------


def test_the_table_takes_epochs_as_runs_and_a_failed_run_as_not_passed() -> None:
    a, b = Case("a", ""), Case("b", "")
    right, wrong = Score(1.0), Score(0.0)
    scored = [(a, Run("a", "completed"), right), (a, Run("a", "completed", epoch=2), wrong)]
    scored += [(b, Run("b", "failed"), wrong), (b, Run("b", "completed", epoch=2), wrong)]
    rows = pass_tables(scored)[0].rows
    assert [(row[0], row[1], row[2], row[3][:5]) for row in rows] == [
        ("pass@1", "2", "2", "0.250"),
        ("pass@2", "2", "2", "0.500"),
    ]


# -- replies ----------------------------------------------------------------------------------------------


def test_of_several_blocks_the_one_with_the_function_is_taken() -> None:
    reply = "Use it:\n```python\nprint(f(1))\n```\nHere:\n```py\ndef f(x):\n    return x\n```"
    assert fenced_code(reply, "f") == "def f(x):\n    return x"
    assert fenced_code(reply) == "print(f(1))"
    assert fenced_code("```python\ndef f(x):\n    retu") == "def f(x):\n    retu"
    assert fenced_code("no code") is None


def test_a_reply_is_the_whole_function_or_its_body() -> None:
    prompt = ADD["prompt"]
    whole = "def add(a, b):\n    return a + b"
    assert humaneval.program_of(prompt, "add", f"```python\n{whole}\n```") == [prompt, whole]
    assert humaneval.program_of(prompt, "add", "    return a + b") == [prompt + "    return a + b"]


def test_mbpp_code_stands_between_the_marks_in_a_block_or_alone() -> None:
    for reply in (
        "[BEGIN]\nx = 1\n[DONE]\nmore", "Sure:\n[BEGIN]\n```python\nx = 1\n```\n[DONE]", "```python\nx = 1\n```",
        "x = 1", "x = 1\n[DONE]\n[BEGIN", "[BEGIN]\nx = 1",
    ):  # fmt: skip
        assert mbpp.code_of(reply).strip() == "x = 1"


# -- suites -----------------------------------------------------------------------------------------------


def test_humaneval_scores_what_the_tests_say(tmp_path: Path, sandbox: None) -> None:
    data = write_lines(tmp_path / "h.jsonl", [ADD, ADD | {"task_id": "HumanEval/1"}])
    replies = ["```python\ndef add(a, b):\n    return a + b\n```", "```python\ndef add(a, b):\n    return 3\n```"]
    specification = Specification("humaneval", "function", {"data": str(data)})
    done = evaluate(specification, tmp_path / "run", model=answering(*replies))
    assert [s.score.value for s in done.scored] == [1.0, 0.0]
    assert done.scored[1].score.explanation.startswith("test 1: AssertionError: assert candidate(2, 2)")
    assert done.scored[0].score.answer == f"{ADD['prompt']}\ndef add(a, b):\n    return a + b"
    assert done.tables[0].rows[0][0] == "pass@1"


def test_mbpp_shows_three_examples_and_runs_all_assertions(tmp_path: Path, sandbox: None) -> None:
    data = write_lines(tmp_path / "m.jsonl", [mbpp_task(i) for i in (1, 2, 3, 4, 11, 12, 510, 511)])
    seen: list[Sequence[ModelMessage]] = []

    def model(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
        seen.append(messages)
        return ModelResponse((TextPart("[BEGIN]\ndef plus(x):\n    return x + 11\n[DONE]"),))

    specification = Specification("mbpp", "function", {"data": str(data)})
    done = evaluate(specification, tmp_path / "run", model=FunctionModel(model))
    assert [(s.case.id, s.score.value) for s in done.scored] == [
        ("mbpp/11", 1.0),
        ("mbpp/12", 0.0),
        ("mbpp/510", 0.0),
    ]
    asked = [part.content for m in seen[0] for part in m.parts if isinstance(part, UserPromptPart)]
    assert [f"add {i}." in text for i, text in zip((2, 3, 4, 11), asked, strict=True)] == [True] * 4
    assert isinstance(seen[0][1], ModelResponse)
    assert seen[0][1].text == "[BEGIN]\ndef plus(x):\n    return x + 2\n[DONE]"


def test_mbpp_raw_is_one_text_that_ends_where_the_code_begins(tmp_path: Path, sandbox: None) -> None:
    data = write_lines(tmp_path / "m.jsonl", [mbpp_task(i) for i in (2, 3, 4, 11)])
    (case,) = mbpp.load({"data": str(data), "form": "raw"})
    assert case.prompt.count("[BEGIN]") == 4
    assert case.prompt.count("[DONE]") == 3
    assert case.prompt.endswith("assert plus(1) == 12\nassert plus(0) == 11\n[BEGIN]\n")


def test_assertions_may_use_a_name_that_shadows_a_builtin_or_comes_from_the_setup(sandbox: None) -> None:
    task = {
        "code": "def sum(a, b):\n    return 7",
        "setup": "",
        "tests": ["assert sum(1, 1) == max(7, 0)"],
        "where": "",
    }
    assert mbpp.names_of(task) == ["sum"]
    tree = {
        "code": "class Node:\n    def __init__(self, x): self.x = x\ndef get(n): return n.x",
        "setup": "root = Node(3)",
        "tests": ["assert get(root) == 3"],
        "where": "",
    }
    names = mbpp.names_of(tree)
    assert names == ["get", "root"]
    assert judge_program([tree["code"], tree["setup"]], tree["tests"], names).passed


@pytest.mark.anyio
async def test_raw_text_needs_a_model_in_this_process() -> None:
    case = Case("HumanEval/0", "def add(a, b):\n", data={"form": "raw"})
    with pytest.raises(UserError, match="needs a model in this process"):
        await humaneval.solve(case, answering(""), ModelSettings())


def test_a_local_model_continues_the_prompt_and_is_judged(tmp_path: Path, tiny_gguf: Path, sandbox: None) -> None:
    data = write_lines(tmp_path / "h.jsonl", [ADD])
    options = {"data": str(data), "form": "raw"}
    specification = Specification("humaneval", f"local:{tiny_gguf}", options, max_tokens=8)
    (scored,) = evaluate(specification, tmp_path / "run").scored
    assert scored.run.status == "completed", scored.run.error
    assert scored.score.value == 0.0
    assert scored.case.prompt == ADD["prompt"].rstrip()
    assert scored.run.observed["program"] == scored.case.prompt + scored.run.output


def test_an_abstention_is_no_pass() -> None:
    assert score_program(Case("a", ""), Run("a", "abstained")).value == 0.0


@pytest.mark.parametrize("suite", [humaneval, mbpp])
def test_a_missing_file_or_a_wrong_option_is_named(suite: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--option data=PATH.*repository"):
        suite.load({})
    with pytest.raises(UserError, match=r"does not exist.*repository"):
        suite.load({"data": str(tmp_path / "none.jsonl")})
    with pytest.raises(UserError, match="form='spoken' of .* must be one of chat, raw"):
        suite.load({"form": "spoken"})


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([mbpp_task(2), mbpp_task(3), mbpp_task(11)], "lacks task 4"),
        ([mbpp_task(2), mbpp_task(3), mbpp_task(4)], "no task from 11 to 510"),
        ([mbpp_task(2, test_list=[])], "record 1: 'test_list'"),
        (
            [mbpp_task(i) for i in (2, 3, 4)] + [mbpp_task(11, code="def (")],
            "record 4: its tests or its code are not",
        ),
    ],
)
def test_a_malformed_mbpp_file_is_named(records: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        mbpp.load({"data": str(write_lines(tmp_path / "m.jsonl", records))})


# -- the real data ----------------------------------------------------------------------------------------


def humaneval_records() -> dict[str, dict[str, Any]]:
    path = DATA / "HumanEval.jsonl.gz"
    if not path.exists():
        pytest.skip(f"needs {path}")
    return {r["task_id"]: r for r in map(json.loads, gzip.open(path, "rt", encoding="utf-8"))}


def mbpp_records() -> dict[str, dict[str, Any]]:
    path = DATA / "mbpp.jsonl"
    if not path.exists():
        pytest.skip(f"needs {path}")
    records = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {f"mbpp/{r['task_id']}": r for r in records}


Programs = Sequence[tuple[Case, Sequence[str]]]
"""Cases, each with the sources of a program."""


def judge_together(programs: Programs) -> Verdict:
    """Judge the programs of several cases in one sandbox; each has its own globals and is one test."""
    sources, tests, names = [], [], []
    for number, (case, parts) in enumerate(programs):
        own = {name: f"{name}_of_{number}" for name in case.data["names"]}
        sources.append(
            f"space = {{'__name__': 'program'}}\nfor part in {[*parts]!r}:\n    exec(part, space)\n"
            f"globals().update({{own: space[name] for name, own in {own!r}.items()}})"
        )
        tests.append(
            f"space = {{}}\nexec({case.data.get('helpers', '')!r}, space)\n"
            f"space.update({', '.join(f'{name}={each}' for name, each in own.items())})\n"
            f"for test in {case.data['tests']!r}:\n    exec(test, space)"
        )
        names += own.values()
    return judge_program(sources, tests, names, every_test=True)


def failing(programs: Programs) -> list[str]:
    """Return the cases whose programs fail, 25 to a sandbox: its two processes take longer than a program."""
    found: list[str] = []
    for first in range(0, len(programs), 25):
        some = programs[first : first + 25]
        verdict = judge_together(some)
        assert len(verdict.tests_passed) == len(some), f"from {some[0][0].id}: {verdict.reason}"
        found += [case.id for (case, _), passed in zip(some, verdict.tests_passed, strict=True) if not passed]
    return found


@pytest.mark.slow
def test_every_canonical_solution_of_humaneval_passes_and_an_empty_body_fails(sandbox: None) -> None:
    records = humaneval_records()
    cases = humaneval.load({"data": str(DATA / "HumanEval.jsonl.gz")})
    assert len(cases) == 164

    def with_body(case: Case, body: str) -> tuple[Case, list[str]]:
        return case, humaneval.program_of(case.prompt, case.data["entry_point"], body)

    assert failing([with_body(case, records[case.id]["canonical_solution"]) for case in cases]) == []
    some, empty = cases[::8], "    raise NotImplementedError\n"
    assert failing([with_body(case, empty) for case in some]) == [case.id for case in some]
    for body, passes in ((records[some[0].id]["canonical_solution"], True), (empty, False)):
        case, sources = with_body(some[0], body)
        verdict = judge_program(sources, case.data["tests"], case.data["names"], helpers=case.data["helpers"])
        assert verdict.passed == passes


@pytest.mark.slow
def test_every_reference_of_mbpp_passes_and_a_wrong_one_fails(sandbox: None) -> None:
    records = mbpp_records()
    cases = mbpp.load({"data": str(DATA / "mbpp.jsonl")})
    assert len(cases) == 500
    assert failing([(case, mbpp.sources_of(case, records[case.id]["code"])) for case in cases]) == []
    case, other = cases[:2]
    (name,) = case.data["names"]
    wrong = mbpp.sources_of(case, f"def {name}(*_): return None")
    verdict = judge_together([(case, mbpp.sources_of(case, records[case.id]["code"])), (case, wrong)])
    assert verdict.tests_passed == (True, False)
    assert not judge_program(
        mbpp.sources_of(case, records[other.id]["code"]), case.data["tests"], case.data["names"]
    ).passed
