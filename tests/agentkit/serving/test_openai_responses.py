"""OpenAI's responses of an agent, asked by OpenAI's own client, whose types check each event and each response."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from agentkit import Agent, ModelResponse
from agentkit.messages import ModelMessage, TextPart, ToolReturnPart, UserPromptPart, text_of
from agentkit.models.base import ModelRequestParameters
from agentkit.serving import ServiceLimits, app
from agentkit.testing import FunctionModel, call
from agentkit.tools.tool import Tool
from tests.agentkit.serving.served_agents import KEYS, Client, clerk, client_of, listening, said, served

pytestmark = pytest.mark.anyio

EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def whole(response: Any) -> Response:
    """Check a response by the types of the client."""
    Response.model_validate(response.to_dict())
    return response


async def read(stream: Any, first: int = 0) -> list[dict[str, Any]]:
    """Read a stream to its end; its events must be of the client's types, numbered, and add up to its response."""
    events: list[dict[str, Any]] = []
    async for event in stream:
        events.append(event.to_dict(mode="json"))
        assert type(EVENTS.validate_python(events[-1])) is type(event)
    assert [event["sequence_number"] for event in events] == list(range(first, first + len(events)))
    if first == 0:
        done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
        output = events[-1]["response"]["output"]
        assert sorted(done, key=lambda item: output.index(item)) == output
    return events


def kinds(events: Sequence[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


class Asked:
    """OpenAI's client of a served agent."""

    def __init__(self, client: openai.AsyncOpenAI, http: Client) -> None:
        self.responses, self.http = client.responses, http

    async def whole(self, given: Any, **options: Any) -> Response:
        return whole(await self.responses.create(model="agent", input=given, **options))

    async def stream(self, given: Any, **options: Any) -> list[dict[str, Any]]:
        return await read(await self.responses.create(model="agent", input=given, stream=True, **options))

    async def again(self, response_id: str, after: int | None = None) -> list[dict[str, Any]]:
        """Read the stream of a response once more, behind an event."""
        start: Any = {} if after is None else {"starting_after": after}
        stream: Any = await self.responses.retrieve(response_id, stream=True, **start)
        return await read(stream, 0 if after is None else after + 1)

    async def ended(self, response_id: str) -> Response:
        """Poll a response until it has ended."""
        while (response := whole(await self.responses.retrieve(response_id))).status in ("queued", "in_progress"):
            await anyio.sleep(0.02)
        return response


@asynccontextmanager
async def asking(agent: Agent[Any, Any], journal: Path) -> AsyncIterator[Asked]:
    async with served(agent, journal, key="ann") as client, asking_as(client, "ann") as asked:
        yield asked


@asynccontextmanager
async def asking_as(client: Client, name: str) -> AsyncIterator[Asked]:
    url = f"{str(client.http.base_url).rstrip('/')}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key=KEYS[name], max_retries=0) as made:
        yield Asked(made, client)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


def decision(response: Response, approve: bool, **changes: Any) -> list[Any]:
    """Return the answer to a response's only question."""
    (question,) = [item for item in response.output if item.type == "mcp_approval_request"]
    item = {"type": "mcp_approval_response", "approval_request_id": question.id, "approve": approve}
    return [{**item, **changes}]


# -- whole, streamed, in the background -----------------------------------------------------------------


async def test_a_whole_response_has_the_calls_and_the_answer(journal: Path) -> None:
    world: list[str] = []
    async with asking(clerk(world.append), journal) as asked:
        response = await asked.whole("a b", metadata={"team": "blue"})
        assert (response.status, response.output_text, world) == ("completed", "done: a b", ["a", "b"])
        calls = [item for item in response.output if item.type == "mcp_call"]
        assert [(item.name, item.output, item.status) for item in calls] == [
            ("file", "filed a", "completed"),
            ("file", "filed b", "completed"),
        ]
        assert response.metadata == {"team": "blue"} and response.usage is not None
        assert whole(await asked.responses.retrieve(response.id)) == response
        run_id = response.id.replace("resp_", "run_")
        assert (await asked.http.end(run_id))["output"] == "done: a b"


async def test_a_stream_tells_the_same(journal: Path) -> None:
    async with asking(clerk(), journal) as asked:
        events = await asked.stream("a")
        assert kinds(events) == [
            "created",
            "queued",
            "in_progress",
            "output_item.added",
            "mcp_call.in_progress",
            "mcp_call_arguments.delta",
            "mcp_call_arguments.done",
            "mcp_call.completed",
            "output_item.done",
            "output_item.added",
            "content_part.added",
            "output_text.delta",
            "output_text.done",
            "content_part.done",
            "output_item.done",
            "completed",
        ]
        last = events[-1]["response"]
        assert last == (await asked.ended(last["id"])).to_dict(mode="json")
        assert [event["delta"] for event in events if event["type"] == "response.output_text.delta"] == ["done: a"]


async def test_the_clients_own_reader_of_streams_follows(journal: Path) -> None:
    async with (
        asking(clerk(), journal) as asked,
        asked.responses.stream(model="agent", input="a shred") as stream,
    ):
        final = await stream.get_final_response()
        assert [item.type for item in final.output] == ["mcp_call", "mcp_approval_request"]


async def test_a_stream_is_read_on_from_each_event_also_at_another_server(journal: Path) -> None:
    agent = clerk()
    async with asking(agent, journal) as asked:
        events = await asked.stream("a shred")
        response_id = events[-1]["response"]["id"]
        assert await asked.again(response_id) == events
        for number in range(len(events)):
            assert await asked.again(response_id, number) == events[number + 1 :]
    async with asking(agent, journal) as asked:
        assert await asked.again(response_id) == events
        with pytest.raises(openai.BadRequestError, match="starting_after: '-3' is not"):
            await asked.again(response_id, -3)


async def test_a_stream_goes_on_at_the_next_server_with_the_same_numbers(journal: Path) -> None:
    words = "a b c d e f"
    agent = clerk(pause_s=0.05)
    seen: list[dict[str, Any]] = []
    async with asking(agent, journal) as asked:
        stream: Any = await asked.responses.create(model="agent", input=words, stream=True, background=True)
        async for event in stream:
            seen.append(event.to_dict(mode="json"))
            if len(seen) == 12:
                break
    async with asking(agent, journal) as asked:
        events = await asked.again(seen[0]["response"]["id"])
        assert events[:12] == seen and events[-1]["response"]["status"] == "completed"
        assert events[-1]["response"]["output"][-1]["content"][0]["text"] == f"done: {words}"


async def test_a_response_in_the_background_is_polled(journal: Path) -> None:
    async with asking(clerk(pause_s=0.02), journal) as asked:
        begun = await asked.whole("a b", background=True)
        assert begun.status in ("queued", "in_progress") and begun.background
        ended = await asked.ended(begun.id)
        assert (ended.status, ended.output_text, ended.background) == ("completed", "done: a b", True)


@pytest.mark.parametrize(("background", "end"), [(True, "completed"), (None, "failed")])
async def test_a_run_in_the_background_alone_outlives_its_stream(
    journal: Path, background: bool | None, end: str
) -> None:
    async with asking(clerk(pause_s=0.1), journal) as asked:
        stream: Any = await asked.responses.create(
            model="agent", input="a b c", stream=True, background=background
        )
        created = await anext(aiter(stream))
        await stream.close()
        ended = await asked.http.end(created.response.id.replace("resp_", "run_"))
        assert ended["status"] == end
        told = await asked.ended(created.response.id)
        assert told.status == ("completed" if background else "cancelled")


async def test_a_server_that_stops_cancels_nothing(journal: Path) -> None:
    agent = clerk(pause_s=0.1)
    made = app(agent, journal=journal, keys=KEYS, limits=ServiceLimits(drain_s=0.5))
    async with AsyncExitStack() as clients:
        async with listening(made) as url:
            client = await clients.enter_async_context(client_of(url, "ann"))
            asked = await clients.enter_async_context(asking_as(client, "ann"))
            stream: Any = await asked.responses.create(model="agent", input="a b c d e", stream=True)
            created = await anext(aiter(stream))
        async with asking(agent, journal) as asked:
            assert (await asked.ended(created.response.id)).output_text == "done: a b c d e"


async def test_the_run_of_a_whole_response_ends_with_its_connection(journal: Path) -> None:
    async with asking(clerk(), journal) as asked:
        with anyio.move_on_after(0.5):
            await asked.whole("wait")
        (run,) = (await asked.http.ask("GET", "/runs", 200))["runs"]
        assert (await asked.http.end(run["run_id"]))["error"]["type"] == "RunCancelled"


async def test_a_failed_run_is_a_failed_response(journal: Path) -> None:
    async with asking(clerk(), journal) as asked:
        failed = await asked.whole("a boom")
        assert failed.status == "failed" and failed.error is not None
        assert "the model burst" in failed.error.message
        events = await asked.stream("boom")
        assert events[-1]["type"] == "response.failed" and events[-1]["response"]["status"] == "failed"


async def test_a_repeated_key_is_answered_with_the_same_response(journal: Path) -> None:
    world: list[str] = []
    async with asking(clerk(world.append), journal) as asked:
        options: dict[str, Any] = {"extra_headers": {"Idempotency-Key": "k"}}
        first, again = await asked.whole("a", **options), await asked.whole("a", **options)
        assert first == again and world == ["a"]


# -- memory ---------------------------------------------------------------------------------------------


def recalling(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
    """Reply with all messages so far."""
    parts = [part for message in messages for part in message.parts]
    texts = [text_of(part.content) for part in parts if isinstance(part, UserPromptPart | TextPart)]
    return ModelResponse((TextPart("<" + "|".join(texts) + ">"),))


async def test_a_response_is_continued_more_than_once(journal: Path) -> None:
    async with asking(Agent(FunctionModel(recalling)), journal) as asked:
        first = await asked.whole("one")
        second = await asked.whole("two", previous_response_id=first.id)
        assert second.output_text == "<one|<one>|two>" and second.previous_response_id == first.id
        third = await asked.whole("three", previous_response_id=second.id)
        assert third.output_text == "<one|<one>|two|<one|<one>|two>|three>"
        other = await asked.whole("2", previous_response_id=first.id)
        assert other.output_text == "<one|<one>|2>"


async def test_messages_are_read_with_their_parts(journal: Path) -> None:
    async with asking(Agent(FunctionModel(recalling)), journal) as asked:
        first = await asked.whole("one")
        items: list[Any] = [
            {"role": "user", "content": "one"},
            *(item.to_dict() for item in first.output),
            {"role": "user", "content": [{"type": "input_text", "text": "two"}]},
            {"type": "message", "role": "user", "content": "three"},
        ]
        assert (await asked.whole(items)).output_text == "<one|<one>|two\n\nthree>"


async def test_a_conversation_is_a_session(journal: Path) -> None:
    async with asking(Agent(FunctionModel(recalling)), journal) as asked:
        first = await asked.whole("one", conversation="talk")
        assert first.conversation is not None and first.conversation.id == "talk"
        second = await asked.whole("two", conversation={"id": "talk"})
        assert second.output_text == "<one|<one>|two>"
        stored = await asked.http.ask("GET", "/sessions/talk", 200)
        assert len(stored["messages"]) == 4
        history: list[Any] = [{"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}]
        with pytest.raises(openai.BadRequestError, match="input: the conversation is stored"):
            await asked.whole(history, conversation="talk")
        with pytest.raises(openai.BadRequestError, match="conversation: it names the earlier messages"):
            await asked.whole("y", conversation="talk", previous_response_id=first.id)
        aside = await asked.whole("aside", previous_response_id=second.id)  # not part of the conversation
        assert aside.output_text.endswith("|aside>") and aside.conversation is None
        assert await asked.http.ask("GET", "/sessions/talk", 200) == stored


# -- calls that wait ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("approve", "effects"), [(True, ["a", "shred"]), (False, ["a"])])
async def test_an_approval_is_decided_by_the_next_request(
    journal: Path, approve: bool, effects: list[str]
) -> None:
    world: list[str] = []
    async with asking(clerk(world.append), journal) as asked:
        asks = await asked.whole("a shred")
        (view,) = (await asked.http.end(asks.id.replace("resp_", "run_")))["pending"]
        assert asks.status == "completed" and world == ["a"]
        request = asks.output[-1]
        assert request.type == "mcp_approval_request" and request.id == view["digest"]
        assert (request.name, request.arguments) == ("shred", '{"word":"shred"}')
        events = await asked.stream(decision(asks, approve, reason="no"), previous_response_id=asks.id)
        ended = await asked.ended(events[-1]["response"]["id"])
        assert (ended.output_text, ended.previous_response_id, world) == ("done: a shred", asks.id, effects)
        calls = [item for item in ended.output if item.type == "mcp_call"]
        assert [item.approval_request_id for item in calls] == ([request.id] if approve else [])
        assert await asked.again(ended.id) == events
        assert await asked.ended(asks.id) == asks  # what was asked stays as it was told
        next_one = await asked.whole("b", previous_response_id=ended.id)
        assert next_one.output_text == "done: b"


async def test_a_stale_approval_is_refused(journal: Path) -> None:
    world: list[str] = []
    async with asking(clerk(world.append), journal) as asked:
        asks = await asked.whole("shred1 shred2")
        for wrong, told in [
            (decision(asks, True, approval_request_id="0" * 64), "input.0.approval_request_id"),
            ([{"type": "function_call_output", "call_id": "call_1", "output": "x"}], "input.0.call_id"),
        ]:
            with pytest.raises(openai.ConflictError, match=told) as refused:
                await asked.whole(wrong, previous_response_id=asks.id)
            assert (refused.value.code, refused.value.param) == ("stale_decision", told)
        again = await asked.whole(decision(asks, True), previous_response_id=asks.id)
        assert world == ["shred1"]
        with pytest.raises(openai.ConflictError, match=f"was continued by '{again.id}'"):
            await asked.whole(decision(asks, True), previous_response_id=asks.id)
        with pytest.raises(openai.ConflictError, match="does not wait for such an answer"):
            await asked.whole(decision(asks, True), previous_response_id=again.id)
        ended = await asked.whole(decision(again, True), previous_response_id=again.id)
        assert ended.output_text == "done: shred1 shred2" and world == ["shred1", "shred2"]
        with pytest.raises(openai.ConflictError, match="waits for no answer"):
            await asked.whole(decision(again, True), previous_response_id=ended.id)


async def test_answers_are_needed_and_come_alone(journal: Path) -> None:
    async with asking(clerk(), journal) as asked:
        asks = await asked.whole("shred", conversation="talk")
        with pytest.raises(openai.ConflictError, match="waits for answers"):
            await asked.whole("b", previous_response_id=asks.id)
        with pytest.raises(openai.ConflictError, match="has a run that has not ended"):
            await asked.whole("b", conversation="talk")
        words = {"role": "user", "content": "b"}
        with pytest.raises(openai.BadRequestError, match="input: answers to waiting calls come alone"):
            await asked.whole([*decision(asks, True), words], previous_response_id=asks.id)
        with pytest.raises(openai.BadRequestError, match="previous_response_id: answers need the response"):
            await asked.whole(decision(asks, True))
        with pytest.raises(openai.BadRequestError, match="metadata: a run keeps"):
            await asked.whole(decision(asks, True), previous_response_id=asks.id, metadata={"a": "b"})
        ended = await asked.whole(decision(asks, True), conversation="talk")
        assert ended.output_text == "done: shred"


def editing(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
    """Call two tools that run elsewhere, and reply with their results."""
    results = [part.content for part in messages[-1].parts if isinstance(part, ToolReturnPart)]
    if not results:
        return ModelResponse((TextPart("I edit."), call("edit", file="x"), call("edit", file="y")))
    return ModelResponse((TextPart(f"{said(messages)}: {results}"),))


async def test_an_external_call_is_answered_by_its_output(journal: Path) -> None:
    schema = {"properties": {"file": {"type": "string"}}, "required": ["file"]}
    agent = Agent(FunctionModel(editing), tools=[Tool.external("edit", "Edit a file.", schema)])
    async with asking(agent, journal) as asked:
        asks = await asked.whole("go")
        x, y = [item for item in asks.output if item.type == "function_call"]
        assert (asks.output_text, x.name, x.arguments) == ("I edit.", "edit", '{"file":"x"}')
        answers: list[Any] = [
            {"type": "function_call_output", "call_id": each.call_id, "output": text}
            for each, text in [(x, "1"), (y, [{"type": "input_text", "text": "2"}])]
        ]
        with pytest.raises(openai.BadRequestError, match=f"not answered: {y.call_id}"):
            await asked.whole(answers[:1], previous_response_id=asks.id)
        events = await asked.stream(answers, previous_response_id=asks.id)
        assert events[-1]["response"]["output"][0]["content"][0]["text"] == "go: ['1', '2']"


# -- cancelled, deleted, refused ------------------------------------------------------------------------


async def test_a_response_is_cancelled_once(journal: Path) -> None:
    async with asking(clerk(), journal) as asked:
        begun = await asked.whole("wait", background=True)
        cancelled = whole(await asked.responses.cancel(begun.id))
        assert cancelled.status == "cancelled"
        assert whole(await asked.responses.cancel(begun.id)) == cancelled
        events = await asked.again(begun.id)
        assert (events[-1]["type"], events[-1]["response"]["status"]) == ("response.failed", "cancelled")
        ended = await asked.whole("a")
        with pytest.raises(openai.ConflictError, match="has ended"):
            await asked.responses.cancel(ended.id)
        after = await asked.whole("b", previous_response_id=begun.id)
        assert after.output_text == "done: b"


async def test_a_waiting_run_is_cancelled_by_the_response_that_asked_last(journal: Path) -> None:
    async with asking(clerk(), journal) as asked:
        asks = await asked.whole("shred1 shred2")
        events = await asked.again(asks.id)
        again = await asked.whole(decision(asks, False), previous_response_id=asks.id)
        with pytest.raises(openai.ConflictError, match="cancel that one"):
            await asked.responses.cancel(asks.id)
        assert whole(await asked.responses.cancel(again.id)).status == "cancelled"
        assert await asked.again(asks.id) == events
        with pytest.raises(openai.ConflictError, match="waits for no answer"):
            await asked.whole(decision(again, True), previous_response_id=again.id)


async def test_a_deleted_response_is_gone(journal: Path) -> None:
    async with asking(clerk(), journal) as asked:
        asks = await asked.whole("shred")
        ended = await asked.whole(decision(asks, True), previous_response_id=asks.id)
        running = await asked.whole("wait", background=True)
        with pytest.raises(openai.ConflictError, match="is going on"):
            await asked.responses.delete(running.id)
        await asked.responses.delete(ended.id)
        for each in (asks, ended):
            with pytest.raises(openai.NotFoundError, match=f"no response '{each.id}'"):
                await asked.responses.retrieve(each.id)


async def test_a_response_of_another_client_does_not_exist(journal: Path) -> None:
    async with (
        served(clerk(), journal, key="ann") as client,
        asking_as(client, "ann") as ann,
        asking_as(client, "bob") as bob,
    ):
        asks = await ann.whole("shred")
        for asked in (bob.responses.retrieve, bob.again, bob.responses.cancel, bob.responses.delete):
            with pytest.raises(openai.NotFoundError, match=f"no response '{asks.id}'"):
                await asked(asks.id)
        for given in ("b", decision(asks, True)):
            with pytest.raises(openai.BadRequestError, match="no response") as refused:
                await bob.whole(given, previous_response_id=asks.id)
            assert refused.value.code == "previous_response_not_found"
        assert await ann.ended(asks.id) == asks


IMAGE = {"role": "user", "content": [{"type": "input_image", "image_url": "https://example.com/cat.png"}]}


@pytest.mark.parametrize(
    ("given", "options", "param"),
    [
        ("a", {"model": "gpt"}, "model"),
        ("a", {"instructions": "Be brief."}, "instructions"),
        ("a", {"temperature": 0.5}, "temperature"),
        ("a", {"tools": [{"type": "function", "name": "f", "parameters": {}}]}, "tools"),
        ("a", {"store": False}, "store"),
        ("a", {"metadata": {"k" * 65: "v"}}, "metadata"),
        ("a", {"previous_response_id": "resp_0123"}, "previous_response_id"),
        ("a", {"previous_response_id": "chatcmpl-1"}, "previous_response_id"),
        ("a", {"previous_response_id": "resp_1", "conversation": "talk"}, "conversation"),
        ("", {}, "input"),
        ([], {}, "input"),
        ([{"role": "assistant", "content": "a"}], {}, "input"),
        ([{"role": "developer", "content": "a"}, {"role": "user", "content": "a"}], {}, "input.0.role"),
        ([IMAGE], {}, "input"),
        ([{"type": "item_reference", "id": "msg_1"}], {}, "input.0.type"),
    ],
)
async def test_a_field_without_effect_is_refused_by_name(
    journal: Path, given: Any, options: dict[str, Any], param: str
) -> None:
    async with asking(clerk(), journal) as asked:
        with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as refused:
            await asked.responses.create(**{"model": "agent", "input": given, **options})
        assert refused.value.param is not None and refused.value.param.startswith(param)
        assert refused.value.type == "invalid_request_error" and param in refused.value.message
        assert (await asked.http.ask("GET", "/runs", 200))["runs"] == []
