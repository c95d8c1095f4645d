"""Whole runs over the real server: the references get all fifty, every other script none, for its own reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from agentkit.messages import ModelRequest, ToolReturnPart
from agentkit.models.base import ModelSettings
from agentkit.testing import ScriptedModel, call
from evals.case import Run, run_from_json, run_to_json
from evals.harness.suite import Solver
from evals.tool_use.executed.running import MAX_TOKENS
from evals.tool_use.executed.world import start_world, world_from_json
from evals.tool_use.long_results.playing import PLAYS
from evals.tool_use.long_results.question import Question, case_of_question, questions, text_of
from evals.tool_use.long_results.scoring import FAILURES, judge, score
from evals.tool_use.long_results.suite import DOCUMENT_KINDS, KINDS, SUITE
from evals.tool_use.long_results.tables import tables

pytestmark = pytest.mark.anyio
UNUSED = ScriptedModel([])
BY_ID = {question.id: question for question in questions()}
RATES = BY_ID["contract-heating-advance"]
NOT_THERE = BY_ID["contract-parking"]
RIGHT = "They pay 118.00 euros."


def results_of(run: Run) -> list[str]:
    parts = [part for message in run.messages if isinstance(message, ModelRequest) for part in message.parts]
    return [part.text for part in parts if isinstance(part, ToolReturnPart)]


@pytest.mark.parametrize("play", PLAYS)
@pytest.mark.parametrize("document", DOCUMENT_KINDS)
async def test_references_pass_and_all_other_scripts_fail(
    document: str, play: str, solve_in_process: Solver
) -> None:
    for question in BY_ID.values():
        if question.document != document:
            continue
        case = case_of_question(question, play)
        run = await solve_in_process(case, UNUSED, ModelSettings())
        failure, explanation = judge(case, run)
        assert (failure is None) == (play == "reference"), (question.id, explanation)
        assert run.status == "completed"
        assert score(case, run_from_json(run_to_json(run))).value == (play == "reference")
        assert world_from_json(run.observed) == start_world(question.task)
        if play == "nothing":
            assert failure == "not read"
        if play == "echo":
            assert isinstance(run.output, str) and results_of(run)[0].startswith(run.output)
        if play in ("echo", "wrong"):
            assert failure == ("wrong answer" if question.is_there else "invented")


async def test_the_server_shows_the_whole_document_in_one_result(solve_in_process: Solver) -> None:
    for question in BY_ID.values():
        run = await solve_in_process(case_of_question(question, "reference"), UNUSED, ModelSettings())
        header, _, text = results_of(run)[0].partition("\n")
        assert header == f"{question.file_name}: {len(text_of(question).splitlines())} lines"
        assert text == text_of(question)


@pytest.mark.slow
async def test_a_child_process_gives_the_same() -> None:
    case = case_of_question(RATES, "reference")
    assert score(case, await SUITE.solve(case, UNUSED, ModelSettings())).value == 1.0


async def test_only_reading_tools_are_offered(solve_in_process: Solver) -> None:
    model = ScriptedModel(["Done."])
    await solve_in_process(case_of_question(RATES), model, ModelSettings())
    names = {tool.name for tool in model.calls[0].parameters.callable_tools}
    assert "read_text_file" in names
    assert not names & {"write_file", "edit_file", "create_directory", "move", "delete"}
    assert model.calls[0].parameters.settings.max_tokens == MAX_TOKENS


@pytest.mark.parametrize(
    ("question", "arguments", "answer", "failure"),
    [
        (RATES, {"path": "./contract.txt", "offset": 20, "limit": 10}, RIGHT, None),
        (RATES, {"path": "handover.txt"}, RIGHT, "not read"),
        (RATES, {"path": "lease.txt"}, RIGHT, "not read"),
        (RATES, {"path": "contract.txt"}, "They pay 96.00 euros.", "wrong answer"),
        (RATES, {"path": "contract.txt"}, "The contract does not say.", "overlooked"),
        (NOT_THERE, {"path": "contract.txt"}, "It costs 35.00 euros.", "invented"),
        (NOT_THERE, {"path": "contract.txt"}, "It is not stated; perhaps 35.00 euros.", "wrong answer"),
        (NOT_THERE, {"path": "letter-to-office.txt"}, "It is not stated.", "not read"),
    ],
)
async def test_why_a_run_failed(
    question: Question, arguments: dict[str, object], answer: str, failure: str | None, solve_in_process: Solver
) -> None:
    case, script = case_of_question(question), [call("read_text_file", **arguments), answer]
    assert judge(case, await solve_in_process(case, ScriptedModel(script), ModelSettings()))[0] == failure


async def test_a_search_is_a_look_at_the_document(solve_in_process: Solver) -> None:
    for question, text, answer in ((RATES, "heating", RIGHT), (NOT_THERE, "parking", "Parking is not mentioned.")):
        case, script = case_of_question(question), [call("search_text", text=text), answer]
        assert judge(case, await solve_in_process(case, ScriptedModel(script), ModelSettings()))[0] is None


async def test_a_list_of_files_is_no_look_at_the_document(solve_in_process: Solver) -> None:
    case, script = case_of_question(NOT_THERE), [call("list_directory"), "It is not stated."]
    assert judge(case, await solve_in_process(case, ScriptedModel(script), ModelSettings()))[0] == "not read"


@pytest.mark.parametrize(
    ("changes", "failure"),
    [
        ({"status": "failed", "error": "ModelError: gone"}, "error"),
        ({"status": "timed_out", "error": "300 s"}, "error"),
        ({"status": "abstained", "output": None}, "no words"),
        ({"output": " "}, "no words"),
        ({"status": "limit_reached"}, None),
    ],
)
async def test_how_a_run_ended_is_judged_first(
    changes: dict[str, object], failure: str | None, solve_in_process: Solver
) -> None:
    case = case_of_question(RATES, "reference")
    run = replace(await solve_in_process(case, UNUSED, ModelSettings()), **changes)
    assert judge(case, run)[0] == failure


async def test_the_tables_group_by_kind_of_question_and_by_failure(solve_in_process: Solver) -> None:
    scored = []
    for question in list(BY_ID.values())[:5]:
        case = case_of_question(question, "wrong" if question.kind == "middle" else "reference")
        run = await solve_in_process(case, UNUSED, ModelSettings())
        scored.append((case, run, score(case, run)))
    kinds, failures, costs = tables(scored)
    assert {row[0]: row[1] for row in kinds.rows} == {
        **{kind: f"{int(kind != 'middle')} of 1" for kind in KINDS},
        "all": "4 of 5",
    }
    assert [row[0] for row in failures.rows] == [*FAILURES, "none"]
    assert Counter({row[0]: int(row[1]) for row in failures.rows}) == Counter({"wrong answer": 1, "none": 4})
    assert {row[0] for row in costs.rows} >= {"seconds a request, median", "model"}
