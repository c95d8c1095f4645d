"""Views of a stream: its text, its partial output, and the same from synchronous code."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import BaseModel
from typing_extensions import TypedDict

from agentkit import Agent, AgentRunError, ModelError, ModelRetry, NoOutputError, RunContext, UserError
from agentkit.events import RunFinishedEvent, RunStartedEvent, ToolCallEvent
from agentkit.guardrails import Allow, Block, Verdict, output_guardrail
from agentkit.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from agentkit.models.base import Model, ModelRequestParameters, OnDelta, TextDelta, ToolCallDelta
from agentkit.testing import ScriptedModel, call
from agentkit.tools.function import function_tool
from tests.agentkit.arrangements import ARRANGEMENTS, Arrangement

pytestmark = pytest.mark.anyio
Piece = str | ToolCallPart


class Writing(Model):
    """Writes its replies piece by piece: strings are text, a call ends a reply."""

    def __init__(self, *replies: Sequence[Piece]) -> None:
        self._replies = list(replies)
        self.n_written = 0

    @property
    def name(self) -> str:
        return "writing"

    async def request(
        self,
        messages: Sequence[ModelMessage],
        parameters: ModelRequestParameters,
        *,
        on_delta: OnDelta | None = None,
    ) -> ModelResponse:
        pieces = self._replies.pop(0)
        for piece in pieces:
            await anyio.lowlevel.checkpoint()
            self.n_written += 1
            if on_delta is not None:
                is_text = isinstance(piece, str)
                on_delta(TextDelta(piece) if is_text else ToolCallDelta(0, piece.tool_name, piece.arguments))
        text = "".join(piece for piece in pieces if isinstance(piece, str))
        calls = [piece for piece in pieces if isinstance(piece, ToolCallPart)]
        return ModelResponse((*((TextPart(text),) if text else ()), *calls), finish_reason="stop")


class Letter(BaseModel):
    to: str
    lines: list[str] = []


class Note(TypedDict, total=False):
    to: str
    lines: list[str]


LETTER = ['{"to": "A', 'nn", "li', 'nes": ["one"', ', "tw', 'o"]', "}"]


def look() -> str:
    """Look."""
    return "seen"


# --- text ------------------------------------------------------------------------------------------------------


async def test_text_comes_in_increments_and_whole() -> None:
    async with Agent(Writing(["all ", "is ", "well"])).run_stream("x") as stream:
        assert [text async for text in stream.text()] == ["all ", "is ", "well"]
        assert stream.result.output == "all is well"
    async with Agent(Writing(["all ", "is ", "well"])).run_stream("x") as stream:
        assert [text async for text in stream.text(whole=True)] == ["all ", "all is ", "all is well"]


async def test_whole_text_begins_anew_with_each_reply() -> None:
    model = Writing(["I will ", "look.", call("look")], ["It ", "is seen."])
    async with Agent(model, tools=[look]).run_stream("x") as stream:
        texts = [text async for text in stream.text(whole=True)]
    assert texts == ["I will ", "I will look.", "It ", "It is seen."]


async def test_text_raises_the_error_of_the_run_unchanged() -> None:
    async with Agent(ScriptedModel([call("look"), ModelError("gone")]), tools=[look]).run_stream("x") as stream:
        with pytest.raises(ModelError, match="gone"):
            _ = [text async for text in stream.text()]


async def test_leaving_the_text_early_cancels_the_run() -> None:
    model = Writing([f"{n} " for n in range(100_000)])
    async with Agent(model).run_stream("x") as stream:
        async for _ in stream.text():
            break
    assert model.n_written < 100_000
    with pytest.raises(UserError, match="has not ended"):
        _ = stream.result


# --- partial output --------------------------------------------------------------------------------------------


async def partial(model: Model, output_type: Any, **options: Any) -> list[Any]:
    async with Agent(model, output_type=output_type, **options).run_stream("x") as stream:
        values = [value async for value in stream.partial_output()]
        assert values[-1] == stream.result.output
        return values


async def test_a_typed_dict_grows_and_only_changes_are_yielded() -> None:
    assert await partial(Writing(LETTER), Note) == [
        {"to": "A"},
        {"to": "Ann"},
        {"to": "Ann", "lines": ["one"]},
        {"to": "Ann", "lines": ["one", "tw"]},
        {"to": "Ann", "lines": ["one", "two"]},
    ]


async def test_a_model_appears_with_its_last_required_field() -> None:
    values = await partial(Writing(['{"li', 'nes": [], "t', 'o": "A', 'nn"}']), Letter)
    assert values == [Letter(to="A"), Letter(to="Ann")]


async def test_a_wrapped_list_grows() -> None:
    assert await partial(Writing(['{"res', 'ult": [1', ", 2", "3]", "}"]), list[int]) == [[1], [1, 2], [1, 23]]


async def test_text_output_is_its_own_partial_output() -> None:
    assert await partial(Writing(["a", "b"]), str) == ["a", "ab"]


async def test_a_marked_union_grows_once_its_kind_is_known() -> None:
    pieces = ['{"result": {"kind": "No', 'te", "value": {"to": "A', 'nn"}', "}}"]
    assert await partial(Writing(pieces), [Note, Letter]) == [{"to": "A"}, {"to": "Ann"}]


async def test_an_output_function_yields_only_its_result() -> None:
    def shout(text: str) -> str:
        return text.upper()

    assert await partial(Writing(['{"text": "a', 'b"}']), shout) == ["AB"]


async def test_the_last_value_is_the_validated_output() -> None:
    agent = Agent(Writing(["a", "b"]))

    @agent.output_validator
    async def check(context: RunContext[None], output: str) -> str:
        return output.upper()

    async with agent.run_stream("x") as stream:
        assert [value async for value in stream.partial_output()] == ["a", "ab", "AB"]


async def test_an_answer_that_is_rejected_is_followed_by_the_next_one() -> None:
    agent = Agent(Writing(['{"to": "A"}'], ['{"to": "B"}']), output_type=Note)

    @agent.output_validator
    async def check(context: RunContext[None], output: Note) -> Note:
        if output.get("to") == "A":
            raise ModelRetry("not A")
        return output

    async with agent.run_stream("x") as stream:
        assert [value async for value in stream.partial_output()] == [{"to": "A"}, {"to": "B"}]


async def test_text_before_a_call_is_no_partial_output() -> None:
    model = Writing(["I will look.", call("look")], LETTER)
    values = await partial(model, Letter, tools=[look])
    assert values[0] == Letter(to="A") and values[-1] == Letter(to="Ann", lines=["one", "two"])


async def test_a_run_without_an_output_yields_what_there_was() -> None:
    stops = function_tool(look, requires_approval=True)
    async with Agent(ScriptedModel([call("look")]), tools=[stops]).run_stream("x") as stream:
        assert [value async for value in stream.partial_output()] == []
        with pytest.raises(NoOutputError):
            _ = stream.result.output


# --- guardrails ------------------------------------------------------------------------------------------------


@output_guardrail(streaming=True)
def no_code(text: str, context: RunContext[Any]) -> Verdict:
    return Block("the code") if "1234" in text else Allow()


async def test_no_view_shows_what_a_streaming_guardrail_blocks() -> None:
    pieces = ["the ", "code ", "is 12", "34", " and more"]
    async with Agent(Writing(pieces), guardrails=[no_code]).run_stream("x") as stream:
        texts = [text async for text in stream.text()]
    assert (texts, stream.result.status) == (["the ", "code ", "is 12"], "refused")
    async with Agent(Writing(pieces), guardrails=[no_code]).run_stream("x") as stream:
        assert "1234" not in "".join([text async for text in stream.text(whole=True)])
    structured = ['{"to": "A', 'nn", "lines": ["12', '34"', "]}"]
    async with Agent(Writing(structured), guardrails=[no_code], output_type=Note).run_stream("x") as stream:
        values = [value async for value in stream.partial_output()]
    assert values == [{"to": "A"}, {"to": "Ann", "lines": ["12"]}]
    assert stream.result.status == "refused"


async def test_sync_views_show_nothing_that_a_streaming_guardrail_blocks() -> None:
    with Agent(Writing(["is 12", "34"]), guardrails=[no_code]).run_stream_sync("x") as stream:
        assert list(stream.text()) == ["is 12"]
        assert stream.result.status == "refused"


# --- synchronous -----------------------------------------------------------------------------------------------


def test_events_text_and_partial_output_are_read_without_a_loop() -> None:
    with Agent(Writing(["a", "b"])).run_stream_sync("x") as stream:
        events = list(stream)
        assert isinstance(events[0], RunStartedEvent) and isinstance(events[-1], RunFinishedEvent)
        assert (stream.result.output, list(stream)) == ("ab", [])
        assert stream.state is not None
    with Agent(Writing(["a", "b"])).run_stream_sync("x") as stream:
        assert list(stream.text(whole=True)) == ["a", "ab"]
    with Agent(Writing(LETTER), output_type=Note).run_stream_sync("x") as stream:
        assert list(stream.partial_output())[-1] == {"to": "Ann", "lines": ["one", "two"]}
    with Agent(Writing(["a", "b"])).run_stream_sync("x") as stream:
        assert stream.finish().output == "ab"


async def test_a_sync_stream_works_inside_a_running_loop_and_in_a_tool() -> None:
    def inner() -> str:
        with Agent(Writing(["in", "ner"])).run_stream_sync("x") as stream:
            return "|".join(stream.text())

    async def inner_async() -> str:
        return inner()

    agent = Agent(ScriptedModel([[call("inner"), call("inner_async")], "done"]), tools=[inner, inner_async])
    with agent.run_stream_sync("x") as stream:
        result = stream.finish()
    told = [part.content for m in result.messages for part in m.parts if part.part_kind == "tool-return"]
    assert told == ["in|ner", "in|ner"]


def test_a_sync_stream_keeps_the_overrides_of_its_caller() -> None:
    agent = Agent("http://127.0.0.1:9/v1#none")
    with agent.override(model=ScriptedModel(["free"])), agent.run_stream_sync("x") as stream:
        assert list(stream.text()) == ["free"]


def test_leaving_a_sync_stream_early_cancels_the_run() -> None:
    cancelled = threading.Event()

    async def wait() -> str:
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()
        return ""

    with Agent(ScriptedModel([call("wait")]), tools=[wait]).run_stream_sync("x") as stream:
        for event in stream:
            if isinstance(event, ToolCallEvent):
                break
    assert cancelled.wait(5)


def test_errors_of_a_sync_stream_are_unchanged() -> None:
    with Agent(ScriptedModel([ModelError("gone")])).run_stream_sync("x") as stream:
        with pytest.raises(AgentRunError, match="gone") as caught:
            list(stream)
        assert type(caught.value) is ModelError and caught.value.state is not None
        with pytest.raises(ModelError):
            _ = stream.result
    mine = KeyError("mine")
    with pytest.raises(KeyError) as raised, Agent(ScriptedModel(["a"])).run_stream_sync("x") as stream:
        raise mine
    assert raised.value is mine


def test_a_sync_stream_that_cannot_begin_says_so() -> None:
    given: Any = {"colour": "red"}
    with (
        pytest.raises(UserError, match="no option 'colour'"),
        Agent(ScriptedModel([])).run_stream_sync("x", **given),
    ):
        pass


# --- arrangements ----------------------------------------------------------------------------------------------


def by_name(arrangement: Arrangement) -> str:
    return arrangement.name


@pytest.mark.parametrize("arrangement", ARRANGEMENTS, ids=by_name)
async def test_the_text_and_the_result_of_a_stream_agree_in_every_arrangement(
    arrangement: Arrangement, tmp_path: Path
) -> None:
    agent = arrangement.build([function_tool(look)], [call("look")], tmp_path / "runs.db")
    async with agent.run_stream("x") as stream:
        texts = [text async for text in stream.text()]
    assert (texts[-1], stream.result.output) == ("done", "done")
    agent = arrangement.build([function_tool(look)], [call("look")], None)
    async with agent.run_stream("x") as stream:
        assert [value async for value in stream.partial_output()][-1] == "done"
