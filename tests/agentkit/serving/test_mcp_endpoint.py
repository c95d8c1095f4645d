"""The agent as an MCP server, asked by the MCP SDK's own client and by an agent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp import Client as MCPClient
from mcp.client.streamable_http import streamable_http_client
from mcp.types import ElicitResult

from agentkit import Agent, MCPToolset
from agentkit.messages import ModelResponse, TextPart
from agentkit.testing import FunctionModel, call
from tests.agentkit.serving.served_agents import KEYS, Client, clerk, served

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def mcp_client(client: Client, key: str | None = None, **options: Any) -> AsyncIterator[MCPClient]:
    headers = {} if key is None else {"Authorization": f"Bearer {KEYS[key]}"}
    url = f"{str(client.http.base_url).rstrip('/')}/mcp/"
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30) as http,
        MCPClient(streamable_http_client(url, http_client=http), **options) as asked,
    ):
        yield asked


async def test_the_sdks_client_gives_the_agent_a_task(tmp_path: Path) -> None:
    heard: list[str | None] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        heard.append(message)

    async with served(clerk(), tmp_path / "runs.db", key="ann") as client, mcp_client(client, "ann") as asked:
        (tool,) = (await asked.list_tools()).tools
        assert tool.name == "ask" and set(tool.input_schema["properties"]) == {"task", "session"}
        found = await asked.call_tool("ask", {"task": "a b", "session": "talk"}, progress_callback=on_progress)
        assert not found.is_error and found.structured_content is not None
        assert (found.structured_content["status"], found.structured_content["answer"]) == (
            "completed",
            "done: a b",
        )
        assert heard == ["calls file", "calls file"]
        assert len((await client.ask("GET", "/sessions/talk", 200))["messages"]) == 6
        failed = await asked.call_tool("ask", {"task": "boom"})
        assert failed.is_error and "the model burst" in str(failed.content)


@pytest.mark.parametrize(
    ("action", "approve", "effects"), [("accept", True, 1), ("accept", False, 0), ("decline", None, 0)]
)
async def test_an_approval_is_a_question_to_the_person_at_the_client(
    tmp_path: Path, action: Any, approve: bool | None, effects: int
) -> None:
    world: list[str] = []
    questions: list[str] = []

    async def answer(context: Any, asked: Any) -> ElicitResult:
        questions.append(asked.message)
        return ElicitResult(action=action, content=None if approve is None else {"approve": approve})

    async with (
        served(clerk(world.append), tmp_path / "runs.db") as client,
        mcp_client(client, elicitation_callback=answer, mode="legacy") as asked,
    ):
        found = await asked.call_tool("ask", {"task": "shred"})
        assert found.structured_content is not None and found.structured_content["answer"] == "done: shred"
        assert len(questions) == 1 and "May shred run with" in questions[0] and len(world) == effects


async def test_a_client_without_questions_is_told_where_a_person_decides(tmp_path: Path) -> None:
    world: list[str] = []
    async with served(clerk(world.append), tmp_path / "runs.db") as client, mcp_client(client) as asked:
        found = await asked.call_tool("ask", {"task": "shred"})
        content: Any = found.structured_content
        assert content["status"] == "needs_approval" and not world
        assert f"/runs/{content['run_id']}/decisions" in content["answer"]


async def test_the_run_of_a_call_that_is_cancelled_is_cancelled(tmp_path: Path) -> None:
    async with served(clerk(), tmp_path / "runs.db") as client, mcp_client(client) as asked:
        with anyio.move_on_after(0.5):
            await asked.call_tool("ask", {"task": "wait"})
        (run,) = (await client.ask("GET", "/runs", 200))["runs"]
        assert (await client.end(run["run_id"]))["error"]["type"] == "RunCancelled"


async def test_an_agent_asks_another_one(tmp_path: Path) -> None:
    def decide(messages: Any, parameters: Any) -> ModelResponse:
        has_asked = any(isinstance(message, ModelResponse) for message in messages)
        return ModelResponse((TextPart("asked"),) if has_asked else (call("ask", task="a"),))

    world: list[str] = []
    async with served(clerk(world.append), tmp_path / "runs.db", key="ann") as client:
        url = f"{str(client.http.base_url).rstrip('/')}/mcp/"
        toolset = MCPToolset.http(url, headers={"Authorization": f"Bearer {KEYS['ann']}"}, assume_harmless=True)
        result = await Agent(FunctionModel(decide), toolsets=[toolset]).run("Ask.")
        assert (result.output, world) == ("asked", ["a"])


async def test_access_is_checked_before_the_server_is_asked(tmp_path: Path) -> None:
    async with served(clerk(), tmp_path / "runs.db", key="ann") as client:
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        wrong = {"Authorization": "Bearer wrong"}
        assert (await client.ask("POST", "/mcp/", 401, json=body, headers=wrong))["error"][
            "code"
        ] == "unauthorized"
        page = {"Origin": "https://evil.example"}
        assert (await client.ask("POST", "/mcp/", 403, json=body, headers=page))["error"]["code"] == "forbidden"
