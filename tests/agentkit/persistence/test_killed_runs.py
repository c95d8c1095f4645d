"""A run of six calls, killed with SIGKILL at every moment; resumed, each call took effect exactly once."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from agentkit.messages import ModelMessage, ModelRequest, ModelResponse, ToolReturnPart
from agentkit.persistence import SQLiteCheckpointer
from tests.agentkit.persistence.killed_runs import N_STEPS, Case, Moment, Tools, agent_of, as_line

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs fork and SIGKILL"),
    pytest.mark.xdist_group("killed runs"),
]

N_SAVES = 2 * N_STEPS + 2
"""Of a run after its journal is begun: each response and each result, the answer, the end."""
CASES: list[tuple[Tools, Moment, int]] = [
    (tools, moment, at)
    for tools in get_args(Tools)
    for moment in get_args(Moment)
    # A function's call is noted with its response; that no write is torn need be seen once.
    if not (moment.endswith("call") if tools == "function" else moment == "in_save")
    for at in range(N_SAVES if moment.endswith("save") else N_STEPS)
]


@pytest.fixture(scope="module")
def killer() -> Iterator[subprocess.Popen[str]]:
    """The process whose forks are killed."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.agentkit.persistence.killed_runs"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def ended(killer: subprocess.Popen[str], case: Case) -> int:
    assert killer.stdin is not None and killer.stdout is not None
    killer.stdin.write(as_line(case))
    killer.stdin.flush()
    return int(killer.stdout.readline())


def orphans(messages: tuple[ModelMessage, ...]) -> list[str]:
    """Ids of calls that the next message does not answer exactly once, and of answers to no call."""
    wrong: list[str] = []
    for before, after in zip((None, *messages), (*messages, None), strict=True):
        asked = [c.tool_call_id for c in before.tool_calls] if isinstance(before, ModelResponse) else []
        parts = after.parts if isinstance(after, ModelRequest) else ()
        answered = [part.tool_call_id for part in parts if isinstance(part, ToolReturnPart)]
        wrong += [] if asked == answered else [*asked, *answered]
    return wrong


async def test_a_run_that_nobody_kills_ends(killer: subprocess.Popen[str], tmp_path: Path) -> None:
    """And the cases below cover all that it does: one save more, or one call more, kills nothing."""
    beyond: tuple[tuple[Tools, Moment, int], ...] = (
        ("server", "before_save", N_SAVES),
        ("server", "before_call", N_STEPS),
        ("function", "in_save", N_SAVES),
        ("function", "before_call", 0),
    )
    for tools, moment, at in beyond:
        folder = tmp_path / f"{tools} {moment}"
        folder.mkdir()
        assert ended(killer, Case(str(folder), moment, at, tools)) == 0


@pytest.mark.parametrize(("tools", "moment", "at"), CASES)
async def test_each_call_takes_effect_once_wherever_the_run_is_killed(
    killer: subprocess.Popen[str], tmp_path: Path, tools: Tools, moment: Moment, at: int
) -> None:
    case = Case(str(tmp_path), moment, at, tools)
    assert ended(killer, case) == -signal.SIGKILL

    (summary,) = await SQLiteCheckpointer(case.journal).list_runs()
    agent = agent_of(case, armed=False)
    result = await agent.resume(summary.run_id)
    if result.status == "needs_approval":
        (waiting,) = result.pending
        assert (waiting.kind, waiting.tool_name) == ("unknown", "record")
        recorded = case.world.exists() and waiting.arguments in _recorded(case)
        decision = waiting.settle("recorded") if recorded else waiting.approve()
        result = await agent.resume(summary.run_id, [decision])
    assert (result.status, result.output) == ("completed", "done")
    assert case.world.read_text().splitlines() == [f"step {n}" for n in range(N_STEPS)]
    assert orphans(result.messages) == []


def _recorded(case: Case) -> list[str]:
    return [f'{{"key":"{line}"}}' for line in case.world.read_text().splitlines()]
