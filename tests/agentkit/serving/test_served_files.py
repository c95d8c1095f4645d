"""Files that clients of a served agent send, and that its tools return."""

from __future__ import annotations

from base64 import b64encode, urlsafe_b64encode
from collections.abc import Awaitable, Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import anyio
import httpx
import openai
import pytest
from a2a.client import ClientConfig, create_client
from a2a.types import a2a_pb2 as pb

from agentkit import Agent, BinaryContent, ModelResponse, TextPart
from agentkit.files import files_of
from agentkit.messages import ModelMessage, ModelRequest
from agentkit.models.base import ModelRequestParameters
from agentkit.serving import ServiceLimits
from agentkit.testing import FunctionModel, call
from tests.agentkit.pictures import PDF, picture
from tests.agentkit.serving.served_agents import Client, client_of, served

pytestmark = pytest.mark.anyio
RED, BLUE = BinaryContent(picture(colour="red"), "image/png"), BinaryContent(picture(colour="blue"), "image/png")


def as_json(file: BinaryContent) -> dict[str, str]:
    """Return a file as a client sends it."""
    data = urlsafe_b64encode(file.data).decode()
    return {"kind": "binary", "data": data, "media_type": file.media_type}


def painter() -> Agent[None, str]:
    """Return an agent that draws once, and then says which files it has seen."""

    def draw() -> list[str | BinaryContent]:
        """Draw something."""
        return ["drawn", BLUE]

    async def block() -> None:
        """Wait for ever."""
        await anyio.sleep_forever()

    def reply(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
        parts = [part for message in messages if isinstance(message, ModelRequest) for part in message.parts]
        seen = [file.reference.sha256 for part in parts for file in files_of(part.content)]
        if messages[-1].parts[0].part_kind == "user-prompt":
            if parts[-1].text == "block":
                return ModelResponse((call("block"),))
            return ModelResponse((call("draw"),))
        return ModelResponse((TextPart(" ".join(seen)),))

    return Agent(FunctionModel(reply), tools=[draw, block], name="painter")


async def test_a_file_of_the_prompt_and_one_of_a_tool_are_seen_and_can_be_fetched(tmp_path: Path) -> None:
    async with served(painter(), tmp_path / "runs.db") as client:
        run_id = await client.run(["look", as_json(RED)])
        view = await client.end(run_id)
        assert view["output"] == f"{RED.reference.sha256} {BLUE.reference.sha256}"
        events = await client.events(run_id)
        assert all(len(str(event)) < 5000 for event in events)
        asked = events[0]["prompt"]
        assert asked[0] == "look" and asked[1]["sha256"] == RED.reference.sha256 and asked[1]["kind"] == "file"
        (result,) = (event for event in events if event["event_kind"] == "tool_result")
        assert [file["sha256"] for file in result["files"]] == [BLUE.reference.sha256]
        for file in (RED, BLUE):
            response = await client.http.get(f"/runs/{run_id}/files/{file.reference.sha256}")
            assert (response.status_code, response.content) == (200, file.data)
            assert response.headers["content-type"] == "image/png"
            assert response.headers["x-content-type-options"] == "nosniff"
        missing = await client.http.get(f"/runs/{run_id}/files/{'0' * 64}")
        assert missing.status_code == 404


async def test_a_run_that_another_process_begins_has_its_files(tmp_path: Path) -> None:
    one_at_a_time = ServiceLimits(max_runs=1, drain_s=0.1)
    async with served(painter(), tmp_path / "runs.db", limits=one_at_a_time) as client:
        await client.run("block")
        run_id = await client.run(["look", as_json(RED)])
        assert [event["event_kind"] for event in await client.events(run_id, most=1)] == ["run_requested"]
    async with served(painter(), tmp_path / "runs.db") as client:
        assert (await client.end(run_id))["output"].split()[0] == RED.reference.sha256


async def test_a_conversation_and_a_repeated_request_keep_the_files(tmp_path: Path) -> None:
    key = {"Idempotency-Key": "one"}
    body = {"prompt": ["look", as_json(RED)], "session": "talk"}
    async with served(painter(), tmp_path / "runs.db") as client:
        begun = await client.ask("POST", "/runs", 201, json=body, headers=key)
        await client.end(begun["run_id"])
        assert await client.ask("POST", "/runs", 201, json=body, headers=key) == begun
        other = {**body, "prompt": ["look", as_json(BLUE)]}
        assert (await client.http.post("/runs", json=other, headers=key)).status_code == 409
        again = await client.run("and?", session="talk")
        assert (await client.end(again))["output"].split()[:2] == [RED.reference.sha256, BLUE.reference.sha256]
        messages = (await client.ask("GET", "/sessions/talk", 200))["messages"]
        assert messages[0]["parts"][0]["content"][1]["sha256"] == RED.reference.sha256


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        (["look", {"kind": "binary", "data": "AAAA", "media_type": "image/png"}], "its bytes are of another kind"),
        (["look", {"kind": "binary", "data": "%%%", "media_type": "image/png"}], "not base64"),
        (["look", {"kind": "binary", "media_type": "image/png"}], "data"),
        ([], "prompt"),
        ([" "], "must have words of the user, or a file"),
    ],
)
async def test_a_file_that_cannot_be_used_is_refused_by_name(tmp_path: Path, prompt: Any, told: str) -> None:
    async with served(painter(), tmp_path / "runs.db") as client:
        response = await client.http.post("/runs", json={"prompt": prompt})
        assert 400 <= response.status_code < 500 and told in response.text


URL = f"data:image/png;base64,{b64encode(RED.data).decode()}"
DATA_URL_PDF = f"data:application/pdf;base64,{b64encode(PDF).decode()}"


async def seen_by_ag_ui(client: Client) -> str:
    """Ask by AG-UI."""
    source = {"type": "data", "value": URL.partition(",")[2], "mimeType": "image/png"}
    parts = [{"type": "text", "text": "look"}, {"type": "image", "source": source}]
    body = {"threadId": "t", "runId": "r", "messages": [{"id": "m", "role": "user", "content": parts}]}
    response = await client.http.post("/ag-ui", json=body)
    return response.text


async def seen_by_vercel(client: Client) -> str:
    """Ask by Vercel's UI message stream."""
    parts = [{"type": "text", "text": "look"}, {"type": "file", "mediaType": "image/png", "url": URL}]
    body = {"id": "c", "messages": [{"id": "m", "role": "user", "parts": parts}], "trigger": "submit-message"}
    return (await client.http.post("/vercel", json=body)).text


async def seen_by_a2a(client: Client) -> str:
    """Ask by A2A with its own client."""
    async with httpx.AsyncClient(timeout=30) as http:
        asked = await create_client(str(client.http.base_url), ClientConfig(streaming=False, httpx_client=http))
        parts = [pb.Part(text="look"), pb.Part(raw=RED.data, media_type="image/png", filename="a.png")]
        message = pb.Message(message_id="m", role=pb.ROLE_USER, parts=parts)
        return "".join([str(each) async for each in asked.send_message(pb.SendMessageRequest(message=message))])


async def seen_by_chat(client: Client) -> str:
    """Ask by chat completions, with OpenAI's own client; an earlier message has a document."""
    async with openai.AsyncOpenAI(base_url=f"{client.http.base_url}/v1", api_key="x", max_retries=0) as asked:
        document: Any = {"type": "file", "file": {"file_data": DATA_URL_PDF, "filename": "a.pdf"}}
        image: Any = {"type": "image_url", "image_url": {"url": URL, "detail": "low"}}
        messages: Any = [
            {"role": "user", "content": [document]},
            {"role": "assistant", "content": "read"},
            {"role": "user", "content": [{"type": "text", "text": "look"}, image]},
        ]
        reply = await asked.chat.completions.create(model="agent", messages=messages)
        said = reply.choices[0].message.content or ""
        assert said.split()[0] == sha256(PDF).hexdigest()
        return said


async def seen_by_responses(client: Client) -> str:
    """Ask by OpenAI's responses with its own client."""
    async with openai.AsyncOpenAI(base_url=f"{client.http.base_url}/v1", api_key="x", max_retries=0) as asked:
        content: Any = [
            {"type": "input_text", "text": "look"},
            {"type": "input_image", "image_url": URL, "detail": "auto"},
            {"type": "input_file", "file_data": DATA_URL_PDF, "filename": "a.pdf"},
        ]
        response = await asked.responses.create(model="agent", input=[{"role": "user", "content": content}])
        assert sha256(PDF).hexdigest() in response.output_text
        return response.output_text


@pytest.mark.parametrize("ask", [seen_by_ag_ui, seen_by_vercel, seen_by_a2a, seen_by_chat, seen_by_responses])
async def test_each_protocol_brings_files(tmp_path: Path, ask: Callable[[Client], Awaitable[str]]) -> None:
    async with served(painter(), tmp_path / "runs.db") as client:
        assert RED.reference.sha256 in await ask(client)


async def test_a_file_belongs_to_the_client_of_its_run(tmp_path: Path) -> None:
    async with served(painter(), tmp_path / "runs.db", key="ann") as ann:
        run_id = await ann.run(["look", as_json(RED)])
        await ann.end(run_id)
        path = f"/runs/{run_id}/files/{RED.reference.sha256}"
        assert (await ann.http.get(path)).status_code == 200
        async with client_of(str(ann.http.base_url), "bob") as bob:
            assert (await bob.http.get(path)).status_code == 404
