"""Skills in every arrangement of agents: approvals of scripts, taint, and resume after a kill."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agentkit import Agent, Skills, Tool
from agentkit.skills import SkillPins, SkillScripts, read_skill
from agentkit.testing import call
from tests.agentkit.arrangements import ARRANGEMENTS, Arrangement, Killed, World, approvals, context
from tests.agentkit.skills.skill_folders import load, run, why_no_sandbox, write_skill

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(bool(why_no_sandbox()), reason=why_no_sandbox() or "scripts run here"),
]
COUNT = "with open('runs.txt', 'a') as file:\n    file.write('x')\n"
PAY = call("pay", amount=5)


@pytest.fixture(params=ARRANGEMENTS, ids=lambda each: each.name)
def arrangement(request: pytest.FixtureRequest) -> Iterator[Arrangement]:
    if request.param.needs_code:
        pytest.importorskip("pydantic_monty")
    yield request.param


class Case:
    """A skill whose script counts its runs in a workspace, and agents that are built anew in each process."""

    def __init__(self, arrangement: Arrangement, folder: Path, *, accepted: bool) -> None:
        self.world = World()
        self._arrangement, self._folder = arrangement, folder
        self.skill = write_skill(folder / "skills", files={"scripts/count.py": COUNT})
        (folder / "work").mkdir()
        if accepted:
            SkillPins(folder / "pins").write(read_skill(self.skill))

    @property
    def n_runs(self) -> int:
        file = self._folder / "work/runs.txt"
        return len(file.read_text()) if file.exists() else 0

    async def agent(self, *calls: object, scripts: SkillScripts | None = None) -> Agent[None, str]:
        pins = SkillPins(self._folder / "pins")
        scripts = scripts or SkillScripts(workspace=self._folder / "work")
        skills = Skills(self.skill.parent, pins=pins, scripts=scripts)
        async with skills:
            tools: list[Tool] = [*await skills.list_tools(context()), self.world.pay(consequential=True)]
        used = {each.tool_name for each in calls}  # pyright: ignore[reportAttributeAccessIssue]
        # A plan's model is told its step's tool alone, and others would be named in code.
        return self._arrangement.build(
            [each for each in tools if each.name in used], calls, self._folder / "runs.db"
        )


async def test_a_script_runs_once_and_only_after_its_approval(arrangement: Arrangement, tmp_path: Path) -> None:
    case = Case(arrangement, tmp_path, accepted=True)
    calls = [load(), run("scripts/count.py")]
    asked = await (await case.agent(*calls)).run("go")
    assert (asked.status, case.n_runs) == ("needs_approval", 0)
    assert asked.pending[0].tool_name == "run_skill_script"
    done = await (await case.agent(*calls)).resume(asked.run_id, approvals(asked.pending))
    assert (done.status, case.n_runs) == ("completed", 1)


async def test_a_denied_script_does_not_run(arrangement: Arrangement, tmp_path: Path) -> None:
    case = Case(arrangement, tmp_path, accepted=True)
    asked = await (await case.agent(run("scripts/count.py"))).run("go")
    done = await (await case.agent(run("scripts/count.py"))).resume(asked.run_id, [asked.pending[0].deny("no")])
    assert (done.status, case.n_runs) == ("completed", 0)


async def test_a_skill_that_changes_before_its_approval_arrives_does_not_run(
    arrangement: Arrangement, tmp_path: Path
) -> None:
    case = Case(arrangement, tmp_path, accepted=True)
    asked = await (await case.agent(run("scripts/count.py"))).run("go")
    agent = await case.agent(run("scripts/count.py"))
    (case.skill / "scripts/count.py").write_text(COUNT * 2)
    done = await agent.resume(asked.run_id, approvals(asked.pending))
    assert (done.status, case.n_runs) == ("completed", 0)


async def test_a_skill_that_no_person_has_accepted_taints_the_run(
    arrangement: Arrangement, tmp_path: Path
) -> None:
    case = Case(arrangement, tmp_path, accepted=False)
    asked = await (await case.agent(load(), PAY)).run("go")
    assert (asked.status, case.world.paid, asked.state.tainted) == ("needs_approval", [], True)
    assert asked.pending[0].tool_name == "pay" and "untrusted content" in asked.pending[0].reason
    done = await (await case.agent(load(), PAY)).resume(asked.run_id, approvals(asked.pending))
    assert (done.status, case.world.paid) == ("completed", [5])


async def test_an_accepted_skill_does_not(arrangement: Arrangement, tmp_path: Path) -> None:
    """The reply of an inner agent with such tools counts as untrusted by itself, whatever was loaded."""
    case = Case(arrangement, tmp_path, accepted=True)
    done = await (await case.agent(load(), PAY)).run("go")
    assert (done.status, case.world.paid) == ("completed", [5])
    assert done.state.tainted == ("as a tool" in arrangement.name)


async def test_after_a_kill_the_taint_of_a_loaded_skill_is_kept(arrangement: Arrangement, tmp_path: Path) -> None:
    """The process dies in the first payment, which was approved; the second one is asked about again."""
    case = Case(arrangement, tmp_path, accepted=False)
    case.world.dies_at = 5
    calls = [load(), PAY, call("pay", amount=6)]
    asked = await (await case.agent(*calls)).run("go")
    with pytest.raises(Killed):
        await (await case.agent(*calls)).resume(asked.run_id, approvals(asked.pending))
    case.world.dies_at = None
    resumed = await (await case.agent(*calls)).resume(asked.run_id)
    assert (resumed.status, resumed.state.tainted, case.world.paid) == ("needs_approval", True, [5])
