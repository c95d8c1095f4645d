"""OpenAI's chat completions: an agent as a model, asked by OpenAI's own client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from agentkit.events import ModelRequestEvent, RunResumedEvent, TextDeltaEvent
from agentkit.serving.openai_chat import _Stream  # pyright: ignore[reportPrivateUsage]
from tests.agentkit.serving.served_agents import KEYS, Client, clerk, served

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def openai_client(client: Client) -> AsyncIterator[openai.AsyncOpenAI]:
    url = f"{str(client.http.base_url).rstrip('/')}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key=KEYS["ann"], max_retries=0) as asked:
        yield asked


def said(*texts: str) -> list[ChatCompletionMessageParam]:
    """Return messages of the user and the assistant in turn."""
    messages: list[ChatCompletionMessageParam] = []
    for n, text in enumerate(texts):
        messages.append({"role": "assistant", "content": text} if n % 2 else {"role": "user", "content": text})
    return messages


async def test_openais_client_asks_an_agent(tmp_path: Path) -> None:
    world: list[str] = []
    agent = clerk(world.append)
    async with served(agent, tmp_path / "runs.db", key="ann") as client, openai_client(client) as asked:
        assert [model.id async for model in asked.models.list()] == ["agent"]
        reply = await asked.chat.completions.create(model="agent", messages=said("a b"))
        assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == ("done: a b", "stop")
        assert reply.usage is not None and reply.usage.total_tokens >= 0 and world == ["a", "b"]
        again = await asked.chat.completions.create(model="agent", messages=said("a b", "done: a b", "c"))
        assert again.choices[0].message.content == "done: c" and world == ["a", "b", "c"]
        stored = await client.end(again.id)
        assert stored["status"] == "completed"


async def test_a_stream_has_the_same_text(tmp_path: Path) -> None:
    async with served(clerk(), tmp_path / "runs.db", key="ann") as client, openai_client(client) as asked:
        stream = await asked.chat.completions.create(
            model="agent", messages=said("a b"), stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == "done: a b" and chunks[0].choices[0].delta.role == "assistant"
        assert chunks[-2].choices[0].finish_reason == "stop" and chunks[-1].usage is not None
        assert len({chunk.id for chunk in chunks}) == 1


async def test_what_the_protocol_has_no_form_for_is_an_error(tmp_path: Path) -> None:
    async with served(clerk(), tmp_path / "runs.db", key="ann") as client, openai_client(client) as asked:
        create = asked.chat.completions.create
        with pytest.raises(openai.ConflictError, match="waits for a decision: decide at /runs/run_"):
            await create(model="agent", messages=said("shred"))
        with pytest.raises(openai.InternalServerError, match="the model burst"):
            await create(model="agent", messages=said("boom"))
        with pytest.raises(openai.APIError, match="waits for a decision"):
            async for _ in await create(model="agent", messages=said("shred"), stream=True):
                pass
        with pytest.raises(openai.NotFoundError, match="known: 'agent'"):
            await create(model="gpt", messages=said("a"))
        with pytest.raises(openai.BadRequestError, match="'temperature' is not known"):
            await create(model="agent", messages=said("a"), temperature=0.5)
        with pytest.raises(openai.UnprocessableEntityError, match="must be the user's"):
            await create(model="agent", messages=said("a", "b"))
        with pytest.raises(openai.BadRequestError, match="role"):
            await create(model="agent", messages=[{"role": "system", "content": "x"}, *said("a")])


@pytest.mark.parametrize("stream", [False, True])
async def test_the_run_of_a_client_that_leaves_is_cancelled(tmp_path: Path, stream: bool) -> None:
    async with served(clerk(), tmp_path / "runs.db", key="ann") as client, openai_client(client) as asked:
        with anyio.move_on_after(0.5):
            if stream:
                async for _ in await asked.chat.completions.create(
                    model="agent", messages=said("wait"), stream=True
                ):
                    pass
            await asked.chat.completions.create(model="agent", messages=said("wait"))
        (run,) = (await client.ask("GET", "/runs", 200))["runs"]
        assert (await client.end(run["run_id"]))["error"]["type"] == "RunCancelled"


@pytest.mark.parametrize(
    ("again", "told"),
    [(["Hello", "!"], ["Hel", "lo", "!"]), (["Hi"], ["Hel", "restarted"]), (["H", "e"], ["Hel"])],
)
def test_text_that_is_written_again_after_a_kill_is_told_once(again: list[str], told: list[str]) -> None:
    stream = _Stream({}, with_usage=False)
    request, resumed = ModelRequestEvent(1, (), ()), RunResumedEvent("run_1", None, "m", (), 0)
    events = [request, TextDeltaEvent("Hel"), resumed, request, *map(TextDeltaEvent, again)]
    chunks: list[Any] = [chunk for event in events for chunk in stream.told(event)]
    found = [
        chunk["error"]["code"] if "error" in chunk else chunk["choices"][0]["delta"]["content"] for chunk in chunks
    ]
    assert [each for each in found if each] == told
