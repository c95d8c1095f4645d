"""Hand-offs: who goes on, what it sees, what stays the run's, and a crash or an approval in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentkit import Agent, FunctionToolset, Handoff, RunContext, UsageLimits, UserError, tool
from agentkit.errors import CheckpointError
from agentkit.events import AgentEvent, HandoffEvent
from agentkit.guardrails import AskWhenUnsure, Block, Verdict, output_guardrail
from agentkit.history.compaction import SlidingWindow
from agentkit.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    SystemPromptPart,
    TextPart,
    ToolCallPart,
    UserPromptPart,
)
from agentkit.models.base import ModelRequestParameters
from agentkit.persistence.stored_state import state_from_json, state_to_json
from agentkit.run.actions import HandOver
from agentkit.run.state import HandedOver
from agentkit.teams.handoffs import nothing, said
from agentkit.testing import FunctionModel, ScriptedModel, call
from agentkit.tracing.replay import replay

pytestmark = pytest.mark.anyio
TASK = "Refund order 7."


def transfer(to: str, task: str = TASK) -> ToolCallPart:
    return call(f"transfer_to_{to}", task=task)


def lines(messages: Sequence[ModelMessage]) -> list[str]:
    """Return a conversation as one line a part."""
    kinds = {"system-prompt": "system", "user-prompt": "user", "tool-return": "result", "text": "says"}
    return [
        f"calls {part.tool_name}" if isinstance(part, ToolCallPart) else f"{kinds[part.part_kind]}: {part.content}"
        for message in messages
        for part in message.parts
    ]


async def look_up(order: int) -> str:
    """Look an order up."""
    return f"order {order}: a lamp"


async def refund(order: int) -> str:
    """Pay an order back."""
    return f"order {order} is paid back"


def desk(*script: Any, to: Sequence[Any], **options: Any) -> tuple[Agent[None, str], ScriptedModel]:
    model = ScriptedModel(list(script))
    options = {"tools": [look_up], "instructions": "You are the desk.", "name": "desk"} | options
    return Agent(model, handoffs=to, **options), model


def refunds(*script: Any, **options: Any) -> tuple[Agent[None, str], ScriptedModel]:
    model = ScriptedModel(list(script))
    options = {"tools": [refund], "instructions": "You pay back.", "name": "refunds"} | options
    return Agent(model, **options), model


async def test_the_other_agent_goes_on_with_its_own_tools_and_instructions() -> None:
    other, its_model = refunds(call("refund", order=7), "Done.")
    agent, model = desk(call("look_up", order=7), transfer("refunds"), to=[other])
    result = await agent.run("I want my money back for 7.")
    assert (result.output, result.status, result.handed_to) == ("Done.", "completed", "refunds")
    assert lines(its_model.calls[0].messages) == [
        "system: You pay back.",
        "user: I want my money back for 7.",
        "calls look_up",
        "result: order 7: a lamp",
        f"user: {TASK}",
    ]
    assert [t.name for t in its_model.calls[0].parameters.tools] == ["refund"]
    assert [t.name for t in model.calls[0].parameters.tools] == ["look_up", "transfer_to_refunds"]
    assert lines(its_model.calls[1].messages)[-2:] == ["calls refund", "result: order 7 is paid back"]


async def test_the_runs_own_messages_stay_whole_and_go_on_in_the_next_run() -> None:
    other, _ = refunds("Done.")
    agent, model = desk(transfer("refunds"), "You are welcome.", to=[Handoff(other, history=nothing)])
    result = await agent.run("Money back!")
    assert lines(result.messages) == [
        "user: Money back!",
        "calls transfer_to_refunds",
        "result: refunds goes on with it.",
        "says: Done.",
    ]
    again = await agent.run("Thanks.", message_history=result.messages)
    assert (again.output, again.handed_to) == ("You are welcome.", None)
    assert lines(model.calls[1].messages)[:-1] == ["system: You are the desk.", *lines(result.messages)]


async def test_what_is_used_counts_for_both_and_limits_are_the_runs() -> None:
    other, _ = refunds(call("refund", order=7), "Done.", limits=UsageLimits(request_limit=1))
    agent, _ = desk(call("look_up", order=7), transfer("refunds"), to=[other])
    result = await agent.run("Money back!")
    assert (result.usage.requests, result.usage.tool_calls) == (4, 3)
    other, _ = refunds(call("refund", order=7), "Out of time.")
    agent, _ = desk(transfer("refunds"), to=[other], limits=UsageLimits(request_limit=3))
    result = await agent.run("Money back!")
    assert (result.output, result.status) == ("Out of time.", "limit_reached")


async def test_nobody_is_handed_a_run_that_has_used_up_its_budget() -> None:
    other, its_model = refunds("Done.")
    agent, _ = desk(transfer("refunds"), "I have to stop.", to=[other], limits=UsageLimits(tool_calls_limit=1))
    result = await agent.run("Money back!")
    assert (result.output, result.status, result.handed_to) == ("I have to stop.", "limit_reached", None)
    assert its_model.calls == []


@pytest.mark.parametrize(
    ("history", "seen"),
    [
        (said, ["user: Hello.", "says: What is it?", "user: Money back!"]),
        (nothing, []),
        (lambda messages: messages[:1], ["user: Hello."]),
    ],
    ids=["said", "nothing", "own"],
)
async def test_a_filter_says_what_the_other_one_sees(history: Any, seen: list[str]) -> None:
    other, its_model = refunds("Done.")
    agent, _ = desk(
        "What is it?", call("look_up", order=7), transfer("refunds"), to=[Handoff(other, history=history)]
    )
    first = await agent.run("Hello.")
    await agent.run("Money back!", message_history=first.messages)
    assert lines(its_model.calls[0].messages) == ["system: You pay back.", *seen, f"user: {TASK}"]


async def test_a_filter_that_parts_a_call_from_its_result_parts_nothing() -> None:
    other, its_model = refunds("Done.")
    cut = Handoff(other, history=lambda messages: messages[:-1])
    agent, _ = desk(call("look_up", order=7), transfer("refunds"), to=[cut])
    await agent.run("Money back!")
    assert lines(its_model.calls[0].messages)[2:] == [
        "calls look_up",
        "result: Interrupted; the call may or may not have taken effect.",
        f"user: {TASK}",
    ]


async def test_what_was_kept_from_one_is_kept_from_the_next() -> None:
    last, its_model = refunds("Done.", name="bank", instructions=None)
    middle, _ = refunds(transfer("bank", "Pay."), handoffs=[last])
    agent, _ = desk(call("look_up", order=7), transfer("refunds"), to=[Handoff(middle, history=nothing)])
    result = await agent.run("Money back!")
    assert (result.output, result.handed_to) == ("Done.", "bank")
    assert lines(its_model.calls[0].messages) == [f"user: {TASK}", "user: Pay."]


async def test_agents_that_hand_over_in_circles_end_at_the_limit() -> None:
    def back_and_forth(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
        names = [each.name for each in parameters.callable_tools if each.name.startswith("transfer")]
        return ModelResponse((call(names[0], task="You do it."),) if names else (TextPart("Nobody did it."),))

    desk_agent = Agent(FunctionModel(back_and_forth), name="desk")
    other: Agent[None, str] = Agent(FunctionModel(back_and_forth), name="refunds", handoffs=[desk_agent])
    desk_agent.add_handoff(other)
    result = await desk_agent.run("Money back!", limits=UsageLimits(request_limit=6))
    assert (result.output, result.status) == ("Nobody did it.", "limit_reached")
    assert [each.to for each in result.state.handed] == ["refunds", "desk", "refunds", "desk"]


async def test_a_hand_over_may_need_approval() -> None:
    other, its_model = refunds("Done.")
    agent, _ = desk(transfer("refunds"), "Then not.", to=[Handoff(other, requires_approval=True)])
    asked = await agent.run("Money back!")
    assert asked.status == "needs_approval" and its_model.calls == []
    allowed = await agent.resume(asked.state, [asked.pending[0].approve()])
    assert (allowed.output, allowed.handed_to) == ("Done.", "refunds")
    agent, _ = desk(transfer("refunds"), "Then not.", to=[Handoff(other, requires_approval=True)])
    asked = await agent.run("Money back!")
    denied = await agent.resume(asked.state, [asked.pending[0].deny("no money")])
    assert (denied.output, denied.handed_to) == ("Then not.", None)


async def test_the_other_agents_calls_wait_for_approval_in_the_same_run() -> None:
    @tool(requires_approval=True)
    async def refund(order: int) -> str:
        """Pay an order back."""
        return f"order {order} is paid back"

    other, _ = refunds(call("refund", order=7), "Done.", tools=[refund])
    agent, _ = desk(transfer("refunds"), to=[other])
    asked = await agent.run("Money back!")
    assert (asked.status, asked.pending[0].tool_name) == ("needs_approval", "refund")
    state = state_from_json(state_to_json(asked.state))
    result = await agent.resume(state, [state.pending[0].approve()])
    assert (result.output, result.handed_to) == ("Done.", "refunds")


@pytest.mark.parametrize("n_steps", range(1, 8))
async def test_a_run_that_was_left_at_any_step_goes_on_with_whoever_has_it(tmp_path: Path, n_steps: int) -> None:
    paid: list[int] = []

    def build() -> Agent[None, str]:
        async def refund(order: int) -> str:
            """Pay an order back."""
            paid.append(order)
            return f"order {order} is paid back"

        def its(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
            is_paid = any("paid back" in line for line in lines(messages))
            return ModelResponse((TextPart("Done."),) if is_paid else (call("refund", order=7),))

        other = Agent(FunctionModel(its), tools=[refund], name="refunds", instructions="You pay back.")
        first = FunctionModel(lambda messages, parameters: ModelResponse((transfer("refunds"),)))
        return Agent(first, name="desk", handoffs=[other], checkpointer=tmp_path / "runs.db")

    async with build().iter("Money back!") as run:
        for _ in range(n_steps):
            await run.advance()
        run_id, left = run.state.run_id, run.result
    result = left or await build().resume(run_id)
    assert (result.output, result.handed_to, paid) == ("Done.", "refunds", [7])
    assert lines(result.messages).count("calls transfer_to_refunds") == 1


async def test_the_step_is_an_action_of_its_own() -> None:
    other, _ = refunds("Done.")
    agent, _ = desk(transfer("refunds"), to=[other])
    async with agent.iter("Money back!") as run:
        actions = [type(action).__name__ async for action in run]
    assert actions == ["CallModel", "RunTools", "HandOver", "CallModel", "ReadOutput"]
    assert HandOver("refunds").to == "refunds"


async def test_the_first_agents_guardrails_hold_for_the_other_one_too() -> None:
    @output_guardrail
    def no_promises(text: str, context: RunContext[Any]) -> Verdict:
        return Block("no promises")

    other, _ = refunds("I promise.")
    agent, _ = desk(transfer("refunds"), to=[other], guardrails=[no_promises])
    assert (await agent.run("Money back!")).status == "refused"


async def test_the_other_ones_guardrails_are_added() -> None:
    unsure = ModelResponse((ToolCallPart("refund", '{"order": 7}', "call_1", probability=0.3),))
    other, _ = refunds(unsure, "Done.", guardrails=[AskWhenUnsure(below=0.5)])
    agent, _ = desk(transfer("refunds"), to=[other])
    assert (await agent.run("Money back!")).status == "needs_approval"


async def test_what_is_tainted_stays_tainted() -> None:
    tainted: list[bool] = []

    async def check(context: RunContext[None]) -> str:
        """Check."""
        tainted.append(context.tainted)
        return "ok"

    (hearsay,) = await FunctionToolset([look_up]).list_tools(RunContext(deps=None))
    other, _ = refunds(call("check"), "Done.", tools=[check])
    agent, _ = desk(
        call("look_up", order=7), transfer("refunds"), to=[other], tools=[replace(hearsay, is_untrusted=True)]
    )
    await agent.run("Money back!")
    assert tainted == [True]


async def test_deps_and_instructions_made_from_them_are_shared() -> None:
    model = ScriptedModel(["Done."])
    other = Agent(model, name="refunds", deps_type=str, instructions=lambda context: f"You serve {context.deps}.")
    agent = Agent(ScriptedModel([transfer("refunds")]), name="desk", deps_type=str, handoffs=[other])
    await agent.run("Money back!", deps="Ann")
    assert lines(model.calls[0].messages)[0] == "system: You serve Ann."


async def test_toolsets_of_the_other_agent_are_open_from_the_hand_over_to_the_end() -> None:
    log: list[str] = []

    class Counted(FunctionToolset):
        async def __aenter__(self) -> Any:
            log.append("open")
            return self

        async def __aexit__(self, *details: object) -> None:
            log.append("closed")

    async def first(order: int) -> str:
        """Look an order up."""
        log.append("first")
        return "a lamp"

    other, _ = refunds("Done.", tools=[], toolsets=[Counted([refund], id="bank")])
    agent, _ = desk(call("first", order=7), transfer("refunds"), to=[other], tools=[first])
    await agent.run("Money back!")
    assert log == ["first", "open", "closed"]


async def test_a_long_conversation_of_the_other_agent_is_made_shorter() -> None:
    seen: list[list[str]] = []

    def twelve_times(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
        seen.append(lines(messages))
        return ModelResponse((call("refund", order=len(seen)) if len(seen) < 13 else TextPart("Done."),))

    other, _ = refunds(compaction=SlidingWindow(max_tokens=60, keep_tokens=30))
    agent, _ = desk(transfer("refunds"), to=[Handoff(other, history=nothing)])
    with other.override(model=FunctionModel(twelve_times)):
        result = await agent.run("Money back!")
    assert result.output == "Done."
    assert seen[-1][:2] == ["system: You pay back.", f"user: {TASK}"]
    assert "are left out" in seen[-1][2] and len(seen[-1]) < 20


async def test_a_trace_tells_of_it_and_can_be_replayed() -> None:
    events: list[AgentEvent] = []
    other, _ = refunds(call("refund", order=7), "Done.")
    agent, _ = desk(call("look_up", order=7), transfer("refunds"), to=[other], on_event=events.append)
    await agent.run("Money back!")
    (event,) = [each for each in events if isinstance(each, HandoffEvent)]
    assert (event.from_agent, event.to_agent, event.tools) == ("desk", "refunds", ("refund",))
    assert lines(event.opening)[-1] == f"user: {TASK}"
    script = [call("look_up", order=7), transfer("refunds"), call("refund", order=7), "Done."]
    again = ScriptedModel(script)
    assert await replay(events, again) == (4, None)
    assert lines(again.calls[2].messages)[0] == "system: You pay back."
    assert [each.name for each in again.calls[2].parameters.tools] == ["refund"]


@pytest.mark.parametrize(
    ("handoffs", "message"),
    [
        (lambda: [Agent(ScriptedModel([]))], "needs a name"),
        (lambda: [Agent(ScriptedModel([]), name="a b"), Agent(ScriptedModel([]), name="a_b")], "transfer_to_a_b"),
    ],
)
def test_agents_are_told_apart_by_their_names(handoffs: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Agent(ScriptedModel([]), name="desk", handoffs=handoffs())


async def test_two_agents_of_one_name_are_refused_before_the_run() -> None:
    inner: Agent[None, str] = Agent(ScriptedModel([]), name="bank")
    other: Agent[None, str] = Agent(ScriptedModel([]), name="refunds", handoffs=[inner])
    agent = Agent(ScriptedModel([]), name="desk", handoffs=[other, Agent(ScriptedModel([]), name="bank")])
    with pytest.raises(UserError, match="both|are called 'bank'"):
        await agent.run("Money back!")


async def test_a_run_has_one_type_of_answer() -> None:
    other = Agent(ScriptedModel([]), name="refunds", output_type=int)
    agent: Agent[None, Any] = Agent(ScriptedModel([]), name="desk", handoffs=[other])
    with pytest.raises(UserError, match="one type of answer"):
        await agent.run("Money back!")


async def test_a_stored_run_whose_agent_is_gone_is_not_taken_up() -> None:
    other, _ = refunds(call("refund", order=7), name="refunds")
    agent, _ = desk(transfer("refunds"), to=[other])
    async with agent.iter("Money back!") as run:
        while run.state.handed == ():
            await run.advance()
        state = run.state
    without, _ = desk(to=[])
    renamed, _ = desk(to=[refunds(name="bank")[0]])
    for agent in (without, renamed):
        with pytest.raises(CheckpointError, match="'refunds'"):
            await agent.resume(state)
    elsewhere = replace(state, handed=(HandedOver("bank", 10**9, "Pay."),))
    with pytest.raises(CheckpointError):
        await renamed.resume(elsewhere)


async def test_parts_of_the_runtime_are_no_part_of_what_is_handed_over() -> None:
    seen: list[ModelMessage] = []

    def keep(messages: Sequence[ModelMessage]) -> Sequence[ModelMessage]:
        seen.extend(messages)
        return messages

    other, model = refunds("Done.")
    agent, _ = desk(transfer("refunds"), to=[Handoff(other, history=keep)])
    await agent.run("Money back!")
    assert lines(seen) == ["user: Money back!"]
    (opening,) = model.calls[0].messages
    assert isinstance(opening, ModelRequest)
    assert [type(part) for part in opening.parts] == [SystemPromptPart, UserPromptPart, UserPromptPart]
