"""A response and the start of the one call that it asks for are one write; two, where somebody is asked first."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from agentkit import Agent, RunContext, ToolAnnotations, tool
from agentkit.errors import CheckpointError
from agentkit.guardrails import Allow, CheckedCall, Verdict, tool_call_guardrail
from agentkit.messages import ModelResponse, ToolCallPart
from agentkit.persistence import InMemoryCheckpointer, RunJournal, SQLiteCheckpointer
from agentkit.persistence.checkpointer import StoredStatus
from agentkit.run.actions import RunTools
from agentkit.run.state import CallAnswer, RunState
from agentkit.testing import ScriptedModel, call

pytestmark = pytest.mark.anyio


class Recording(InMemoryCheckpointer):
    """Notes what is written: how many messages, with which call's start; and what the tools do."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    async def create(
        self, state: RunState, *, agent_name: str | None = None, metadata: Mapping[str, str] | None = None
    ) -> RunJournal:
        return _Recorded(self.seen, await super().create(state, agent_name=agent_name, metadata=metadata))


class _Recorded(RunJournal):
    def __init__(self, seen: list[str], inner: RunJournal) -> None:
        self._seen = seen
        self._inner = inner

    async def save(
        self,
        state: RunState,
        status: StoredStatus,
        *,
        starting: ToolCallPart | None = None,
        durable: bool = False,
    ) -> None:
        start = "" if starting is None else f", {starting.tool_name} starts{' durably' if durable else ''}"
        self._seen.append(f"{len(state.messages)} messages{start}")
        await self._inner.save(state, status, starting=starting, durable=durable)

    async def failed(self) -> None:
        self._seen.append("failed")
        await self._inner.failed()

    async def call_started(self, call: ToolCallPart, *, durable: bool) -> None:
        self._seen.append(f"{call.tool_name} starts{' durably' if durable else ''}")
        await self._inner.call_started(call, durable=durable)

    async def call_answered(self, answer: CallAnswer) -> None:
        self._seen.append(f"{answer.tool_name} answered")
        await self._inner.call_answered(answer)


async def written(calls: Sequence[ToolCallPart], tool_: Any, **agent: Any) -> list[str]:
    """What a run of one response with `calls` and an answer writes."""
    keeper = Recording()
    agent = {"tools": [tool_], "checkpointer": keeper, **agent}
    await Agent(ScriptedModel([list(calls), "done"]), **agent).run("go")
    return keeper.seen


async def look(at: int) -> int:
    """Look."""
    return at


async def test_a_response_with_one_call_is_stored_with_its_start() -> None:
    assert await written([call("look", at=1)], look) == [
        "2 messages, look starts",
        "3 messages",
        "4 messages",
        "4 messages",
    ]


async def test_a_call_that_destroys_is_stored_durably_with_its_response() -> None:
    @tool(annotations=ToolAnnotations(destructive=True))
    async def drop(table: str) -> str:
        """Drop a table."""
        return "dropped"

    assert (await written([call("drop", table="t")], drop))[0] == "2 messages, drop starts durably"


async def test_responses_with_several_calls_are_stored_before_any_of_them_starts() -> None:
    seen = await written([call("look", at=1), call("look", at=2)], look)
    assert (seen[0], seen.count("look starts")) == ("2 messages", 2)


async def test_calls_that_are_not_valid_are_stored_with_what_they_gave() -> None:
    assert await written([call("look", at="one")], look) == ["3 messages", "4 messages", "4 messages"]


async def test_a_response_is_stored_before_somebody_is_asked_about_its_call() -> None:
    seen: list[str] = []

    def rule(arguments: dict[str, Any], context: RunContext[None]) -> bool:
        seen.extend(keeper.seen)
        return False

    @tool(requires_approval=rule)
    async def pay(amount: int) -> str:
        """Pay."""
        return "paid"

    keeper = Recording()
    await Agent(ScriptedModel([call("pay", amount=5), "done"]), tools=[pay], checkpointer=keeper).run("go")
    assert seen == ["2 messages"]
    assert keeper.seen[1] == "pay starts"


async def test_a_response_is_stored_before_a_guardrail_is_asked_about_its_call() -> None:
    seen: list[str] = []

    @tool_call_guardrail
    async def slow(checked: CheckedCall, context: RunContext[Any]) -> Verdict:
        seen.extend(keeper.seen)
        return Allow()

    keeper = Recording()
    agent = Agent(
        ScriptedModel([call("look", at=1), "done"]), tools=[look], guardrails=[slow], checkpointer=keeper
    )
    await agent.run("go")
    assert seen == ["2 messages"]


async def test_whoever_takes_the_steps_one_by_one_finds_each_stored() -> None:
    keeper = InMemoryCheckpointer()
    agent = Agent(ScriptedModel([call("look", at=1), "done"]), tools=[look], checkpointer=keeper)
    async with agent.iter("go") as run:
        async for action in run:
            assert (await keeper.load(run.state.run_id)).state == run.state
            if isinstance(action, RunTools):
                break
        stored = await keeper.load(run.state.run_id)
        assert isinstance(stored.state.messages[-1], ModelResponse)
        assert stored.in_flight == ()
        assert (await run.finish()).output == "done"


async def test_a_call_that_destroys_waits_for_the_disk(tmp_path: Path) -> None:
    """The response and the start are committed under FULL, which is off again before the next write."""
    statements: list[str] = []

    @tool(annotations=ToolAnnotations(destructive=True))
    async def drop(table: str) -> str:
        """Drop a table."""
        statements.append("(the tool runs)")
        return "dropped"

    keeper = SQLiteCheckpointer(tmp_path / "runs.db")
    await keeper.list_runs()
    connection = keeper.database._connection  # pyright: ignore[reportPrivateUsage]
    assert connection is not None
    connection.set_trace_callback(
        lambda text: statements.append(text.split("(")[0].split(" SET")[0].removesuffix("messages").strip())
    )
    model = ScriptedModel([call("drop", table="t"), "done"])
    await Agent(model, tools=[drop], checkpointer=keeper).run("go")
    runs = statements.index("(the tool runs)")
    full = statements.index("PRAGMA synchronous=FULL")
    assert statements[full:runs] == [
        "PRAGMA synchronous=FULL",
        "PRAGMA busy_timeout=30000",
        "BEGIN IMMEDIATE",
        "INSERT INTO",
        "UPDATE runs",
        "COMMIT",
        "PRAGMA busy_timeout=0",
        "PRAGMA synchronous=NORMAL",
    ]
    assert "PRAGMA synchronous=FULL" not in statements[runs:]


async def test_a_process_that_lost_the_run_starts_no_call(tmp_path: Path) -> None:
    looks: list[int] = []

    async def count(at: int) -> int:
        """Count."""
        looks.append(at)
        return at

    class Thief(ScriptedModel):
        async def request(self, messages: Any, parameters: Any, *, on_delta: Any = None) -> ModelResponse:
            (run,) = await SQLiteCheckpointer(tmp_path / "runs.db").list_runs()
            with sqlite3.connect(tmp_path / "runs.db") as file:
                file.execute("UPDATE runs SET lease_until = 0")  # its time is over
            await SQLiteCheckpointer(tmp_path / "runs.db").claim(run.run_id)
            return await super().request(messages, parameters, on_delta=on_delta)

    agent = Agent(Thief([call("count", at=1), "done"]), tools=[count], checkpointer=tmp_path / "runs.db")
    with pytest.raises(CheckpointError, match="resumed elsewhere"):
        await agent.run("go")
    assert looks == []
