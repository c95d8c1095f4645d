"""An improvement from beginning to end: shipped with evidence, refused without, resumed, rolled back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from agentkit import Agent, ModelMessage, ModelResponse, TextPart, UserError
from agentkit.improve import (
    BudgetLimits,
    GateOptions,
    ImprovementFolder,
    ImproveOptions,
    Outcome,
    Pieces,
    Progress,
    SearchOptions,
    Stage,
    Version,
    Wanted,
    improve,
)
from agentkit.improve.budget import BudgetSpent, Ledger
from agentkit.improve.folder import AS_DECLARED, INDEX
from agentkit.improve.pieces import Demonstration
from agentkit.improve.rollout import Rollout
from agentkit.improve.rollouts import Journal
from agentkit.models.base import ModelRequestParameters
from agentkit.testing import FunctionModel, ScriptedModel
from agentkit.usage import RequestUsage
from tests.agentkit.improve.shop_agent import (
    PRICES,
    WORSE,
    follow_the_prompt,
    lookup,
    remove,
    shop_agent,
    shop_tasks,
    system_text,
)

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[3]
FEW = ImproveOptions(budget=BudgetLimits(rollouts=100))


def counted() -> tuple[Agent[None, str], list[str]]:
    """Return an agent of the shop, and the list of the prompts that it is asked."""
    asked: list[str] = []

    def answer(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
        if len(messages) == 1:
            asked.append(f"{system_text(messages)}|{messages[0].parts[-1]}")
        return follow_the_prompt(messages, parameters)

    return shop_agent(FunctionModel(answer, name="follower")), asked


async def shipped(out: Path) -> Version:
    return await improve(Wanted(shop_agent(), shop_tasks()), out, FEW)


async def test_a_better_prompt_is_found_passes_the_gate_and_is_used(tmp_path: Path) -> None:
    version = await shipped(tmp_path)
    verdict = version.verdict
    assert verdict is not None and verdict.ships
    assert (verdict.current, verdict.candidate, verdict.n) == (0.0, 1.0, 20)
    assert version.pieces.demonstrations and version.spent.rollouts <= 100
    assert ImprovementFolder(tmp_path).index().accepted == 1
    improved = shop_agent().improved(tmp_path)
    assert (await improved.run("What does item 33 cost?")).output == "It costs 1231."
    assert (await shop_agent().run("What does item 33 cost?")).output == "It costs no item 33 in main."


async def test_demonstrations_come_from_training_tasks_alone(tmp_path: Path) -> None:
    leaked = [
        Demonstration.model_validate({"prompt": each.prompt, "calls": [{"name": "lookup"}], "source": "trace"})
        for each in shop_tasks()
    ]
    version = await improve(Wanted(shop_agent(), shop_tasks(), demonstrations=leaked), tmp_path, FEW)
    hashes = version.configuration["tasks"]
    assert {part: each["n"] for part, each in hashes.items()} == {"train": 12, "selection": 8, "held_back": 20}
    from agentkit.improve.tasks import SplitShares, split_tasks

    train = {each.prompt for each in split_tasks(shop_tasks(), SplitShares(), 0).train}
    assert {each.prompt for each in version.pieces.demonstrations} <= train


async def test_a_harmful_candidate_is_refused_and_the_present_version_stays(tmp_path: Path) -> None:
    await shipped(tmp_path)
    before = (tmp_path / INDEX).read_bytes()
    version = await improve(Wanted(shop_agent(), shop_tasks(), candidate=WORSE), tmp_path, FEW)
    assert version.verdict is not None and not version.verdict.ships
    assert version.verdict.attempt == 2 and "does not exceed" in version.verdict.reasons[0]
    index = ImprovementFolder(tmp_path).index()
    assert index.accepted == 1 and [entry.action for entry in index.history] == ["shipped", "refused"]
    assert (tmp_path / INDEX).read_bytes() != before


async def test_a_gain_that_breaks_a_guard_is_refused(tmp_path: Path) -> None:
    options = FEW.model_copy(update={"gate": GateOptions(max_cost_increase=0.0)})
    version = await improve(Wanted(shop_agent(), shop_tasks()), tmp_path, options)
    assert version.verdict is not None and version.verdict.gain == 1.0
    assert "tokens a task" in version.verdict.reasons[-1]
    assert ImprovementFolder(tmp_path).index().accepted == AS_DECLARED


async def test_nothing_is_run_for_a_result_that_is_there(tmp_path: Path) -> None:
    agent, asked = counted()
    first = await improve(Wanted(agent, shop_tasks()), tmp_path, FEW)
    n_asked = len(asked)
    (tmp_path / INDEX).unlink()  # as if the process had been killed before it wrote the result
    again = await improve(Wanted(agent, shop_tasks()), tmp_path, FEW)
    assert len(asked) == n_asked == first.spent.rollouts == again.spent.rollouts
    assert (again.pieces, again.verdict) == (first.pieces, first.verdict)
    assert len(set(asked)) == n_asked, "a rollout ran twice"


async def test_the_same_call_returns_the_version_that_it_wrote(tmp_path: Path) -> None:
    refused = Wanted(shop_agent(), shop_tasks(), candidate=WORSE)
    first = await improve(refused, tmp_path, FEW)
    notes: list[str] = []
    again = await improve(refused, tmp_path, FEW, Progress(note=notes.append))
    assert again == first and "exactly this improvement" in notes[0]
    assert len(ImprovementFolder(tmp_path).index().history) == 1


KILLED = """
import anyio, os, signal, sys
from pathlib import Path
from agentkit.improve import Progress, Wanted, improve
from tests.agentkit.improve.shop_agent import shop_agent, shop_tasks
from tests.agentkit.improve.test_improve_loop import FEW

def told(part, done, total, rollout):
    if done == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

anyio.run(improve, Wanted(shop_agent(), shop_tasks()), Path(sys.argv[1]), FEW, Progress(rollout=told))
"""


@pytest.mark.parametrize("at", [3, 40])
async def test_an_improvement_that_was_killed_goes_on_where_it_was(tmp_path: Path, at: int) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(at)]
    ended = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert ended.returncode == -signal.SIGKILL
    journal = tmp_path / "rollouts.jsonl"
    assert len(journal.read_bytes().splitlines()) == at
    with journal.open("ab") as file:
        file.write(b'{"key": "cut off')
    agent, asked = counted()
    version = await improve(Wanted(agent, shop_tasks()), tmp_path, FEW)
    assert len(asked) == version.spent.rollouts - at
    whole = await improve(Wanted(shop_agent(), shop_tasks()), tmp_path / "whole", FEW)
    assert (version.pieces, version.verdict, version.candidates) == (whole.pieces, whole.verdict, whole.candidates)


async def test_roll_back_and_forth(tmp_path: Path) -> None:
    await shipped(tmp_path)
    folder = ImprovementFolder(tmp_path)
    with pytest.raises(UserError, match="accepted now, or never was"):
        folder.roll_back(7)
    assert folder.roll_back().accepted == AS_DECLARED
    assert (
        await shop_agent().improved(tmp_path).run("What does item 1 cost?")
    ).output == "It costs no item 1 in main."
    with pytest.raises(UserError, match="nothing to roll back"):
        folder.roll_back()
    assert folder.roll_back(1).accepted == 1
    assert folder.roll_back().accepted == AS_DECLARED


async def test_a_changed_file_is_not_loaded(tmp_path: Path) -> None:
    await shipped(tmp_path)
    file = tmp_path / "versions" / "0001.json"
    file.write_text(file.read_text(encoding="utf-8").replace("produce_v2", "produce_v3"), encoding="utf-8")
    with pytest.raises(UserError, match="was changed since it was written"):
        shop_agent().improved(tmp_path)
    with pytest.raises(UserError, match="has no improvement.json"):
        shop_agent().improved(tmp_path / "versions")
    (tmp_path / INDEX).write_text('{"format": 2}', encoding="utf-8")
    with pytest.raises(UserError, match="damaged: format"):
        shop_agent().improved(tmp_path)


PROPOSAL = {
    "rules": ['Look in table="produce_v2".', "Zero\u200bwidth."],
    "tool_descriptions": [{"tool": "lookup", "text": "Look up a price."}, {"tool": "unknown", "text": "x"}],
    "instructions": "",
}


def reflecting(n: int) -> ScriptedModel:
    return ScriptedModel([json.dumps(PROPOSAL)] * n, name="reflecting")


async def test_a_text_that_a_model_wrote_waits_for_a_review(tmp_path: Path) -> None:
    search = SearchOptions(rounds=1, operators=("drop",))
    options = FEW.model_copy(update={"search": search})
    tasks = [task.model_copy(update={"solution": ()}) for task in shop_tasks()]
    model = reflecting(1)
    wanted = Wanted(shop_agent(), tasks, reflection_model=model)
    version = await improve(wanted, tmp_path, options)
    assert [rule.text for rule in version.pieces.rules] == ['Look in table="produce_v2".', "Zerowidth."]
    assert [each.name for each in version.pieces.tool_descriptions] == ["lookup"]
    assert version.verdict is not None and version.verdict.ships
    folder = ImprovementFolder(tmp_path)
    assert folder.index().accepted == AS_DECLARED and folder.index().history[-1].action == "waiting"
    assert folder.accept().accepted == 1
    assert (await shop_agent().improved(tmp_path).run("What does item 2 cost?")).output == "It costs 1014."
    with pytest.raises(UserError, match="no version waits"):
        folder.accept()


async def test_a_version_made_from_traced_prompts_waits_for_a_review(tmp_path: Path) -> None:
    version = await improve(Wanted(shop_agent(), shop_tasks(), are_tasks_traced=True), tmp_path, FEW)
    assert version.verdict is not None and version.verdict.ships and not version.pieces.needs_review
    folder = ImprovementFolder(tmp_path)
    assert folder.index().history[-1].action == "waiting" and folder.index().accepted == AS_DECLARED
    assert folder.accept().accepted == 1


async def test_the_reflection_model_reads_no_result_of_a_tool_and_is_asked_once(tmp_path: Path) -> None:
    options = FEW.model_copy(update={"search": SearchOptions(rounds=1, operators=("drop",))})
    tasks = [task.model_copy(update={"solution": ()}) for task in shop_tasks()]
    model = reflecting(1)
    first = await improve(Wanted(shop_agent(), tasks, reflection_model=model), tmp_path, options)
    prompt = model.calls[0].messages[0].parts[-1]
    assert "<tasks>" in repr(prompt) and "lookup" in repr(prompt)
    (tmp_path / INDEX).unlink()
    again = await improve(Wanted(shop_agent(), tasks, reflection_model=reflecting(0)), tmp_path, options)
    assert again.pieces == first.pieces and len(model.calls) == 1


async def test_a_budget_of_tokens_and_of_rollouts_ends_the_search_and_not_the_gate(tmp_path: Path) -> None:
    small = FEW.model_copy(update={"budget": BudgetLimits(rollouts=100, tokens=8_000)})
    version = await improve(Wanted(shop_agent(), shop_tasks()), tmp_path / "a", small)
    assert version.spent.limit_reached == "8,000 tokens" and version.spent.tokens < 10_000
    assert version.verdict is None or version.verdict.n == 20
    few = FEW.model_copy(update={"budget": BudgetLimits(rollouts=50)})
    version = await improve(Wanted(shop_agent(), shop_tasks()), tmp_path / "b", few)
    assert version.spent.limit_reached == "50 rollouts" and version.verdict is None
    assert version.spent.rollouts <= 50
    with pytest.raises(UserError, match="the gate alone takes 40 rollouts"):
        await improve(
            Wanted(shop_agent(), shop_tasks()), tmp_path / "c", ImproveOptions(budget=BudgetLimits(rollouts=40))
        )


def test_a_budget_of_money_needs_prices_and_leaves_the_gate_its_share() -> None:
    ledger = Ledger(BudgetLimits(rollouts=100, cost=Decimal("1.00")), n_reserved=40)
    for _ in range(10):
        ledger.add(Rollout(task_id="t", status="completed", cost=Decimal("0.019")))
    ledger.require(50)  # 0.19 spent, and the gate will take about 0.76
    ledger.add(Rollout(task_id="t", status="completed", cost=Decimal("0.04")))
    with pytest.raises(BudgetSpent, match=r"\$1\.00"):
        ledger.require(1)
    ledger.release()
    ledger.require(40)
    with pytest.raises(UserError, match="the price of a request is not known"):
        ledger.add(Rollout(task_id="t", status="completed", input_tokens=5))


async def test_an_agent_whose_every_run_fails_is_an_error_and_not_a_score(tmp_path: Path) -> None:
    def broken(messages: Any, parameters: Any) -> ModelResponse:
        from agentkit.errors import ModelConnectionError

        raise ModelConnectionError("no server at http://localhost:1")

    agent = Agent(FunctionModel(broken), name="broken", retries=0)
    with pytest.raises(UserError, match="every run of the agent fails.*no server"):
        await improve(Wanted(agent, shop_tasks()), tmp_path, FEW)


async def test_a_scorer_of_your_own_judges(tmp_path: Path) -> None:
    def likes_short(outcome: Outcome) -> float:
        return 1.0 if len(outcome.answer) < 5 else 0.5

    options = FEW.model_copy(update={"search": SearchOptions(rounds=2)})
    version = await improve(Wanted(shop_agent(), shop_tasks(), scorer=likes_short), tmp_path, options)
    assert version.candidates[0].selection == 0.5
    assert "likes_short" in version.configuration["scorer"]


async def test_rollouts_at_once_give_the_same_result(tmp_path: Path) -> None:
    one = await improve(Wanted(shop_agent(), shop_tasks()), tmp_path / "1", FEW)
    four = await improve(
        Wanted(shop_agent(), shop_tasks()), tmp_path / "4", FEW.model_copy(update={"parallel": 4})
    )
    assert one.pieces == four.pieces and one.candidates == four.candidates


async def test_two_processes_do_not_work_in_one_folder(tmp_path: Path) -> None:
    from modelstack.run_folder import RunFolder

    with RunFolder(tmp_path).held(), pytest.raises(UserError, match="another process works in it"):
        await shipped(tmp_path)


async def test_rollouts_leave_no_trace_of_their_own(tmp_path: Path) -> None:
    heard: list[Any] = []
    agent = Agent(
        FunctionModel(follow_the_prompt, name="follower"),
        name="shop",
        tools=[lookup, remove],
        trace=tmp_path / "traces",
        on_event=heard.append,
        checkpointer=tmp_path / "runs.db",
    )
    options = FEW.model_copy(update={"search": SearchOptions(rounds=1)})
    await improve(Wanted(agent, shop_tasks()), tmp_path / "out", options)
    assert heard == [] and not (tmp_path / "traces").exists() and not (tmp_path / "runs.db").exists()
    await agent.run("What does item 1 cost?")
    assert heard


async def test_another_model_goes_to_the_gate_and_is_loaded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered: list[str] = []

    class Knowing(FunctionModel):
        async def __aenter__(self) -> Any:
            entered.append(self.name)
            return await super().__aenter__()

    def knows(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
        key = messages[0].parts[-1].content.split(" cost")[0].removeprefix("What does ")  # pyright: ignore
        return ModelResponse((TextPart(f"It costs {PRICES[key]}."),), RequestUsage(10, 0, 5))

    model = Knowing(knows, name="knowing")
    monkeypatch.setattr("agentkit.models.resolve.resolve_model", lambda name: model)
    version = await improve(Wanted(shop_agent(), shop_tasks(), candidate=Pieces(model="knowing")), tmp_path, FEW)
    assert version.verdict is not None and version.verdict.ships and version.spent.rollouts == 40
    assert len(entered) <= 1 + 20 and entered[0] == "knowing"
    assert (await shop_agent().improved(tmp_path).run("What does item 3 cost?")).output == "It costs 1021."


async def test_a_world_that_cannot_be_read_is_a_wrong_rollout(tmp_path: Path) -> None:
    from agentkit.specialise.world_state import WorldUnreadable

    looked: list[int] = []

    def observe() -> Any:
        looked.append(1)
        if len(looked) % 2 == 0:
            raise WorldUnreadable("more than 10000 files")
        return {}

    @asynccontextmanager
    async def staging(task: Any) -> AsyncGenerator[Stage]:
        yield Stage(shop_agent(), observe=observe)

    options = FEW.model_copy(update={"search": SearchOptions(rounds=1)})
    version = await improve(Wanted(shop_agent(), shop_tasks(), staging=staging), tmp_path, options)
    assert version.verdict is None and version.candidates[0].selection == 0.0
    assert b"the world cannot be read: more than 10000 files" in (tmp_path / "rollouts.jsonl").read_bytes()


async def test_the_journal_is_private_and_holds_no_known_secret(tmp_path: Path) -> None:
    secret = "sk-ant-api03-" + "Ab1" * 30
    journal = Journal(tmp_path / "journal.jsonl")
    kept = journal.put("a", {"answer": f"key {secret}", "odd": "\ud800"})
    assert (
        secret not in kept["answer"] and journal.get("a") == Journal(tmp_path / "journal.jsonl").get("a") == kept
    )
    assert secret.encode() not in (tmp_path / "journal.jsonl").read_bytes()
    assert (tmp_path / "journal.jsonl").stat().st_mode & 0o777 == 0o600
    (tmp_path / "journal.jsonl").write_text('{"key": "b"}\n', encoding="utf-8")
    with pytest.raises(UserError, match="line 1 is damaged"):
        Journal(tmp_path / "journal.jsonl")
