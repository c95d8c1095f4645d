"""Readers of the events of a run: whole and in order, whoever stores them, and to the end."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest

from agentkit import Agent
from agentkit.events import RewardEvent, RunFinishedEvent, TextDeltaEvent, ToolResultEvent
from agentkit.persistence import InMemoryCheckpointer, InMemorySession
from agentkit.persistence.outbox import Outbox
from agentkit.persistence.stored_events import StoredEvent, event_to_json
from agentkit.run.state import RunState
from agentkit.serving.errors import RequestRefused
from agentkit.serving.followers import RECENT, Followers, end_in, until_end
from agentkit.serving.service import FIRST_PAGE, PAGE, AgentService
from agentkit.serving.worker import OWNER, SERVED
from agentkit.testing import ScriptedModel
from agentkit.usage import RunUsage

pytestmark = pytest.mark.anyio

END = RunFinishedEvent("run", "completed", "done", RunUsage(), None, 0.5)


async def test_a_reader_gets_each_event_once_and_in_order_whoever_stored_it() -> None:
    keeper, state = InMemoryCheckpointer(), RunState()
    followers = Followers(keeper)
    followers.performs(state.run_id)
    outbox = Outbox(lambda events: followers.stored(state.run_id, events))
    journal = await keeper.create(state, outbox=outbox)
    found: list[Sequence[StoredEvent]] = []

    async def read() -> None:
        found.extend([events async for events in until_end(followers.follow(state.run_id, 0))])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        for n in range(20):
            if n % 3 == 0:  # another process: memory has a gap now
                await keeper.append_event(state.run_id, RewardEvent(n, "other"))
            outbox(TextDeltaEvent(str(n)))
            await journal.save(state, "running")
            if n % 4 == 0:
                await anyio.lowlevel.checkpoint()
        outbox(END)
        await journal.save(state, "completed")
    stored = await keeper.events(state.run_id)
    assert [each for events in found for each in events] == list(stored)
    assert len(found) > 1, "the reader was told of events while there were more to come"


async def test_a_reader_behind_what_memory_keeps_reads_from_the_journal() -> None:
    keeper, state = InMemoryCheckpointer(), RunState()
    followers = Followers(keeper)
    followers.performs(state.run_id)
    outbox = Outbox(lambda events: followers.stored(state.run_id, events))
    journal = await keeper.create(state, outbox=outbox)
    for n in range(RECENT + 50):
        outbox(RewardEvent(n, "test"))
    outbox(END)
    await journal.save(state, "completed")
    for after in (0, 49, 50, 51, 52, RECENT + 50):
        found = [
            each.number async for events in until_end(followers.follow(state.run_id, after)) for each in events
        ]
        assert found == list(range(after + 1, RECENT + 52)), f"behind {after}"


def test_a_result_that_looks_like_an_end_is_none() -> None:
    quoting = ToolResultEvent("read", "c", '{"event_kind":"run_finished"}', "success", 0.5, {"run_finished": 1})
    assert end_in([StoredEvent(1, 0.0, event_to_json(quoting))]) is None
    assert end_in([StoredEvent(1, 0.0, event_to_json(quoting)), StoredEvent(2, 0.0, event_to_json(END))]) == END


@pytest.mark.parametrize("n_events", [1, FIRST_PAGE, FIRST_PAGE + 1, FIRST_PAGE + PAGE, FIRST_PAGE + PAGE + 1])
async def test_the_pages_of_an_ended_run_have_all_of_its_events(n_events: int) -> None:
    keeper, state = InMemoryCheckpointer(), RunState()
    service = AgentService(Agent(ScriptedModel([])), checkpointer=keeper, session_of=InMemorySession)
    outbox = Outbox()
    journal = await keeper.create(state, metadata={SERVED: "agent", OWNER: "me"}, outbox=outbox)
    for n in range(n_events):
        outbox(RewardEvent(n, "test"))
    await journal.save(state, "completed")
    run = await service.summary(state.run_id, "me")
    for after in (0, n_events - 1, n_events):
        numbers = [each.number async for events in service.pages(run, after) for each in events]
        assert numbers == list(range(after + 1, n_events + 1))
        assert await service.n_events_behind(state.run_id, after, "me") == n_events - after
    with pytest.raises(RequestRefused, match="none with number"):
        await service.n_events_behind(state.run_id, n_events + 1, "me")
    with pytest.raises(RequestRefused, match="no run"):
        await service.summary(state.run_id, "another client")
