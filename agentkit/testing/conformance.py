"""Conformance checks for implementations of the protocols `Checkpointer` and `Session`.

    async def test_my_checkpointer_keeps_its_promises() -> None:
        await check_checkpointer(MyCheckpointer)

Each check gets a fresh object and raises `AssertionError` with what was expected.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from agentkit.errors import CheckpointError
from agentkit.events import (
    AgentEvent,
    ModelRequestEvent,
    RewardEvent,
    TextDeltaEvent,
    ToolCallEvent,
    ToolProgressEvent,
    ToolResultEvent,
)
from agentkit.messages import (
    BinaryContent,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from agentkit.persistence.checkpointer import Checkpointer, EventCheckpointer, RunJournal, StoredRun
from agentkit.persistence.outbox import Outbox
from agentkit.persistence.session import Session
from agentkit.persistence.stored_events import StoredEvent
from agentkit.run.resume import with_unknown
from agentkit.run.state import RunState
from agentkit.testing.served_run_checks import (
    begins_one_run_of_a_conversation,
    deletes_runs_that_ended_long_ago,
    finds_runs_that_nobody_performs,
)

T = TypeVar("T")
Make = Callable[[], T | Awaitable[T]]


async def check_checkpointer(make: Make[Checkpointer]) -> None:
    """Check a checkpointer against its protocol; `make` returns an empty one each time.

    That includes leases: a run is claimed by one process at a time, so that no call runs twice. `claim` refuses a
    run whose holder is alive and has not released it; `agentkit.persistence.leases` has the parts for it.

    Raises:
        AssertionError: a requirement is not met.
    """
    for check in _CHECKPOINTER_CHECKS:
        made = make()
        await check(await made if inspect.isawaitable(made) else made)


async def check_stored_events(make: Make[EventCheckpointer]) -> None:
    """Check that a checkpointer stores the events of runs, as agents that are served need it.

    Raises:
        AssertionError: a requirement is not met.
    """
    for check in _EVENT_CHECKS:
        made = make()
        await check(await made if inspect.isawaitable(made) else made)


async def check_session(make: Make[Session]) -> None:
    """Check a session against its protocol; `make` returns a new conversation's main branch each time.

    Raises:
        AssertionError: a requirement is not met.
    """
    for check in _SESSION_CHECKS:
        made = make()
        await check(await made if inspect.isawaitable(made) else made)


def _said(text: str) -> ModelRequest:
    return ModelRequest((UserPromptPart(text),))


def _calling(*ids: str) -> ModelResponse:
    return ModelResponse(tuple(ToolCallPart("add", '{"a":1}', call_id, 0.5) for call_id in ids))


def _gave(call_id: str) -> ToolReturnPart:
    return ToolReturnPart("add", call_id, "3 “ü”", {"sum": 3})


def _state(*messages: ModelMessage) -> RunState:
    return RunState(messages=messages)


async def _gives_back_what_was_saved(keeper: Checkpointer) -> None:
    state = _state()
    journal = await keeper.create(state, agent_name="one", metadata={"user": "7"})
    for n in range(3):
        state = replace(state, messages=(*state.messages, _said(str(n)), _calling(f"c{n}")), step=n)
        await journal.save(state, "running")
        stored = await keeper.load(state.run_id)
        assert stored.state == state, f"load gave {stored.state!r} for {state!r}"
    stored = await keeper.load(state.run_id)
    assert (stored.summary.agent_name, dict(stored.summary.metadata)) == ("one", {"user": "7"})
    assert stored.summary.status == "running"


async def _keeps_what_replaces_the_last_messages(keeper: Checkpointer) -> None:
    first, withheld = _said("go"), _said("withheld")
    state = _state(first)
    journal = await keeper.create(state)
    for messages in ((first, withheld), (first, _calling("c")), (first,), (), (first, _said("on"))):
        state = replace(state, messages=messages)
        await journal.save(state, "running")
        stored = (await keeper.load(state.run_id)).state
        assert stored == state, f"load gave {stored.messages!r} for {messages!r}"


async def _keeps_files(keeper: Checkpointer) -> None:
    image, sound = BinaryContent(bytes(range(256)), "image/png", "a.png"), BinaryContent(b"RIFF", "audio/wav")
    state = _state(ModelRequest((UserPromptPart(("look", image, "and", sound)),)), _calling("c1"))
    journal = await keeper.create(state)
    answer = ToolReturnPart("draw", "c1", ("drawn", image), [image.reference.sha256])
    await journal.call_started(state.open_calls[0], durable=False)
    await journal.call_answered(answer)
    answered = (await keeper.load(state.run_id)).state
    assert answered.answers == (answer,), f"load gave the answer {answered.answers!r}"
    state = replace(state, messages=(*state.messages, ModelRequest((answer,))))
    await journal.save(state, "completed")
    stored = (await keeper.load(state.run_id)).state
    assert stored == state, f"load gave {stored.messages!r} for {state.messages!r}"


async def _keeps_calls_with_their_answers(keeper: Checkpointer) -> None:
    state = _state(_said("go"), _calling("c1", "c2", "c3"))
    journal = await keeper.create(state)
    await journal.save(state, "running")
    for call in state.open_calls[:2]:
        await journal.call_started(call, durable=call.tool_call_id == "c2")
    await journal.call_answered(_gave("c1"))
    stored = await keeper.load(state.run_id)
    assert stored.state.answers == (_gave("c1"),), "an answer that was noted is lost"
    assert stored.in_flight == ("c2",), f"in flight is c2, not {stored.in_flight!r}"
    waiting = with_unknown(stored.state, stored.in_flight)
    await journal.save(waiting, "needs_approval")
    stored = await keeper.load(state.run_id)
    assert stored.state == waiting and stored.in_flight == ("c2",), "a call of unknown outcome stays in flight"
    answered = ModelRequest(tuple(_gave(call_id) for call_id in ("c1", "c2", "c3")))
    state = replace(state, messages=(*state.messages, answered))
    await journal.save(state, "running")
    stored = await keeper.load(state.run_id)
    assert (stored.state, stored.in_flight) == (state, ()), "nothing is in flight once all is answered"


async def _stores_a_state_and_the_start_of_its_call_at_once(keeper: Checkpointer) -> None:
    state = _state(_said("go"))
    journal = await keeper.create(state)
    for n, durable in enumerate((False, True)):
        asked = replace(state, messages=(*state.messages, _calling(f"c{n}")))
        await journal.save(asked, "running", starting=asked.open_calls[0], durable=durable)
        stored = await keeper.load(state.run_id)
        assert (stored.state, stored.in_flight) == (asked, (f"c{n}",)), "a state and the start of its call are one"
        state = replace(asked, messages=(*asked.messages, ModelRequest((_gave(f"c{n}"),))))
        await journal.save(state, "running")
        stored = await keeper.load(state.run_id)
        assert (stored.state, stored.in_flight) == (state, ()), "nothing is in flight once all is answered"


async def _a_failed_run_keeps_what_it_had(keeper: Checkpointer) -> None:
    state = _state(_said("go"), _calling("c1"))
    journal = await keeper.create(state)
    await journal.call_started(state.open_calls[0], durable=False)
    await journal.failed()
    stored = await keeper.load(state.run_id)
    assert stored.summary.status == "failed"
    assert (stored.state, stored.in_flight) == (state, ("c1",)), "failing forgets nothing"


async def _only_the_last_to_claim_may_write(keeper: Checkpointer) -> None:
    state = _state(_said("go"), _calling("c1"))
    first = await keeper.create(state)
    await first.release()
    stored, second = await _claimed_again(keeper, state, "RunJournal.release()")
    assert stored.state == state
    writes: tuple[Callable[[RunJournal], Awaitable[None]], ...] = (
        lambda journal: journal.save(state, "completed"),
        lambda journal: journal.save(state, "running", starting=state.open_calls[0]),
        lambda journal: journal.call_started(state.open_calls[0], durable=False),
        lambda journal: journal.call_answered(_gave("c1")),
        lambda journal: journal.failed(),
    )
    for write in writes:
        await _refuses(write(first), "a journal that was taken over wrote")
    stored = await keeper.load(state.run_id)
    assert (stored.state, stored.summary.status, stored.in_flight) == (state, "running", ())
    for write in writes:
        await write(second)


async def _a_run_that_goes_on_is_not_claimed(keeper: Checkpointer) -> None:
    state = _state(_said("go"), _calling("c1"))
    first = await keeper.create(state)
    await _refuses(keeper.claim(state.run_id), f"a run that goes on was claimed. {_LEASE_WANTED}")
    await first.call_started(state.open_calls[0], durable=False)
    await first.save(state, "needs_approval")
    _, second = await _claimed_again(keeper, state, 'RunJournal.save(..., "needs_approval")')
    await _refuses(keeper.claim(state.run_id), f"a run that was claimed was claimed again. {_LEASE_WANTED}")
    await second.release()
    _, third = await _claimed_again(keeper, state, "RunJournal.release()")
    await third.failed()
    await _claimed_again(keeper, state, "RunJournal.failed()")


_LEASE_WANTED = (
    "Keep a lease with each run. `create` and `claim` take it. `release`, `failed` and `save` with another status "
    'than "running" give it up. `claim` raises CheckpointError while the process that holds it is alive. '
    "`agentkit.persistence.leases.Lease` names the holder and renews; `is_gone` says whether a stored one is stale"
)


async def _claimed_again(keeper: Checkpointer, state: RunState, given_up: str) -> tuple[StoredRun, RunJournal]:
    try:
        return await keeper.claim(state.run_id)
    except CheckpointError as error:
        raise AssertionError(f"{given_up} did not give the run up: {error} {_LEASE_WANTED}.") from error


async def _keeps_inner_runs_with_their_run(keeper: Checkpointer) -> None:
    state = _state(_said("go"), _calling("c1"))
    journal = await keeper.create(state)
    begun = RunState(run_id=f"{state.run_id}.c1")
    inner = await journal.inner_run("c1", begun)
    if inner is None:
        return  # none are kept; their outcome is unknown after a crash
    await journal.call_started(state.open_calls[0], durable=False)
    asked = replace(begun, messages=(_said("inner"), _calling("i1", "i2")))
    await inner.save(asked, "running")
    for call in asked.open_calls:
        await inner.call_started(call, durable=False)
    await inner.call_answered(_gave("i2"))
    stored = await keeper.load(state.run_id)
    (kept,) = stored.state.inner
    assert (kept.call_id, kept.state) == ("c1", replace(asked, answers=(_gave("i2"),))), f"got {kept!r}"
    assert sorted(stored.in_flight) == ["c1", "c1.i1"], f"in flight are c1 and c1.i1, not {stored.in_flight!r}"
    assert [run.run_id for run in await keeper.list_runs()] == [state.run_id], "an inner run is listed"
    await journal.release()
    stored, second = await keeper.claim(state.run_id)
    await _refuses(inner.save(asked, "running"), "an inner run of a run that was taken over wrote")
    assert stored.inner_kept == ("c1",), f"the inner run of c1 was kept, not {stored.inner_kept!r}"
    waiting = with_unknown(stored.state, stored.in_flight, stored.inner_kept)
    assert [call.tool_call_id for call in waiting.inner[0].state.pending] == ["i1"]
    await second.save(waiting, "needs_approval")
    stored = await keeper.load(state.run_id)
    assert stored.state == waiting, "a saved state has its inner runs, once"


async def _finds_runs_by_what_they_are(keeper: Checkpointer) -> None:
    runs = [_state(_said(str(n))) for n in range(3)]
    for n, state in enumerate(runs):
        journal = await keeper.create(state, metadata={"n": str(n), "all": "yes"})
        await journal.save(state, "completed" if n else "needs_approval")

    async def found(**filters: object) -> list[str]:
        return [summary.run_id for summary in await keeper.list_runs(**filters)]  # pyright: ignore[reportArgumentType]

    ids = [state.run_id for state in runs]
    assert await found() == ids[::-1], "runs come latest first"
    assert await found(limit=1) == ids[-1:]
    assert await found(status="needs_approval") == ids[:1]
    assert await found(metadata={"n": "1", "all": "yes"}) == ids[1:2]
    assert await found(metadata={"n": "1", "all": "no"}) == []
    for key in ("x') OR 1=1 --", "$", "n' AND '1'='1", ""):
        assert await found(metadata={key: "1"}) == [], f"the key {key!r} of a filter is not a key alone"


async def _forgets_what_is_deleted_and_nothing_else(keeper: Checkpointer) -> None:
    shared = _said("the same beginning")
    one, other = _state(shared, _calling("c1")), _state(shared, _calling("c2"))
    journal = await keeper.create(one)
    await keeper.create(other)
    await keeper.delete(one.run_id)
    assert (await keeper.load(other.run_id)).state == other, "another run lost messages"
    await _refuses(keeper.load(one.run_id), "a deleted run was loaded")
    await _refuses(keeper.claim(one.run_id), "a deleted run was claimed")
    await _refuses(keeper.delete(one.run_id), "a deleted run was deleted again")
    await _refuses(journal.save(one, "running"), "a deleted run was written")


async def _a_run_is_begun_once(keeper: Checkpointer) -> None:
    state = _state(_said("go"))
    assert not await keeper.has(state.run_id), "a run is there before it was begun"
    await keeper.create(state)
    assert await keeper.has(state.run_id), "a run that was begun is not there"
    await _refuses(keeper.create(state), "a run that is there was begun again")


async def _stores_events_with_what_they_report(keeper: EventCheckpointer) -> None:
    state, told = _state(_said("go"), _calling("c1", "c2")), list[StoredEvent]()
    outbox = Outbox(told.extend)

    async def stored() -> list[AgentEvent]:
        found = await keeper.events(state.run_id)
        assert list(found) == told, f"the outbox was told of {told!r}, and stored is {found!r}"
        assert [each.number for each in found] == list(range(1, len(found) + 1)), "numbers have no gaps"
        return [each.event for each in found]

    outbox(TextDeltaEvent("a"))
    journal = await keeper.create(state, outbox=outbox)
    events: list[AgentEvent] = [TextDeltaEvent("a")]
    assert await stored() == events, "the write that creates a run stores its events"
    calls = [ToolCallEvent("add", call.tool_call_id, call.arguments) for call in state.open_calls]
    for event in calls:
        outbox(event)
    await journal.call_started(state.open_calls[1], durable=False)
    assert await stored() == (events := [*events, calls[1]]), "an event of another call was stored"
    await journal.call_started(state.open_calls[0], durable=True)
    results = [ToolResultEvent("add", call.tool_call_id, "3", "success", 0.5) for call in state.open_calls]
    outbox(results[0])
    outbox(ToolProgressEvent("add", "c2", 0.5))
    outbox(results[1])
    await journal.call_answered(_gave("c2"))
    events = [*events, calls[0], ToolProgressEvent("add", "c2", 0.5), results[1]]
    assert await stored() == events, "the result of a call that has not been stored was stored"
    outbox(TextDeltaEvent("b"))
    await keeper.store_events([journal])
    assert await stored() == events, "an event overtook one that reports a change"
    await journal.save(state, "running")
    assert await stored() == (events := [*events, results[0], TextDeltaEvent("b")])
    outbox(TextDeltaEvent("c"))
    outbox(TextDeltaEvent("d"))
    await keeper.store_events([journal])
    assert await stored() == (events := [*events, TextDeltaEvent("cd")]), "pieces of one text are joined"
    outbox(RewardEvent(1.0, "test"))
    await journal.failed()
    assert await stored() == (events := [*events, RewardEvent(1.0, "test")])
    some = [each.number for each in await keeper.events(state.run_id, after=2, limit=3)]
    assert some == [3, 4, 5], f"numbers 3 to 5 were asked for, not {some}"
    await _refuses(keeper.events("run_unknown"), "events of an unknown run were returned")


async def _gives_files_by_their_hash(keeper: EventCheckpointer) -> None:
    image = BinaryContent(bytes(range(256)), "image/png")
    one, other = _state(ModelRequest((UserPromptPart(("look", image)),))), _state(_said("go"))
    outbox = Outbox()
    outbox(ModelRequestEvent(0, (ModelRequest((UserPromptPart(("look", image)),)),), ()))
    await keeper.create(one, outbox=outbox)
    await keeper.create(other)
    (stored,) = await keeper.events(one.run_id)
    assert len(stored.body) < 1000 and image.reference.sha256 in stored.body, f"an event has {stored.body!r}"
    assert stored.event == ModelRequestEvent(
        0, (ModelRequest((UserPromptPart(("look", image.reference)),)),), ()
    ), "the event of a request with a file has no reference to the file"
    assert await keeper.file(one.run_id, image.reference.sha256) == image.data
    assert await keeper.file(one.run_id, "0" * 64) is None, "a file that is not there was returned"
    assert await keeper.file(other.run_id, image.reference.sha256) is None, "a file of another run was returned"
    await _refuses(keeper.file("run_unknown", image.reference.sha256), "a file of an unknown run was returned")


async def _others_may_add_events(keeper: EventCheckpointer) -> None:
    state, outbox = _state(_said("go")), Outbox()
    first = await keeper.create(state, outbox=outbox)
    assert await keeper.append_event(state.run_id, RewardEvent(0.5, "other")) == 1
    outbox(TextDeltaEvent("a"))
    await first.save(state, "running")
    assert await keeper.last_events([state.run_id, "run_unknown"]) == {state.run_id: 2}
    added = [RewardEvent(0.25, "other"), RewardEvent(0.75, "other"), TextDeltaEvent("a"), RewardEvent(1.0, "test")]
    for event in added[:2]:
        await keeper.append_event(state.run_id, event)
    for event in added[2:]:
        outbox(event)
    await first.save(state, "running")
    found = await keeper.events(state.run_id, after=2)
    assert [each.event for each in found] == added, "events of others and of the run are not in their order"
    assert [each.number for each in found] == [3, 4, 5, 6], "the numbers of a run's events have gaps"
    await first.release()
    _, second = await keeper.claim(state.run_id)
    second.outbox = Outbox()
    outbox(TextDeltaEvent("late"))
    await keeper.store_events([first])
    await _refuses(first.save(state, "running"), "a journal that was taken over wrote")
    assert await keeper.last_events([state.run_id]) == {state.run_id: 6}, "a former holder stored an event"
    second.outbox(TextDeltaEvent("b"))
    await second.save(state, "completed")
    assert [each.event for each in await keeper.events(state.run_id, after=6)] == [TextDeltaEvent("b")]
    await keeper.delete(state.run_id)
    assert await keeper.last_events([state.run_id]) == {}, "a deleted run has events"
    await _refuses(keeper.append_event(state.run_id, RewardEvent(1.0, "x")), "an event of no run was stored")


async def _keeps_what_was_said(session: Session) -> None:
    history = await session.load()
    assert history.messages == (), "a new conversation is empty"
    said = (_said("one"), _calling("c1"), ModelRequest((_gave("c1"),)))
    version = await session.append(said, history.version)
    kept = await session.load()
    assert (kept.messages, kept.version) == (said, version), f"load gave {kept!r}"
    await session.append((_said("two"),), version)
    assert (await session.load()).messages == (*said, _said("two"))


async def _lets_one_of_two_runs_in(session: Session) -> None:
    start = (await session.load()).version
    await session.append((_said("first"),), start)
    await _refuses(session.append((_said("second"),), start), "a run overtook another")
    assert (await session.load()).messages == (_said("first"),), "a refused run left something"


async def _branches_go_their_own_ways(session: Session) -> None:
    version = await session.append((_said("a"), _said("b"), _said("c")), (await session.load()).version)
    early = await session.fork("early", n_messages=1)
    whole = await session.fork("whole")
    assert (early.id, early.branch) == (session.id, "early")
    await early.append((_said("other"),), (await early.load()).version)
    await session.append((_said("d"),), version)
    assert (await early.load()).messages == (_said("a"), _said("other"))
    assert (await whole.load()).messages == (_said("a"), _said("b"), _said("c"))
    assert (await session.load()).messages == (_said("a"), _said("b"), _said("c"), _said("d"))
    assert list(await whole.branches()) == ["early", "main", "whole"]
    await _refuses(session.fork("early"), "a branch was begun twice")
    await _refuses(session.fork("late", n_messages=5), "a branch began behind the end")
    assert (await (await session.fork("empty", n_messages=0)).load()).messages == ()


async def _a_deleted_conversation_is_empty(session: Session) -> None:
    await session.append((_said("a"), _said("b")), (await session.load()).version)
    other = await session.fork("other", n_messages=1)
    before = (await other.load()).version
    await session.delete()
    for branch in (session, other):
        assert (await branch.load()).messages == (), f"deleted branch {branch.branch!r} has messages"
    assert list(await session.branches()) == ["main"], "a deleted conversation has branches"
    await _refuses(other.append((_said("late"),), before), "a run from before the deletion was added")
    await session.append((_said("new"),), (await session.load()).version)
    assert (await session.load()).messages == (_said("new"),)


async def _refuses(action: Awaitable[object], what: str) -> None:
    try:
        await action
    except CheckpointError:
        return
    raise AssertionError(f"{what}; CheckpointError was expected")


_CHECKPOINTER_CHECKS = (
    _gives_back_what_was_saved,
    _keeps_what_replaces_the_last_messages,
    _keeps_files,
    _keeps_calls_with_their_answers,
    _stores_a_state_and_the_start_of_its_call_at_once,
    _a_failed_run_keeps_what_it_had,
    _only_the_last_to_claim_may_write,
    _a_run_that_goes_on_is_not_claimed,
    _keeps_inner_runs_with_their_run,
    _finds_runs_by_what_they_are,
    _forgets_what_is_deleted_and_nothing_else,
    _a_run_is_begun_once,
)
_EVENT_CHECKS = (
    _stores_events_with_what_they_report,
    _gives_files_by_their_hash,
    _others_may_add_events,
    begins_one_run_of_a_conversation,
    finds_runs_that_nobody_performs,
    deletes_runs_that_ended_long_ago,
)
_SESSION_CHECKS = (
    _keeps_what_was_said,
    _lets_one_of_two_runs_in,
    _branches_go_their_own_ways,
    _a_deleted_conversation_is_empty,
)
