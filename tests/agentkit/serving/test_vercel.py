"""Vercel's UI message stream: the AI SDK's own transport and reader, which check every part by their schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from agentkit.events import ModelRequestEvent, RunResumedEvent, TextDeltaEvent
from agentkit.serving.vercel import UIMessageStream
from tests.agentkit.serving.npm_clients import printed_by
from tests.agentkit.serving.served_agents import KEYS, Client, clerk, served

pytestmark = pytest.mark.anyio


async def asked(client: Client, prompt: str, approved: str = "true", key: str = "") -> dict[str, Any]:
    """Return what the SDK's client prints."""
    url = f"{str(client.http.base_url).rstrip('/')}/vercel"
    return await printed_by("vercel_client.mjs", "ai", "7.0.173", url, prompt, approved, key)


def parts(reply: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return kind and text or output of the parts of a message, without the marks of steps."""
    wanted = [part for part in reply["parts"] if part["type"] in ("text", "dynamic-tool")]
    return [(part.get("state", ""), part.get("text", part.get("output"))) for part in wanted]


async def test_the_sdk_reads_a_run(tmp_path: Path) -> None:
    async with served(clerk(), tmp_path / "runs.db", key="ann") as client:
        found = await asked(client, "a b", key=KEYS["ann"])
        assert found["error"] is None and found["again"] is False
        filed = [("output-available", f"filed {word}") for word in "ab"]
        assert parts(found["reply"]) == [*filed, ("done", "done: a b")]
        assert found["seen"][0] == "start" and found["seen"][-1] == "finish"
        status = found["reply"]["metadata"]["agentkit"]
        assert status == {"status": "completed", "output": "done: a b"}


@pytest.mark.parametrize(
    ("approved", "effects", "state"),
    [("true", ["a", "shred"], "output-available"), ("false", ["a"], "output-denied")],
)
async def test_an_approval_is_answered_by_the_sdk(
    tmp_path: Path, approved: str, effects: list[str], state: str
) -> None:
    world: list[str] = []
    async with served(clerk(world.append), tmp_path / "runs.db") as client:
        found = await asked(client, "a shred", approved)
        assert found["error"] is None and world == effects
        states = [each for each, _ in parts(found["reply"])]
        assert states == ["output-available", state, "done"]
        assert parts(found["reply"])[-1] == ("done", "done: a shred")
        (run,) = (await client.ask("GET", "/runs", 200))["runs"]
        assert run["status"] == "completed"


async def test_a_failed_run_is_an_error_of_the_stream(tmp_path: Path) -> None:
    async with served(clerk(), tmp_path / "runs.db") as client:
        found = await asked(client, "boom")
        assert "the model burst" in found["error"] and found["seen"][-2:] == ["error", "finish"]


def body(*parts: dict[str, Any], **changes: Any) -> dict[str, Any]:
    message = {"id": "m1", "role": "user", "parts": list(parts) or [{"type": "text", "text": "a"}]}
    return {"id": "c", "messages": [message], "trigger": "submit-message", **changes}


async def chunks_of(client: Client, method: str, path: str, **options: Any) -> list[dict[str, Any]]:
    response = await client.http.request(method, path, **options)
    assert response.status_code == 200, response.text
    assert response.headers["x-vercel-ai-ui-message-stream"] == "v1"
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


async def test_a_repeated_request_and_a_reconnection_follow_the_same_run(tmp_path: Path) -> None:
    world: list[str] = []
    async with served(clerk(world.append), tmp_path / "runs.db") as client:
        first, again = [await chunks_of(client, "POST", "/vercel", json=body()) for _ in range(2)]
        assert first == again and world == ["a"]
        await client.ask("GET", "/vercel/c/stream", 204)
        asked = body({"type": "text", "text": "wait"}, id="d")
        async with client.http.stream("POST", "/vercel", json=asked) as response:
            run_id = response.headers["run-id"]

        async def cancel() -> None:
            await anyio.sleep(0.2)
            await client.ask("POST", f"/runs/{run_id}/cancel", 202)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel)
            chunks = await chunks_of(client, "GET", "/vercel/d/stream")
        assert chunks[0] == {"type": "start", "messageId": run_id}
        assert chunks[-1] == {"type": "abort", "reason": "local cancelled it."}


def test_a_step_that_was_being_written_is_taken_back() -> None:
    stream = UIMessageStream("run_1")
    request = ModelRequestEvent(1, (), ())
    resumed = RunResumedEvent("run_1", None, "m", (), 0)
    events = [request, TextDeltaEvent("Hel"), resumed, request, TextDeltaEvent("Hello")]
    kinds = [chunk["type"] for event in events for chunk in stream.told(event)]
    assert kinds == ["start", "start-step", "text-start", "text-delta", "reset-step", "text-start", "text-delta"]


@pytest.mark.parametrize(
    ("wrong", "status", "told"),
    [
        (body(trigger="regenerate-message"), 422, "'regenerate-message'"),
        (body({"type": "file", "mediaType": "image/png", "url": "http://x/a"}), 422, "is not fetched"),
        (body({"type": "text", "text": ""}), 422, "must have words of the user"),
        (body(messages=[]), 400, "messages"),
        (
            body(messages=[{"id": "m", "role": "assistant", "parts": []}]),
            409,
            "no run of the conversation 'c' waits",
        ),
        (body(messages=[{"id": "m", "role": "robot", "parts": []}]), 400, "role"),
    ],
)
async def test_what_cannot_be_done_is_refused_by_name(
    tmp_path: Path, wrong: dict[str, Any], status: int, told: str
) -> None:
    async with served(clerk(), tmp_path / "runs.db") as client:
        refused = await client.ask("POST", "/vercel", status, json=wrong)
        assert told in refused["error"]["message"]
        assert (await client.ask("GET", "/runs", 200))["runs"] == []


async def test_an_answer_must_name_the_question(tmp_path: Path) -> None:
    async with served(clerk(), tmp_path / "runs.db") as client:
        chunks = await chunks_of(client, "POST", "/vercel", json=body({"type": "text", "text": "shred"}))
        (asked,) = [chunk for chunk in chunks if chunk["type"] == "tool-approval-request"]
        for approval in ({"id": "0" * 64, "approved": True}, {}):
            part = {"type": "dynamic-tool", "toolCallId": asked["toolCallId"], "state": "approval-responded"}
            message = {"id": "r", "role": "assistant", "parts": [{**part, "approval": approval}]}
            refused = await client.ask("POST", "/vercel", 422, json=body(messages=[message]))
            assert asked["toolCallId"] in refused["error"]["message"]
