"""Agents that tests serve, and a client of their routes."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import uvicorn

from agentkit import Agent, ModelResponse, tool
from agentkit.messages import ModelMessage, ModelRequest, TextPart, ToolReturnPart, UserPromptPart
from agentkit.models.base import Model, ModelRequestParameters
from agentkit.serving import ServiceLimits, app
from agentkit.testing import FunctionModel, call
from agentkit.tracing.telemetry import Telemetry
from mcp_servers.uvicorn_settings import uvicorn_settings

KEYS = {"ann": "a" * 20, "bob": "b" * 20}


def said(messages: Sequence[ModelMessage]) -> str:
    """Return the user's last words."""
    prompts = [
        part.text
        for message in messages
        if isinstance(message, ModelRequest)
        for part in message.parts
        if isinstance(part, UserPromptPart)
    ]
    return prompts[-1]


def clerks_reply(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
    """Return one call for each word of the prompt in turn, then an answer."""
    words = said(messages).split()
    since = [n for n, m in enumerate(messages) if any(isinstance(part, UserPromptPart) for part in m.parts)][-1]
    results = [part for m in messages[since:] for part in m.parts if isinstance(part, ToolReturnPart)]
    if len(results) == len(words):
        return ModelResponse((TextPart(f"done: {' '.join(words)}"),))
    word = words[len(results)]
    if word == "boom":
        raise RuntimeError("the model burst")
    name = "shred" if word.startswith("shred") else "wait" if word == "wait" else "file"
    return ModelResponse((call(name, word=word),))


def clerk(
    note: Callable[[str], None] = lambda word: None,
    model: Model | None = None,
    pause_s: float = 0,
    telemetry: Telemetry | None = None,
) -> Agent[None, str]:
    """Return an agent that files what it is told to, one call a word, and asks before it shreds.

    Args:
        note: Called with the word of each call: its effect.
        model: The model; None: `clerks_reply`.
        pause_s: Seconds before and after an effect.
        telemetry: Reports runs and requests.
    """

    async def noted(word: str) -> str:
        await anyio.sleep(pause_s)
        note(word)
        await anyio.sleep(pause_s)
        return f"filed {word}"

    async def file(word: str) -> str:
        """File a word."""
        return await noted(word)

    @tool(requires_approval=True)
    async def shred(word: str) -> str:
        """Shred a word."""
        return await noted(word)

    async def wait(word: str) -> str:
        """Wait for ever."""
        note(word)
        await anyio.sleep_forever()
        return "never"

    tools: list[Any] = [file, shred, wait]
    model = model or FunctionModel(clerks_reply)
    return Agent(model, tools=tools, name="clerk", tool_timeout_s=5, telemetry=telemetry)


class Client:
    """A client of a served agent."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        """Ask by `http`."""
        self.http = http

    async def ask(self, method: str, path: str, status: int, **options: Any) -> Any:
        """Return the body of a response with an expected status."""
        response = await self.http.request(method, path, **options)
        assert response.status_code == status, f"{response.status_code}: {response.text}"
        return response.json() if response.content else None

    async def run(self, prompt: Any, **body: Any) -> str:
        """Begin a run; return its id."""
        return (await self.ask("POST", "/runs", 201, json={"prompt": prompt, **body}))["run_id"]

    async def end(self, run_id: str) -> Any:
        """Return a run once it does not go on."""
        return await self.ask("GET", f"/runs/{run_id}?wait=20", 200)

    async def events(self, run_id: str, after: int = 0, most: int | None = None) -> list[dict[str, Any]]:
        """Read a stream of events to its end, or to the `most`th."""
        found: list[dict[str, Any]] = []
        headers = {"Last-Event-ID": str(after)}
        async with self.http.stream("GET", f"/runs/{run_id}/events", headers=headers) as response:
            if response.status_code == 204:
                return found
            assert response.status_code == 200, (await response.aread()).decode()
            async for line in response.aiter_lines():
                if line.startswith("data: "):
                    found.append(json.loads(line.removeprefix("data: ")))
                    if len(found) == most:
                        break
        return found


async def one_run_of_a_session_stays(one: Client, other: Client) -> None:
    """Begin runs in a session at once at two services with one journal; each that is accepted is in it whole."""
    for n in range(5):
        body = {"prompt": "a", "session": f"talk {n}"}
        asked = [client.http.post("/runs", json=body) for client in (one, other, one, other)]
        responses = await asyncio.gather(*asked)
        begun = [response.json()["run_id"] for response in responses if response.status_code == 201]
        refused = [response.json()["error"]["code"] for response in responses if response.status_code != 201]
        assert begun and set(refused) <= {"session_busy"}
        for run_id in begun:
            assert (await one.end(run_id))["status"] == "completed"
        messages = (await one.ask("GET", f"/sessions/talk {n}", 200))["messages"]
        assert len(messages) == 4 * len(begun)


def kinds(events: Sequence[dict[str, Any]]) -> list[str]:
    """Return the kinds of events, without pieces of replies, whose number depends on the clock."""
    return [event["event_kind"] for event in events if not event["event_kind"].endswith("_delta")]


@asynccontextmanager
async def served(
    agent: Agent[Any, Any],
    journal: Path | Any,
    *,
    key: str | None = None,
    limits: ServiceLimits | None = None,
    **options: Any,
) -> AsyncIterator[Client]:
    """Serve an agent on a port of this machine, and yield a client with the key of a name."""
    keys = None if key is None else KEYS
    limits = limits or ServiceLimits(drain_s=0.5)
    made = app(agent, journal=journal, keys=keys, limits=limits, **options)
    async with listening(made) as url, client_of(url, key) as client:
        yield client


@asynccontextmanager
async def listening(served: Any, port: int = 0) -> AsyncIterator[str]:
    """Yield the address of an application that a server of its own runs; port 0 is any free one."""
    settings = uvicorn_settings(log_level="error")
    server = uvicorn.Server(uvicorn.Config(served, timeout_graceful_shutdown=2, **settings))
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        serving = asyncio.create_task(server.serve([listener]))
        while not server.started:
            await anyio.sleep(0.005)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


@asynccontextmanager
async def client_of(url: str, key: str | None = None) -> AsyncIterator[Client]:
    """Yield a client of a service with the key of a name."""
    headers = {} if key is None else {"Authorization": f"Bearer {KEYS[key]}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as http:
        yield Client(http)
