"""AG-UI: the protocol's own client from npm, and its own models for every event."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ag_ui.core import Event
from pydantic import TypeAdapter

from agentkit import Agent, ModelResponse, TextPart, tool
from agentkit.messages import ModelMessage, ToolReturnPart
from agentkit.models.base import ModelRequestParameters
from agentkit.serving import app
from agentkit.testing import FunctionModel, call
from tests.agentkit.serving.npm_clients import printed_by
from tests.agentkit.serving.served_agents import KEYS, Client, clerk, said, served

pytestmark = pytest.mark.anyio
EVENT: TypeAdapter[Any] = TypeAdapter(Event)


async def asked(client: Client, prompt: str, answer: Any = None, key: str = "") -> dict[str, Any]:
    """Return what the protocol's client prints."""
    url = f"{str(client.http.base_url).rstrip('/')}/ag-ui"
    return await printed_by("ag_ui_client.mjs", "@ag-ui/client", "1.0.0", url, prompt, json.dumps(answer), key)


async def test_the_protocols_client_reads_a_run(tmp_path: Path) -> None:
    async with served(clerk(), tmp_path / "runs.db", key="ann") as client:
        found = await asked(client, "a b", key=KEYS["ann"])
        assert found["outcomes"] == ["success"]
        roles = [message["role"] for message in found["messages"]]
        assert roles == ["user", "assistant", "tool", "assistant", "tool", "assistant"]
        assert found["messages"][1]["toolCalls"][0]["function"] == {
            "name": "file",
            "arguments": '{"word": "a"}',
        }
        assert found["messages"][2]["content"] == "filed a"
        assert found["messages"][-1]["content"] == "done: a b"
        assert found["seen"][0] == "RUN_STARTED" and found["seen"][-1] == "RUN_FINISHED"


@pytest.mark.parametrize(
    ("answer", "effects"),
    [({"approved": True}, ["a", "shred"]), ({"approved": False, "reason": "keep it"}, ["a"])],
)
async def test_an_interrupt_is_answered_by_the_protocols_client(
    tmp_path: Path, answer: Any, effects: list[str]
) -> None:
    world: list[str] = []
    async with served(clerk(world.append), tmp_path / "runs.db") as client:
        found = await asked(client, "a shred", answer)
        assert found["outcomes"] == ["interrupt", "success"] and world == effects
        assert found["messages"][-1]["content"] == "done: a shred"
        told = [message["content"] for message in found["messages"] if message["role"] == "tool"]
        assert told[-1] == ("filed shred" if answer["approved"] else "Not allowed: keep it")


async def test_a_failed_run_is_an_error_of_the_protocol(tmp_path: Path) -> None:
    async with served(clerk(), tmp_path / "runs.db") as client:
        assert (await asked(client, "boom"))["outcomes"] == ["error RuntimeError"]


def given(prompt: str, **changes: Any) -> dict[str, Any]:
    messages = [{"id": "1", "role": "user", "content": prompt}]
    return {"threadId": "t", "runId": "r", "messages": messages, **changes}


async def events_of(client: Client, body: dict[str, Any]) -> list[Any]:
    response = await client.http.post("/ag-ui", json=body)
    assert response.status_code == 200, response.text
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    return [EVENT.validate_json(line) for line in lines]


async def test_a_repeated_request_follows_the_same_run(tmp_path: Path) -> None:
    world: list[str] = []
    async with served(clerk(world.append), tmp_path / "runs.db") as client:
        first, again = [await events_of(client, given("a")) for _ in range(2)]
        assert first == again and world == ["a"]
        assert first[-1].metadata == {"agentkit.status": "completed"} and first[-1].result == "done: a"
        context = [{"description": "page", "value": "b"}]
        messages = [
            {"id": "1", "role": "user", "content": "a"},
            {"id": "2", "role": "assistant", "content": "done: a"},
            {"id": "3", "role": "user", "content": [{"type": "text", "text": "c"}]},
        ]
        told = await events_of(client, given("", messages=messages, runId="r2", context=context))
        assert told[-1].result == "done: page: b c" and world == ["a", "page:", "b", "c"]
        assert len((await client.ask("GET", "/sessions/t", 200))["messages"]) == 12


async def test_a_cancelled_run_has_that_outcome(tmp_path: Path) -> None:
    async with served(clerk(), tmp_path / "runs.db") as client:
        async with client.http.stream("POST", "/ag-ui", json=given("wait")) as response:
            run_id = response.headers["run-id"]
            await client.ask("POST", f"/runs/{run_id}/cancel", 202)
            text = (await response.aread()).decode()
        last = EVENT.validate_json(text.splitlines()[-2].removeprefix("data: "))
        assert last.outcome.type == "cancelled"


@pytest.mark.parametrize(
    ("changes", "status", "told"),
    [
        ({"messages": []}, 422, "messages must end with a message of the user"),
        ({"tools": [{"name": "t", "description": "", "parameters": {"type": "array"}}]}, 422, "object schema"),
        ({"messages": [{"id": "1", "role": "tool", "toolCallId": "x", "content": "y"}]}, 409, "no run of the"),
        ({"state": {"n": 1}}, 422, "state={'n': 1} would have no effect"),
        ({"forwardedProps": {"x": 1}}, 422, "forwarded_props"),
        ({"resume": [{"interruptId": "x", "status": "resolved"}]}, 409, "no run of the conversation 't' waits"),
        ({"threadId": 7}, 400, "thread"),
        (
            {
                "messages": [
                    {
                        "id": "1",
                        "role": "user",
                        "content": [{"type": "image", "source": {"type": "url", "value": "x"}}],
                    }
                ]
            },
            422,
            "'x' is not fetched; send the file itself",
        ),
    ],
)
async def test_what_has_no_effect_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], status: int, told: str
) -> None:
    async with served(clerk(), tmp_path / "runs.db") as client:
        refused = await client.ask("POST", "/ag-ui", status, json=given("a", **changes))
        assert told in refused["error"]["message"]
        assert (await client.ask("GET", "/runs", 200))["runs"] == []


async def test_a_wrong_answer_to_an_interrupt_is_named(tmp_path: Path) -> None:
    async with served(clerk(), tmp_path / "runs.db") as client:
        (interrupt,) = (await events_of(client, given("shred")))[-1].outcome.interrupts
        for payload, status, told in (({"yes": 1}, 422, "'approved'"), (None, 422, "None")):
            answer = {"interruptId": interrupt.id, "status": "resolved", "payload": payload}
            refused = await client.ask("POST", "/ag-ui", status, json=given("", runId="r2", resume=[answer]))
            assert told in refused["error"]["message"]
        stale = {"interruptId": "0" * 64, "status": "resolved", "payload": True}
        refused = await client.ask("POST", "/ag-ui", 409, json=given("", runId="r2", resume=[stale]))
        assert interrupt.id in refused["error"]["message"]
        abandoned = {"interruptId": interrupt.id, "status": "cancelled"}
        told_events = await events_of(client, given("", runId="r2", resume=[abandoned]))
        assert told_events[-1].result == "done: shred"


HIGHLIGHT = {"name": "highlight", "description": "Highlights.", "parameters": {"properties": {"word": {}}}}


def painter() -> Agent[None, str]:
    """Return an agent that calls the tools in its prompt at once, then tells the results; one needs approval."""

    def reply(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
        results = [part for message in messages for part in message.parts if isinstance(part, ToolReturnPart)]
        if results:
            return ModelResponse((TextPart("; ".join(part.text for part in results)),))
        calls = [call(name, word=name) for name in said(messages).split()]
        return ModelResponse(tuple(calls))

    @tool(requires_approval=True)
    def paint(word: str) -> str:
        """Paint a word."""
        return f"painted {word}"

    return Agent(FunctionModel(reply), tools=[paint], name="painter")


async def test_the_protocols_client_runs_tools_of_its_page(tmp_path: Path) -> None:
    async with served(painter(), tmp_path / "runs.db") as client:
        url = f"{str(client.http.base_url).rstrip('/')}/ag-ui"
        found = await printed_by("ag_ui_page_tools.mjs", "@ag-ui/client", "1.0.0", url, "highlight")
        assert found["outcomes"] == ["success", "success"]
        assert found["messages"][-1]["content"] == "highlit highlight"
        (run,) = (await client.ask("GET", "/runs", 200))["runs"]
        assert run["status"] == "completed"


async def test_a_tool_of_the_page_and_an_approval_are_answered_together(tmp_path: Path) -> None:
    journal = tmp_path / "runs.db"
    async with served(painter(), journal) as client:
        told = await events_of(client, given("highlight paint", tools=[HIGHLIGHT]))
        (interrupt,) = told[-1].outcome.interrupts  # the page's own call is none
        ids = {each.tool_call_name: each.tool_call_id for each in told if each.type == "TOOL_CALL_START"}
    async with served(painter(), journal) as client:  # another process has the page's tools from the journal
        result = {
            "id": "2",
            "role": "tool",
            "toolCallId": ids["highlight"],
            "content": "it failed",
            "error": "x",
        }
        body = given("", messages=[result], runId="r2", tools=[HIGHLIGHT])
        refused = await client.ask("POST", "/ag-ui", 422, json=body)
        assert interrupt.id in refused["error"]["message"]
        resume = [{"interruptId": interrupt.id, "status": "resolved", "payload": True}]
        told = await events_of(client, {**body, "resume": resume})
        assert told[-1].result == "it failed; painted paint"
        (run,) = (await client.ask("GET", "/runs", 200))["runs"]
        stored = await app(painter(), journal=journal).service.stored(run["run_id"], "local")
        assert stored[0].state.tainted  # by the page's result


async def test_a_tool_of_the_page_with_the_name_of_an_own_one_fails_the_run(tmp_path: Path) -> None:
    async with served(painter(), tmp_path / "runs.db") as client:
        told = await events_of(client, given("paint", tools=[{**HIGHLIGHT, "name": "paint"}]))
        assert told[-1].type == "RUN_ERROR" and "paint" in told[-1].message
