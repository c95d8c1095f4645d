"""Whole runs over the real servers: the references get everything; near misses, doing nothing and echoing nothing.

All tasks over the servers in this process; some over child processes, as `agentkit eval` does.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from agentkit.errors import MCPConnectionError
from agentkit.mcp import MCPToolset
from agentkit.messages import ToolReturnPart
from agentkit.models.base import ModelSettings
from agentkit.testing import ScriptedModel, TestModel, call
from evals.case import run_from_json, run_to_json
from evals.harness.suite import Solver
from evals.tool_use.executed.catalog import AREAS, TASKS
from evals.tool_use.executed.playing import PLAYS, reference_model
from evals.tool_use.executed.running import LIMITS, child_server, solver
from evals.tool_use.executed.scoring import judge, n_failed_calls, score
from evals.tool_use.executed.suite import SUITE
from evals.tool_use.executed.task import Play, Server, Task, case_of
from evals.tool_use.executed.world import expected_world, start_world, world_from_json
from tests.evals.tool_use.executed.conftest import in_process_server

pytestmark = pytest.mark.anyio
UNUSED = ScriptedModel([])
ONE_FOR_EACH_SERVER = list({task.servers: task for task in TASKS}.values())
BY_ID = {task.id: task for task in TASKS}


@pytest.mark.parametrize("play", PLAYS)
@pytest.mark.parametrize("area", AREAS, ids=lambda area: area[0].id.split("-")[0])
async def test_references_pass_and_all_other_scripts_fail_for_their_own_reason(
    area: tuple[Task, ...], play: Play, solve_in_process: Solver
) -> None:
    for task in area:
        case = case_of(task, play)
        run = await solve_in_process(case, UNUSED, ModelSettings())
        failure, explanation = judge(case, run)
        assert (failure is None) == (play == "reference"), (task.id, explanation)
        assert run.status == "completed"
        if play == "reference":
            assert len(run.calls) == task.n_calls
            assert world_from_json(run.observed).schema == expected_world(task).schema
            assert score(case, run_from_json(run_to_json(run))).value == 1.0
        if play == "nothing":
            assert failure == "no call"
        if play == "echo":
            # It failed for what it did not do, not because its call was refused.
            assert failure == ("nothing changed" if task.end.files or task.end.rows else "wrong answer"), task.id
        if play in ("nothing", "echo"):
            assert world_from_json(run.observed) == start_world(task)
        if play == "wrong":
            # A near miss does all that it does without an error, and then something is not as it was asked for.
            assert failure in ("wrong state", "wrong answer"), (task.id, failure)
            assert n_failed_calls(run) == 0, task.id


@pytest.mark.slow
@pytest.mark.parametrize("play", PLAYS)
async def test_child_processes_give_the_same(play: Play) -> None:
    for task in ONE_FOR_EACH_SERVER:
        case = case_of(task, play)
        run = await SUITE.solve(case, UNUSED, ModelSettings())
        failure, explanation = judge(case, run)
        assert (failure is None) == (play == "reference"), (task.id, explanation)


async def test_the_reference_model_of_a_case_solves_it(solve_in_process: Solver) -> None:
    case = case_of(TASKS[0])
    model = reference_model(case)
    assert score(case, await solve_in_process(case, model, ModelSettings())).value == 1.0
    model.assert_complete()


async def test_a_case_finds_nothing_of_the_case_before(solve_in_process: Solver) -> None:
    task = BY_ID["notes-new-idea"]
    for _ in range(2):
        run = await solve_in_process(case_of(task, "reference"), UNUSED, ModelSettings())
        assert score(case_of(task), run).value == 1.0  # write_file refuses to overwrite


async def test_a_model_sees_the_same_on_every_run(solve_in_process: Solver) -> None:
    looking = [
        call("tree"),
        call("file_info", path="inbox"),
        call("file_info", path="data.db"),
        call("list_tables"),
    ]
    seen: list[list[object]] = []
    for _ in range(2):
        model = ScriptedModel([*looking, "Done."])
        run = await solve_in_process(case_of(BY_ID["club-fee-paid"]), model, ModelSettings())
        results = [p.content for m in run.messages for p in m.parts if isinstance(p, ToolReturnPart)]
        seen.append([model.calls[0].parameters.tools, *results])
    assert len(seen[0]) == 1 + len(looking)
    assert seen[0] == seen[1]
    assert "mcp-task-" not in str(seen[0])  # the random name of the folder


@pytest.mark.parametrize("task", [BY_ID["logs-count-errors"], BY_ID["club-one-reminder"]], ids=lambda t: t.id)
async def test_calling_every_tool_blindly_solves_nothing(task: Task, solve_in_process: Solver) -> None:
    case = case_of(task)
    assert score(case, await solve_in_process(case, TestModel(), ModelSettings())).value == 0.0


async def test_a_model_that_only_calls_ends_at_the_limit(solve_in_process: Solver) -> None:
    case = case_of(BY_ID["notes-soup-stock"])
    assert LIMITS.request_limit is not None
    model = ScriptedModel([*[call("list_directory")] * (LIMITS.request_limit - 1), "I give up."])
    run = await solve_in_process(case, model, ModelSettings())
    assert judge(case, run)[0] == "limit"


async def test_a_tool_that_does_not_exist_is_a_wrong_call(solve_in_process: Solver) -> None:
    case = case_of(BY_ID["notes-soup-stock"])
    run = await solve_in_process(case, ScriptedModel([call("cat", path="x"), "900 ml"]), ModelSettings())
    assert judge(case, run)[0] == "wrong call"


async def test_a_destroyed_database_is_a_wrong_state_not_a_crash(solve_in_process: Solver) -> None:
    case = case_of(BY_ID["club-fee-paid"])
    script = [call("write_file", path="data.db", text="gone", overwrite=True), "Done."]
    run = await solve_in_process(case, ScriptedModel(script), ModelSettings())
    failure, explanation = judge(case, run)
    assert failure == "wrong state"
    assert "database cannot be read" in explanation


async def test_settings_reach_the_model_and_bound_its_replies(solve_in_process: Solver) -> None:
    case = case_of(TASKS[0])
    for settings, max_tokens in ((ModelSettings(seed=3), 512), (ModelSettings(seed=3, max_tokens=9), 9)):
        model = reference_model(case)
        await solve_in_process(case, model, settings)
        assert model.calls[0].parameters.settings.seed == 3
        assert model.calls[0].parameters.settings.max_tokens == max_tokens


async def test_a_server_that_does_not_start_fails_the_case_and_ends_the_other() -> None:
    left: list[str] = []

    class Watched(MCPToolset):
        async def __aexit__(self, *details: object) -> None:
            left.append(self.id)
            await super().__aexit__(*details)  # type: ignore[arg-type]

    def connect(server: Server, folder: Path) -> MCPToolset:
        if server == "sqlite":
            return MCPToolset.stdio("python", "-c", "raise SystemExit(3)", id=server, connect_timeout_s=20)
        toolset = in_process_server(server, folder)
        assert isinstance(toolset, MCPToolset)
        toolset.__class__ = Watched
        return toolset

    case = case_of(BY_ID["club-fee-paid"], "reference")
    with pytest.raises(MCPConnectionError, match="sqlite"):
        await solver(connect)(case, UNUSED, ModelSettings())
    assert left == ["filesystem"]


def test_children_serve_the_folder_with_their_changing_tools(tmp_path: Path) -> None:
    assert child_server("filesystem", tmp_path).id == "filesystem"
    assert child_server("sqlite", tmp_path).id == "sqlite"
