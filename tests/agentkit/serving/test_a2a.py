"""A2A: the Agent2Agent protocol, asked by the SDK's own client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from a2a.client import ClientConfig, create_client
from a2a.types import a2a_pb2 as pb
from a2a.utils.errors import A2AError
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.struct_pb2 import Value

from agentkit import Agent
from agentkit.messages import ModelResponse, TextPart
from agentkit.testing import FunctionModel
from tests.agentkit.serving.served_agents import KEYS, Client, clerk, served

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def a2a_client(client: Client, key: str | None = None, *, streaming: bool = True) -> AsyncIterator[Any]:
    headers = {} if key is None else {"Authorization": f"Bearer {KEYS[key]}"}
    async with httpx.AsyncClient(headers=headers, timeout=30) as http:
        config = ClientConfig(streaming=streaming, httpx_client=http)
        yield await create_client(str(client.http.base_url), config)


def said(text: str, message_id: str = "m1", *, context_id: str = "", task_id: str = "") -> pb.SendMessageRequest:
    parts = [pb.Part(text=text)]
    message = pb.Message(
        message_id=message_id, role=pb.ROLE_USER, parts=parts, context_id=context_id, task_id=task_id
    )
    return pb.SendMessageRequest(message=message)


def decided(task: pb.Task, *decisions: dict[str, Any]) -> pb.SendMessageRequest:
    part = pb.Part(data=ParseDict({"decisions": list(decisions)}, Value()))
    message = pb.Message(message_id="m2", task_id=task.id, role=pb.ROLE_USER, parts=[part])
    return pb.SendMessageRequest(message=message)


async def told(client: Any, request: pb.SendMessageRequest) -> list[Any]:
    """Return the updates that the client gives, each as the one that is set."""
    return [getattr(each, each.WhichOneof("payload")) async for each in client.send_message(request)]


def text_of(updates: Sequence[Any]) -> str:
    """Return the artifact's text as a client shows it."""
    text = ""
    for update in updates:
        if isinstance(update, pb.TaskArtifactUpdateEvent):
            piece = update.artifact.parts[0].text
            text = text + piece if update.append else piece
    return text


async def test_the_sdks_client_follows_a_task(tmp_path: Path) -> None:
    async with served(clerk(), tmp_path / "runs.db", key="ann") as client, a2a_client(client, "ann") as asked:
        updates = await told(asked, said("a b", context_id="talk"))
        states = [each.status.state for each in updates if isinstance(each, pb.Task | pb.TaskStatusUpdateEvent)]
        assert states == [pb.TASK_STATE_SUBMITTED, pb.TASK_STATE_WORKING, pb.TASK_STATE_COMPLETED]
        assert text_of(updates) == "done: a b" and updates[0].context_id == "talk"
        task = await asked.get_task(pb.GetTaskRequest(id=updates[0].id))
        assert (task.status.state, task.artifacts[0].parts[0].text) == (pb.TASK_STATE_COMPLETED, "done: a b")
        again = await told(asked, said("a b", context_id="talk"))
        assert again[0].id == task.id  # the same message begins nothing
        await told(asked, said("c", "m3", context_id="talk"))
        listed = await asked.list_tasks(pb.ListTasksRequest(context_id="talk"))
        assert len(listed.tasks) == 2
        assert len((await client.ask("GET", "/sessions/talk", 200))["messages"]) == 10


async def test_the_card_says_where_and_how(tmp_path: Path) -> None:
    async with served(clerk(), tmp_path / "runs.db", key="ann") as client:
        headers = {"Authorization": ""}
        card = await client.ask("GET", "/.well-known/agent-card.json", 200, headers=headers)
        assert card["name"] == "clerk" and card["capabilities"]["streaming"] is True
        assert card["supportedInterfaces"][0]["url"] == f"{str(client.http.base_url).rstrip('/')}/a2a"
        await client.ask("POST", "/a2a", 401, json={}, headers=headers)


@pytest.mark.parametrize(("decision", "effects"), [("approve", ["shred"]), ("deny", [])])
async def test_a_task_that_waits_is_answered(tmp_path: Path, decision: str, effects: list[str]) -> None:
    world: list[str] = []
    async with served(clerk(world.append), tmp_path / "runs.db") as client, a2a_client(client) as asked:
        updates = await told(asked, said("shred"))
        assert updates[-1].status.state == pb.TASK_STATE_INPUT_REQUIRED
        question, data = updates[-1].status.message.parts
        assert question.text.startswith("shred {") and not world
        (pending,) = MessageToDict(data.data)["pending"]
        with pytest.raises(A2AError, match="no decisions: decisions"):
            await told(asked, decided(updates[0], {"decision": "maybe"}))
        answer = {"decision": decision, "tool_call_id": pending["tool_call_id"]}
        if decision == "approve":
            answer["digest"] = pending["digest"]
        rest = await told(asked, decided(updates[0], answer))
        assert rest[-1].status.state == pb.TASK_STATE_COMPLETED and text_of(rest) == "done: shred"
        assert world == effects


async def test_a_client_that_does_not_stream_waits_for_the_task(tmp_path: Path) -> None:
    async with served(clerk(), tmp_path / "runs.db") as client, a2a_client(client, streaming=False) as asked:
        (task,) = await told(asked, said("a"))
        assert (task.status.state, task.artifacts[0].parts[0].text) == (pb.TASK_STATE_COMPLETED, "done: a")
        (failed,) = await told(asked, said("boom", "m2"))
        assert failed.status.state == pb.TASK_STATE_FAILED
        assert "the model burst" in failed.status.message.parts[0].text


async def test_a_task_is_cancelled_and_read_from_another_server(tmp_path: Path) -> None:
    async with served(clerk(), tmp_path / "runs.db") as client, a2a_client(client, streaming=False) as asked:
        request = said("wait")
        request.configuration.return_immediately = True
        (task,) = await told(asked, request)
        assert task.status.state in (pb.TASK_STATE_WORKING, pb.TASK_STATE_SUBMITTED)
        cancelled = await asked.cancel_task(pb.CancelTaskRequest(id=task.id))
        assert cancelled.status.state == pb.TASK_STATE_CANCELED
        with pytest.raises(A2AError, match="has ended"):
            await asked.cancel_task(pb.CancelTaskRequest(id=task.id))
    async with served(clerk(), tmp_path / "runs.db") as client, a2a_client(client) as asked:
        updates = [each async for each in asked.subscribe(pb.SubscribeToTaskRequest(id=task.id))]
        assert updates[-1].status_update.status.state == pb.TASK_STATE_CANCELED


async def test_an_output_of_a_type_is_data(tmp_path: Path) -> None:
    model = FunctionModel(lambda messages, parameters: ModelResponse((TextPart('{"a": 1}'),)))
    agent = Agent(model, output_type=dict[str, int])
    async with served(agent, tmp_path / "runs.db") as client, a2a_client(client, streaming=False) as asked:
        (task,) = await told(asked, said("Go."))
        assert MessageToDict(task.artifacts[0].parts[0].data) == {"a": 1}


async def test_what_cannot_be_done_is_an_error_of_the_protocol(tmp_path: Path) -> None:
    async with served(clerk(), tmp_path / "runs.db") as client, a2a_client(client, streaming=False) as asked:
        picture = pb.Message(message_id="m", role=pb.ROLE_USER, parts=[pb.Part(raw=b"x", media_type="image/png")])
        with pytest.raises(A2AError, match="its bytes are of another kind"):
            await told(asked, pb.SendMessageRequest(message=picture))
        with pytest.raises(A2AError, match="there is no run 'run_0'"):
            await asked.get_task(pb.GetTaskRequest(id="run_0"))
        (task,) = await told(asked, said("shred"))
        with pytest.raises(A2AError, match="needs a data part"):
            await told(asked, said("yes", "m2", task_id=task.id))
