"""Conformance checks of an `EventCheckpointer` about which runs there are, as an agent that is served asks it."""

from __future__ import annotations

import asyncio
from typing import Any

from agentkit.persistence.checkpointer import EventCheckpointer, RunJournal, UnendedRun
from agentkit.persistence.outbox import Outbox
from agentkit.run.state import RunState


async def begins_one_run_of_a_conversation(keeper: EventCheckpointer) -> None:
    """Check that of several runs that must be alone one is created, until it ends."""
    talk, other = {"user": "7", "talk": "a \u201cb\u201d"}, {"user": "7", "talk": "c"}
    journals: list[RunJournal] = []

    async def refused_by(metadata: dict[str, str]) -> str | None:
        state, more = RunState(), {**metadata, "more": "x"}
        try:
            journals.append(await keeper.create(state, metadata=more, outbox=Outbox(), alone_with=metadata))
        except UnendedRun as error:
            assert not await keeper.has(state.run_id), "a run was refused and is there"
            return error.other.run_id
        return None

    refusals = await asyncio.gather(*(refused_by(talk) for _ in range(4)))
    (first, *others) = [summary.run_id for summary in await keeper.unended_runs()]
    assert not others, "of four runs of one conversation more than one was created"
    assert set(refusals) == {None, first}, f"{first} goes on, and refused were runs because of {refusals!r}"
    assert await refused_by(other) is None, "a run of another conversation was refused"
    await journals[0].failed()
    unconditional = await keeper.create(RunState(), metadata=talk)
    assert await refused_by(talk) is not None, "a run was created beside one that was created without a condition"
    await unconditional.failed()
    assert await refused_by(talk) is None, "a run of a conversation was refused whose runs have ended"


async def finds_runs_that_nobody_performs(keeper: EventCheckpointer) -> None:
    """Check which runs go on, and which of them no process holds."""
    states = [RunState() for _ in range(4)]
    journals = [await keeper.create(state, metadata={"n": str(n)}) for n, state in enumerate(states)]
    assert await keeper.unheld_runs() == [], "runs that are held were returned"
    await journals[0].save(states[0], "completed")
    await journals[2].release()
    await journals[1].release()
    ids = [state.run_id for state in states]

    async def found(**filters: Any) -> list[str]:
        return sorted(summary.run_id for summary in await keeper.unheld_runs(**filters))

    unended = [summary.run_id for summary in await keeper.unended_runs()]
    assert sorted(unended) == sorted(ids[1:]), "those that have not ended are three"
    assert [summary.run_id for summary in await keeper.unended_runs(metadata={"n": "3"}, limit=1)] == ids[3:]
    assert await found() == sorted(ids[1:3])
    assert await found(metadata={"n": "2"}) == [ids[2]] and len(await found(limit=1)) == 1
    claimed = await keeper.claim(ids[1])
    assert await found() == [ids[2]], "a run that was claimed was returned"
    await claimed[1].release()


async def deletes_runs_that_ended_long_ago(keeper: EventCheckpointer) -> None:
    """Check that runs are deleted by the time of their end."""
    states = [RunState() for _ in range(4)]
    journals = [
        await keeper.create(state, metadata={"n": str(n % 2)}, outbox=Outbox()) for n, state in enumerate(states)
    ]
    for journal, state in zip(journals[:3], states[:3], strict=True):
        await journal.save(state, "completed")
    assert await keeper.delete_ended(before=0.0) == 0, "a run was deleted that ended later"
    later = (await keeper.summary(states[3].run_id)).updated_at + 9
    assert await keeper.delete_ended(before=later, metadata={"n": "0"}) == 2
    assert await keeper.delete_ended(before=later) == 1, "of two left one has ended"
    assert await keeper.has(states[3].run_id), "a run that goes on was deleted"
