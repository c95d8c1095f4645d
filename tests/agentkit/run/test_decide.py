"""The loop's decisions, on plain data."""

from __future__ import annotations

import pytest

from agentkit.errors import UnexpectedModelBehavior, UserError
from agentkit.limits import UsageLimits
from agentkit.messages import (
    ModelRequest,
    ModelResponse,
    RetryPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from agentkit.run.actions import CallModel, Finish, OutputRejected, ReadOutput, RunTools, ToolOutcomes
from agentkit.run.admission import LoopRules
from agentkit.run.decide import step
from agentkit.run.instructions import limit_note
from agentkit.run.state import RunState
from agentkit.usage import RequestUsage

RULES = LoopRules(max_retries={"add": 1, "get_weather": 1})
ASK = ModelRequest((UserPromptPart("hello"),))


def call(name: str = "add", call_id: str = "c1", probability: float | None = None) -> ToolCallPart:
    return ToolCallPart(name, "{}", call_id, probability)


def result(call_id: str = "c1", name: str = "add") -> ToolReturnPart:
    return ToolReturnPart(name, call_id, "3")


def test_a_prompt_leads_to_a_model_call() -> None:
    state, action = step(RunState(), ASK, RULES)
    assert action == CallModel(final=False)
    assert state.messages == (ASK,)


def test_a_call_is_run_and_its_result_goes_back_to_the_model() -> None:
    state, _ = step(RunState(), ASK, RULES)
    state, action = step(state, ModelResponse((call(),), RequestUsage(10, 4, 5)), RULES)
    assert action == RunTools((call(),))
    state, action = step(state, ToolOutcomes((result(),), n_run=1), RULES)
    assert action == CallModel(final=False)
    assert state.messages[-1] == ModelRequest((result(),))
    assert (state.usage.requests, state.usage.tool_calls, state.usage.total_tokens) == (1, 1, 15)
    assert state.usage.cache_read_tokens == 4


def test_text_is_read_as_the_answer() -> None:
    response = ModelResponse((TextPart("42"),))
    state, _ = step(RunState(), ASK, RULES)
    _, action = step(state, response, RULES)
    assert action == ReadOutput(response, "completed")


def test_the_input_state_is_left_as_it_was() -> None:
    state, _ = step(RunState(), ASK, RULES)
    before = state.messages
    step(state, ModelResponse((TextPart("x"),)), RULES)
    assert state.messages == before == (ASK,)


def test_an_unknown_tool_is_answered_with_the_nearest_names() -> None:
    state, _ = step(RunState(), ASK, RULES)
    state, action = step(state, ModelResponse((call("get_wether"),)), RULES)
    assert isinstance(action, RunTools)
    assert action.calls == ()
    assert "'get_wether'" in action.refused[0].content
    assert "get_weather" in action.refused[0].content


def test_a_tool_that_used_up_its_retries_is_masked_out() -> None:
    state, _ = step(RunState(), ASK, RULES)
    for attempt in range(2):
        state, _ = step(state, ModelResponse((call(),)), RULES)
        state, _ = step(state, ToolOutcomes((RetryPromptPart("wrong", "add", "c1"),), 1), RULES)
        assert ("add" in state.disabled_tools) is (attempt == 1)
    state, action = step(state, ModelResponse((call(),)), RULES)
    assert isinstance(action, RunTools)
    assert action.calls == ()


def test_a_success_resets_the_retries_of_a_tool() -> None:
    state, _ = step(RunState(), ASK, RULES)
    for parts in ((RetryPromptPart("wrong", "add", "c1"),), (result(),), (RetryPromptPart("wrong", "add", "c1"),)):
        state, _ = step(state, ModelResponse((call(),)), RULES)
        state, _ = step(state, ToolOutcomes(parts, 1), RULES)
    assert state.disabled_tools == ()


def test_the_request_limit_keeps_one_request_for_a_tool_free_answer() -> None:
    rules = LoopRules(max_retries={"add": 1}, limits=UsageLimits(request_limit=3))
    state, action = step(RunState(), ASK, rules)
    finals = []
    while isinstance(action, CallModel):
        finals.append(action.final)
        parts = (TextPart("so far"),) if action.final else (call(),)
        state, action = step(state, ModelResponse(parts), rules)
        if isinstance(action, RunTools):
            state, action = step(state, ToolOutcomes((result(),), 1), rules)
    assert finals == [False, False, True]
    assert isinstance(action, ReadOutput)
    assert action.status == "limit_reached"
    assert state.usage.requests == 3
    assert state.limit == "request_limit=3"
    assert state.messages[-2] == ModelRequest((result(),))


def repeated(
    *turns: tuple[str, str, bool], limit: int | None = 3, said: ModelRequest = ASK
) -> tuple[list[bool], RunState]:
    """Run turns of one call each (tool, arguments, whether it fails); return which requests were final."""
    rules = LoopRules(max_retries={"add": 9, "get_weather": 9}, limits=UsageLimits(repeated_failures_limit=limit))
    state, action = step(RunState(), said, rules)
    finals = []
    for number, (name, arguments, fails) in enumerate(turns):
        state, _ = step(state, ModelResponse((ToolCallPart(name, arguments, f"c{number}"),)), rules)
        outcome = ToolOutcomes((ToolReturnPart(name, f"c{number}", "text", is_error=fails),), 1)
        state, action = step(state, outcome, rules)
        assert isinstance(action, CallModel)
        finals.append(action.final)
    return finals, state


FAILS, WORKS = ("add", "{}", True), ("add", "{}", False)
OTHER = ("add", '{"n":1}', True)


def test_the_same_call_that_fails_three_times_in_a_row_ends_the_tool_turns() -> None:
    finals, state = repeated(FAILS, FAILS, FAILS)
    assert finals == [False, False, True]
    assert state.limit == "repeated_failures_limit=3"
    assert "Answer now with what you have" in (limit_note(state) or "")
    answer = ModelResponse((TextPart("It does not work."),))
    assert step(state, answer, RULES)[1] == ReadOutput(answer, "limit_reached")


@pytest.mark.parametrize(
    "turns",
    [
        (FAILS, FAILS, WORKS, FAILS, FAILS),
        (FAILS, FAILS, ("get_weather", "{}", False), FAILS, FAILS),
        (FAILS, OTHER, ("get_weather", "{}", True), ("get_weather", '{"n":1}', True), FAILS),
        (WORKS, WORKS, WORKS, WORKS),
    ],
)
def test_a_success_between_or_other_arguments_end_nothing(
    turns: tuple[tuple[str, str, bool], ...],
) -> None:
    assert not any(repeated(*turns)[0])


def test_other_failures_between_do_not_hide_that_a_call_is_repeated() -> None:
    assert repeated(FAILS, OTHER, FAILS, OTHER, FAILS)[0] == [False, False, False, False, True]


def test_the_number_of_repeated_failures_is_the_users_choice() -> None:
    assert repeated(FAILS, FAILS, FAILS, FAILS, limit=None)[0] == [False] * 4
    assert repeated(FAILS, limit=1)[0] == [True]
    assert repeated(OTHER, FAILS, FAILS, limit=2)[0] == [False, False, True]
    assert RULES.limits.repeated_failures_limit == 3
    with pytest.raises(UserError, match="repeated_failures_limit=0.*at least 1"):
        UsageLimits(repeated_failures_limit=0)


def test_failures_of_an_earlier_run_in_the_history_are_not_counted() -> None:
    _, earlier = repeated(FAILS, FAILS)
    rules = LoopRules(max_retries={"add": 9})
    state, _ = step(RunState(messages=earlier.messages, n_history=len(earlier.messages)), ASK, rules)
    state, _ = step(state, ModelResponse((call(),)), rules)
    _, action = step(state, ToolOutcomes((ToolReturnPart("add", "c1", "text", is_error=True),), 1), rules)
    assert action == CallModel(final=False)


def test_a_turn_counts_once_and_only_if_all_of_its_calls_fail() -> None:
    def run(n_turns: int, *, second_fails: bool) -> CallModel:
        calls = (ToolCallPart("add", "{}", "c1"), ToolCallPart("add", "{}", "c2"))
        results = (
            ToolReturnPart("add", "c1", "text", is_error=True),
            ToolReturnPart("add", "c2", "text", is_error=second_fails),
        )
        state, action = step(RunState(), ASK, RULES)
        for _ in range(n_turns):
            state, _ = step(state, ModelResponse(calls), RULES)
            state, action = step(state, ToolOutcomes(results, 2), RULES)
        assert isinstance(action, CallModel)
        return action

    assert not run(2, second_fails=True).final
    assert run(3, second_fails=True).final
    assert not run(3, second_fails=False).final


def test_calls_over_the_tool_budget_are_answered_without_running() -> None:
    rules = LoopRules(max_retries={"add": 1}, limits=UsageLimits(tool_calls_limit=1))
    state, _ = step(RunState(), ASK, rules)
    calls = (ToolCallPart("add", '{"n":1}', "a"), ToolCallPart("add", '{"n":2}', "b"))
    state, action = step(state, ModelResponse(calls), rules)
    assert isinstance(action, RunTools)
    assert [c.tool_call_id for c in action.calls] == ["a"]
    assert [p.tool_call_id for p in action.refused if isinstance(p, ToolReturnPart)] == ["b"]
    state, action = step(state, ToolOutcomes((result("a"), *action.refused), 1), rules)
    assert action == CallModel(final=True)


def test_a_call_in_the_final_turn_is_answered_and_ends_the_run() -> None:
    rules = LoopRules(max_retries={"add": 1}, limits=UsageLimits(request_limit=1))
    state, action = step(RunState(), ASK, rules)
    assert action == CallModel(final=True)
    state, action = step(state, ModelResponse((call(),)), rules)
    assert action == Finish("limit_reached")
    assert isinstance(state.messages[-1].parts[0], ToolReturnPart)


def test_an_agent_without_tools_completes_within_one_request() -> None:
    rules = LoopRules(max_retries={}, limits=UsageLimits(request_limit=1))
    state, action = step(RunState(), ASK, rules)
    _, action = step(state, ModelResponse((TextPart("hi"),)), rules)
    assert isinstance(action, ReadOutput)
    assert action.status == "completed"


def test_an_empty_call_list_is_an_abstention() -> None:
    state, _ = step(RunState(), ASK, RULES)
    _, action = step(state, ModelResponse((), abstained=True), RULES)
    assert action == Finish("abstained")


def test_a_rejected_answer_is_retried_then_fails() -> None:
    state, _ = step(RunState(), ASK, RULES)
    state, _ = step(state, ModelResponse((TextPart("bad"),)), RULES)
    state, action = step(state, OutputRejected("not a number"), RULES)
    assert action == CallModel(final=False)
    assert state.messages[-1] == ModelRequest((RetryPromptPart("not a number"),))
    with pytest.raises(UnexpectedModelBehavior, match="not a number"):
        step(state, OutputRejected("not a number"), RULES)


def test_an_answer_that_stays_invalid_at_the_limit_ends_in_a_result() -> None:
    rules = LoopRules(max_retries={"add": 1}, limits=UsageLimits(tool_calls_limit=0))
    state, action = step(RunState(), ASK, rules)
    assert action == CallModel(final=True)
    for expected in (CallModel(final=True), Finish("limit_reached")):
        state, _ = step(state, ModelResponse((TextPart("bad"),)), rules)
        state, action = step(state, OutputRejected("not a number"), rules)
        assert action == expected


def test_an_empty_response_counts_as_rejected() -> None:
    state, _ = step(RunState(), ASK, RULES)
    state, action = step(state, ModelResponse(()), RULES)
    assert action == CallModel(final=False)
    assert state.output_retries == 1


def test_confidence_is_the_least_probable_decision() -> None:
    state, _ = step(RunState(), ASK, RULES)
    state, _ = step(state, ModelResponse((call(probability=0.9), call(call_id="d", probability=0.6))), RULES)
    assert state.confidence == 0.6
    state, _ = step(state, ToolOutcomes((result(), result("d")), 2), RULES)
    state, _ = step(state, ModelResponse((TextPart("x"),), p_answer=0.8), RULES)
    assert state.confidence == 0.6
