"""Every route of a served agent without a key, with a wrong one and another client's, and from foreign names.

The routes are read from the application, so a new one without a case here fails. A client that names what belongs
to another one is answered as if it named what does not exist, and nothing changes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from starlette.routing import Mount, Route

from agentkit import studio
from agentkit.persistence import InMemoryCheckpointer, InMemorySession
from agentkit.serving import ServiceLimits, app
from agentkit.serving.access import AGENT_CARD
from tests.agentkit.serving.served_agents import KEYS, Client, clerk, client_of, served

pytestmark = pytest.mark.anyio

ANY = "*"
"""Method of a mounted application, which has its own methods."""


@dataclass(frozen=True, slots=True)
class Names:
    """Names under which a client finds what belongs to it."""

    run_id: str
    """Run that waits for an approval."""
    response_id: str
    """The same as a response of OpenAI's protocol."""
    session: str
    """Conversation of that run."""
    busy_session: str
    """Conversation of a run that goes on."""
    call_id: str
    digest: str
    mcp_session: str
    idempotency_key: str


NOBODYS = Names(
    "run_" + "0" * 16, "resp_" + "0" * 16, "no session", "no chat", "call_0", "0" * 64, "0" * 32, "no key"
)
"""Names of nothing."""


@dataclass(frozen=True, slots=True)
class Case:
    """A request about what belongs to a client, and the status if that is another one."""

    method: str
    path: Callable[[Names], str]
    status: int
    body: Callable[[Names], Any] = lambda names: None
    headers: Callable[[Names], dict[str, str]] = lambda names: {}
    has_own_answer: bool = False
    """Whether the answer is about something new, or about the service, and differs from request to request."""

    async def ask(self, client: Client, names: Names, method: str = "", **headers: str) -> httpx.Response:
        """Return the response to a client that uses some names."""
        body, given = self.body(names), self.headers(names) | headers
        path = self.path(names).replace(" ", "%20")
        return await client.http.request(method or self.method, path, json=body, headers=given)


def plain(method: str, path: str, status: int, **options: Any) -> Case:
    """Return a case without names."""
    return Case(method, lambda names: path, status, **options)


def of_run(method: str, end: str = "", **options: Any) -> Case:
    """Return a case about a run, which does not exist for others."""
    return Case(method, lambda names: f"/runs/{names.run_id}{end}", 404, **options)


def of_response(method: str, end: str = "") -> Case:
    """Return a case about a response, which does not exist for others."""
    return Case(method, lambda names: f"/v1/responses/{names.response_id}{end}", 404)


def new(path: str, status: int, body: Callable[[Names], Any]) -> Case:
    """Return a case that begins something of the client's own, with an idempotency key of the other client."""
    return Case(
        "POST",
        lambda names: path,
        status,
        body,
        lambda names: {"Idempotency-Key": names.idempotency_key},
        has_own_answer=True,
    )


def decisions(names: Names) -> Any:
    """Return an approval of the waiting call."""
    return {"decisions": [{"decision": "approve", "tool_call_id": names.call_id, "digest": names.digest}]}


def ag_ui_answer(names: Names) -> Any:
    """Return an approval of the waiting call in AG-UI."""
    resume = [{"interruptId": names.digest, "status": "resolved", "payload": {"approved": True}}]
    return {"threadId": names.session, "runId": "r", "messages": [], "resume": resume}


def vercel_answer(names: Names) -> Any:
    """Return an approval of the waiting call in a message of the AI SDK."""
    part = {
        "type": "dynamic-tool",
        "toolCallId": names.call_id,
        "state": "approval-responded",
        "approval": {"id": names.digest, "approved": True},
    }
    return {"id": names.session, "messages": [{"id": "m", "role": "assistant", "parts": [part]}]}


def response_answer(names: Names) -> Any:
    """Return an approval of the waiting call in OpenAI's Responses."""
    item = {"type": "mcp_approval_response", "approval_request_id": names.digest, "approve": True}
    return {"model": "agent", "input": [item], "previous_response_id": names.response_id}


def a2a(method: str, params: Callable[[Names], Any]) -> Case:
    """Return a case of the Agent2Agent protocol, whose errors have the status 200."""

    def body(names: Names) -> Any:
        return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params(names)}

    return Case("POST", lambda names: "/a2a", 200, body, lambda names: {"A2A-Version": "1.0"})


def a2a_answer(names: Names) -> Any:
    """Return an approval of the waiting call in a message about its task."""
    part = {"data": decisions(names)}
    return {"message": {"messageId": "m", "taskId": names.run_id, "role": "ROLE_USER", "parts": [part]}}


def mcp(method: str, body: Any = None) -> Case:
    """Return a case about a session of the MCP server."""

    def headers(names: Names) -> dict[str, str]:
        accept = "application/json, text/event-stream"
        return {"Accept": accept, "Mcp-Session-Id": names.mcp_session, "MCP-Protocol-Version": "2025-06-18"}

    return Case(method, lambda names: "/mcp/", 404, lambda names: body, headers)


CONVERSATION = [{"kind": "request", "parts": [{"content": "a", "part_kind": "user-prompt"}]}]
CASES: dict[tuple[str, str], tuple[Case, ...]] = {
    ("GET", "/health/live"): (plain("GET", "/health/live", 200),),
    ("GET", "/health/ready"): (plain("GET", "/health/ready", 200),),
    ("GET", AGENT_CARD): (plain("GET", AGENT_CARD, 200),),
    ("GET", studio.ROOT): (plain("GET", "/studio", 307),),
    ("GET", studio.FILE): (plain("GET", "/studio/", 200), plain("GET", "/studio/no.js", 404)),
    ("GET", "/metrics"): (plain("GET", "/metrics", 200, has_own_answer=True),),
    ("GET", "/agent"): (plain("GET", "/agent", 200),),
    ("GET", "/v1/models"): (plain("GET", "/v1/models", 200),),
    ("GET", "/runs"): (Case("GET", lambda names: f"/runs?session={names.session}", 200),),
    ("GET", "/runs/{run_id}"): (of_run("GET"), of_run("GET", "?wait=1")),
    ("GET", "/runs/{run_id}/events"): (of_run("GET", "/events"), of_run("GET", "/events?after=1")),
    ("GET", "/runs/{run_id}/trace"): (of_run("GET", "/trace"),),
    ("GET", "/runs/{run_id}/files/{sha256}"): (of_run("GET", f"/files/{'0' * 64}"),),
    ("POST", "/runs"): (new("/runs", 201, lambda names: {"prompt": "a", "session": names.session}),),
    ("POST", "/forks"): (new("/forks", 201, lambda names: {"messages": CONVERSATION}),),
    ("POST", "/runs/{run_id}/decisions"): (of_run("POST", "/decisions", body=decisions),),
    ("POST", "/runs/{run_id}/cancel"): (of_run("POST", "/cancel"),),
    ("POST", "/runs/{run_id}/resume"): (of_run("POST", "/resume"),),
    ("POST", "/runs/{run_id}/rewards"): (of_run("POST", "/rewards", body=lambda names: {"reward": 1.0}),),
    ("DELETE", "/runs/{run_id}"): (of_run("DELETE"),),
    # A session's name is the client's own word for it: that of another client is an empty one.
    ("GET", "/sessions/{session:path}"): (Case("GET", lambda names: f"/sessions/{names.session}", 200),),
    ("DELETE", "/sessions/{session:path}"): (Case("DELETE", lambda names: f"/sessions/{names.session}", 204),),
    ("POST", "/ag-ui"): (Case("POST", lambda names: "/ag-ui", 409, ag_ui_answer),),
    ("POST", "/vercel"): (Case("POST", lambda names: "/vercel", 409, vercel_answer),),
    ("GET", "/vercel/{chat}/stream"): (Case("GET", lambda names: f"/vercel/{names.busy_session}/stream", 204),),
    ("POST", "/v1/chat/completions"): (
        new(
            "/v1/chat/completions",
            200,
            lambda names: {"model": "agent", "messages": [{"role": "user", "content": "a"}]},
        ),
    ),
    ("POST", "/v1/responses"): (
        Case("POST", lambda names: "/v1/responses", 400, response_answer),
        Case("POST", lambda names: "/v1/responses", 400, lambda names: {**response_answer(names), "input": "a"}),
    ),
    ("GET", "/v1/responses/{response_id}"): (of_response("GET"), of_response("GET", "?stream=true")),
    ("POST", "/v1/responses/{response_id}/cancel"): (of_response("POST", "/cancel"),),
    ("DELETE", "/v1/responses/{response_id}"): (of_response("DELETE"),),
    ("POST", "/a2a"): (
        a2a("GetTask", lambda names: {"id": names.run_id}),
        a2a("CancelTask", lambda names: {"id": names.run_id}),
        a2a("SubscribeToTask", lambda names: {"id": names.run_id}),
        a2a("ListTasks", lambda names: {"contextId": names.session}),
        a2a("SendMessage", a2a_answer),
        a2a("SendStreamingMessage", a2a_answer),
    ),
    (ANY, "/mcp"): (
        mcp("POST", {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}),
        mcp("GET"),
        mcp("DELETE"),
    ),
}
"""Requests by route."""
OPEN = {("GET", "/health/live"), ("GET", "/health/ready"), ("GET", AGENT_CARD)}
OPEN |= {("GET", studio.ROOT), ("GET", studio.FILE)}
"""Routes that need no key, and tell nothing that belongs to a client."""


def routes() -> set[tuple[str, str]]:
    """Return methods and paths of the application's routes."""
    journal = InMemoryCheckpointer()
    made = app(clerk(), journal=journal, session_of=InMemorySession, keys=KEYS, has_studio=True)
    found: set[tuple[str, str]] = set()
    for route in made._starlette.routes:  # pyright: ignore[reportPrivateUsage]
        if isinstance(route, Mount):
            found.add((ANY, route.path))
        else:
            assert isinstance(route, Route) and route.methods, route
            found |= {(method, route.path) for method in route.methods - {"HEAD"}}
    return found


@asynccontextmanager
async def two_clients(journal: Path, **options: Any) -> AsyncIterator[tuple[Client, Client]]:
    """Yield the clients "ann" and "bob" of one service."""
    limits = ServiceLimits(drain_s=0.1)
    async with (
        served(clerk(), journal, key="ann", has_studio=True, limits=limits, **options) as ann,
        client_of(str(ann.http.base_url), "bob") as bob,
    ):
        yield ann, bob


async def names_of(client: Client) -> Names:
    """Return the names of what a client has begun: a run that waits, one that goes on, an MCP session."""
    await client.end(await client.run("b", session="talk"))
    body = {"prompt": "a shred", "session": "talk"}
    key = "the key of a request"
    asked = await client.ask("POST", "/runs", 201, json=body, headers={"Idempotency-Key": key})
    (pending,) = (await client.end(asked["run_id"]))["pending"]
    await client.run("wait", session="busy")
    entering = {
        "protocolVersion": "2025-06-18",
        "capabilities": {"elicitation": {}},
        "clientInfo": {"name": "client", "version": "1"},
    }
    request = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": entering}
    accept = {"Accept": "application/json, text/event-stream"}
    entered = await client.http.post("/mcp/", json=request, headers=accept)
    return Names(
        asked["run_id"],
        asked["run_id"].replace("run_", "resp_"),
        "talk",
        "busy",
        pending["tool_call_id"],
        pending["digest"],
        entered.headers["mcp-session-id"],
        key,
    )


async def everything_of(client: Client, names: Names) -> list[Any]:
    """Return all that a client can read of what it has, and whether its MCP session is there."""
    listed = (await client.ask("GET", "/runs", 200))["runs"]
    session = await client.ask("GET", f"/sessions/{names.session}", 200)
    ping = mcp("POST", {"jsonrpc": "2.0", "id": 1, "method": "ping"})
    return [
        # Without the status of the run that goes on: its tool has a time limit.
        [(run["run_id"], run["session"], run["session"] == "busy" or run["status"]) for run in listed],
        await client.ask("GET", f"/runs/{names.run_id}", 200),
        await client.events(names.run_id),
        session,
        (await ping.ask(client, names)).status_code,
    ]


def without(names: Names, text: str) -> str:
    """Return a text without the names in it."""
    for name in astuple(names):
        text = text.replace(name, "NAME")
    return text


def test_every_route_has_a_case() -> None:
    assert set(CASES) == routes()


async def test_every_route_but_the_open_ones_needs_a_key(tmp_path: Path) -> None:
    async with two_clients(tmp_path / "runs.db") as (ann, _), client_of(str(ann.http.base_url)) as nobody:
        names = await names_of(ann)
        before = await everything_of(ann, names)
        keys = ("", "Bearer", f"Bearer {KEYS['ann']}x", f"Bearer {KEYS['ann'][:-1]}", f"Basic {KEYS['ann']}")
        for route, cases in CASES.items():
            for case in cases:
                for key in keys:
                    response = await case.ask(nobody, names, Authorization=key)
                    if route in OPEN:
                        assert response.status_code == case.status, (route, response.text)
                        continue
                    assert response.status_code == 401, (route, key, response.text)
                    assert response.json()["error"]["code"] == "unauthorized"
                    assert response.headers["www-authenticate"] == "Bearer"
                if case.method == "GET" and route not in OPEN:
                    assert (await case.ask(nobody, names, "HEAD")).status_code == 401, route
        assert await everything_of(ann, names) == before


async def test_foreign_names_and_pages_are_refused_at_every_route(tmp_path: Path) -> None:
    allowed = {"hosts": ["127.0.0.1"], "origins": ["https://app.example"]}
    async with two_clients(tmp_path / "runs.db", **allowed) as (ann, _):
        names = await names_of(ann)
        before = await everything_of(ann, names)
        foreign = {"Host": "evil.example", "Origin": "https://evil.example"}
        for route, cases in CASES.items():
            for case in cases:
                for header, value in foreign.items():
                    response = await case.ask(ann, names, **{header: value})
                    assert response.status_code == 403, (route, header, response.text)
                    assert value in response.json()["error"]["message"]
        assert await everything_of(ann, names) == before


@pytest.mark.parametrize("route", CASES, ids=" ".join)
async def test_what_another_client_has_does_not_exist(tmp_path: Path, route: tuple[str, str]) -> None:
    async with two_clients(tmp_path / "runs.db") as (ann, bob):
        names = await names_of(ann)
        before = await everything_of(ann, names)
        with anyio.fail_after(20):
            for case in CASES[route]:
                theirs, nobodys = [await case.ask(bob, each) for each in (names, NOBODYS)]
                assert (theirs.status_code, nobodys.status_code) == (case.status, case.status), theirs.text
                if case.has_own_answer:
                    assert names.run_id not in f"{theirs.text} {theirs.headers}"
                else:
                    assert without(names, theirs.text) == without(NOBODYS, nobodys.text)
        assert await everything_of(ann, names) == before
