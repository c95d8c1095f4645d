"""Whole runs over the real servers: the references get all sixty, every other script none, for its own reason."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agentkit.messages import ToolReturnPart
from agentkit.models.base import ModelSettings
from agentkit.run.repeated_calls import is_repeat
from agentkit.testing import ScriptedModel, call
from evals.case import Run, run_from_json, run_to_json
from evals.harness.suite import Solver
from evals.tool_use.executed.world import expected_world, start_world, world_from_json
from evals.tool_use.first_hour.playing import PLAYS, solution
from evals.tool_use.first_hour.request import Request, case_of_request, first_hour_requests
from evals.tool_use.first_hour.running import MODEL, PEAK_MB
from evals.tool_use.first_hour.scoring import CLOCK, FAILURES, judge, score
from evals.tool_use.first_hour.suite import KINDS, SUITE
from evals.tool_use.first_hour.tables import tables
from tests.evals.tool_use.executed.scripted_run import run_of

pytestmark = pytest.mark.anyio
UNUSED = ScriptedModel([])
SOME_CLOCK = ["2026-01-01T00:00:00+00:00"] * 2
BY_ID = {request.id: request for request in first_hour_requests()}


@pytest.mark.parametrize("play", ["reference", "echo", "everything", "wrong"])
@pytest.mark.parametrize("kind", KINDS)
async def test_references_pass_and_all_other_scripts_fail(kind: str, play: str, solve_in_process: Solver) -> None:
    for request in BY_ID.values():
        if request.kind != kind:
            continue
        case = case_of_request(request, play)
        run = await solve_in_process(case, UNUSED, ModelSettings())
        failure, explanation = judge(case, run)
        assert (failure is None) == (play == "reference"), (request.id, explanation)
        assert run.status == "completed"
        assert score(case, run_from_json(run_to_json(run))).value == (play == "reference")
        if play in ("echo", "everything"):
            assert world_from_json(run.observed) == start_world(request.task)
        if play == "echo":  # it failed for what it did not do, not because its call was refused
            assert failure in ("needless call", "nothing changed", "wrong answer")
        if play == "wrong":
            assert failure in ("wrong state", "wrong answer")


@pytest.mark.parametrize("request_", BY_ID.values(), ids=lambda request: request.id)
def test_answering_at_once_with_nothing_to_say_is_never_right(request_: Request) -> None:
    case, start = case_of_request(request_), start_world(request_.task)
    for play in sorted({*PLAYS} - {"reference", "echo", "everything", "wrong"}):
        run = run_of(request_.task, start, solution(request_, play).answer, n_calls=0)
        run = replace(run, observed={**run.observed, CLOCK: SOME_CLOCK})
        assert judge(case, run)[0] is not None, play


async def test_a_script_that_answers_at_once_is_played(solve_in_process: Solver) -> None:
    for play in ("nothing", "unsure", "parrot"):
        case = case_of_request(BY_ID["count-photos"], play)
        run = await solve_in_process(case, UNUSED, ModelSettings())
        assert judge(case, run)[0] == "no call"
        assert run.output == solution(BY_ID["count-photos"], play).answer


@pytest.mark.slow
async def test_child_processes_give_the_same() -> None:
    for id_ in ("two-oven-fahrenheit", "change-new-customer"):
        case = case_of_request(BY_ID[id_], "reference")
        assert score(case, await SUITE.solve(case, UNUSED, ModelSettings())).value == 1.0


async def test_a_right_answer_without_a_call_is_a_guess(solve_in_process: Solver) -> None:
    case = case_of_request(BY_ID["count-photos"])
    run = await solve_in_process(case, ScriptedModel(["You have 4 photos."]), ModelSettings())
    assert judge(case, run)[0] == "no call"


async def test_a_right_answer_after_failed_calls_alone_is_a_guess(solve_in_process: Solver) -> None:
    case = case_of_request(BY_ID["count-photos"])
    script = [call("list_directory", path="pictures"), "You have 4 photos."]
    assert judge(case, await solve_in_process(case, ScriptedModel(script), ModelSettings()))[0] == "failed calls"


async def test_a_right_answer_with_damage_done_is_wrong(solve_in_process: Solver) -> None:
    case = case_of_request(BY_ID["count-photos"])
    script = [call("list_directory", path="photos"), call("delete", path="photos/cat.jpg"), "You have 4 photos."]
    assert judge(case, await solve_in_process(case, ScriptedModel(script), ModelSettings()))[0] == "wrong state"


async def test_small_talk_with_a_tool_is_wrong(solve_in_process: Solver) -> None:
    case = case_of_request(BY_ID["talk-what-can-you-do"])
    script = [call("list_directory"), "I can read files."]
    assert judge(case, await solve_in_process(case, ScriptedModel(script), ModelSettings()))[0] == "needless call"


async def test_the_same_failing_call_again_and_again_is_stopped(solve_in_process: Solver) -> None:
    case = case_of_request(BY_ID["no-such-file"])
    script = [*[call("read_text_file", path="contract.pdf")] * 3, "There is no file contract.pdf."]
    run = await solve_in_process(case, ScriptedModel(script), ModelSettings())
    assert run.status == "completed"
    results = [part for message in run.messages for part in message.parts if isinstance(part, ToolReturnPart)]
    assert [is_repeat(part) for part in results] == [False, False, True]
    assert judge(case, run)[0] is None


@pytest.mark.parametrize(
    ("changes", "failure"),
    [
        ({"status": "failed", "error": "ModelError: gone"}, "error"),
        ({"status": "timed_out", "error": "60 s"}, "error"),
        ({"status": "abstained", "output": None}, "no words"),
        ({"output": " "}, "no words"),
        ({"output": "There are 9."}, "wrong answer"),
        ({}, None),
    ],
)
async def test_why_a_run_failed(changes: dict[str, object], failure: str | None, solve_in_process: Solver) -> None:
    case = case_of_request(BY_ID["count-photos"], "reference")
    run = replace(await solve_in_process(case, UNUSED, ModelSettings()), **changes)
    assert judge(case, run)[0] == failure


async def test_what_a_run_costs_is_observed_and_summed_up(solve_in_process: Solver) -> None:
    scored = []
    for index, request in enumerate(list(BY_ID.values())[8:18]):
        case = case_of_request(request, "reference")
        run = replace(await solve_in_process(case, UNUSED, ModelSettings()), wall_s=float(index + 1))
        assert run.observed[MODEL].startswith("reference: ")
        assert run.observed[PEAK_MB] > 10
        assert len(run.observed[CLOCK]) == 2
        scored.append((case, run, score(case, run)))
    failures, costs = tables(scored)
    assert [row[0] for row in failures.rows] == [*FAILURES, "none"]
    assert {row[0]: row[1] for row in failures.rows}["none"] == "10"
    figures = {row[0]: row[1] for row in costs.rows}
    assert figures["seconds a request, median"] == "5.50"
    assert figures["seconds a request, 90th percentile"] == "9.10"
    assert float(figures["peak memory of this process, MB"]) > 10
    assert "parallel tool calls" in figures["model"]


def test_runs_that_failed_before_they_were_observed_are_summed_up() -> None:
    case = case_of_request(BY_ID["count-photos"])
    run = Run(case.id, "failed", error="MCPConnectionError", wall_s=2.0)
    _, costs = tables([(case, run, score(case, run))])
    assert {row[0]: row[1] for row in costs.rows} == {
        "seconds a request, median": "2.00",
        "seconds a request, 90th percentile": "2.00",
        "peak memory of this process, MB": "unknown",
    }


def test_any_of_the_right_ends_will_do() -> None:
    request = BY_ID["change-append-todo"]
    case = case_of_request(request)
    for task in request.tasks:
        run = run_of(request.task, expected_world(task), "I added it.")
        run = replace(run, observed={**run.observed, CLOCK: SOME_CLOCK})
        assert judge(case, run)[0] is None
