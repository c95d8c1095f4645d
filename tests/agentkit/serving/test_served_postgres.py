"""Services whose journal is one PostgreSQL database: runs, sessions and events are theirs together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from agentkit.serving import ServiceLimits, app
from tests.agentkit.persistence.postgres_server import Databases, databases, server
from tests.agentkit.serving.served_agents import (
    Client,
    clerk,
    client_of,
    kinds,
    listening,
    one_run_of_a_session_stays,
)

__all__ = ["databases", "server"]

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def service(
    databases: Databases, note: Callable[[str], None] = print, **options: Any
) -> AsyncIterator[Client]:
    """Serve the clerk by connections of its own, as a process has them."""
    keeper = databases.keeper(**options)
    made = app(clerk(note), journal=keeper, session_of=keeper.session, limits=ServiceLimits(drain_s=0.2))
    async with listening(made) as url, client_of(url) as client:
        yield client


async def test_services_share_runs_sessions_and_cancellations(databases: Databases) -> None:
    world: list[str] = []
    async with service(databases, world.append) as other:
        async with service(databases, world.append) as one:
            run_id = await one.run("a shred b", session="talk")
            (pending,) = (await other.end(run_id))["pending"]
            same = {"tool_call_id": pending["tool_call_id"], "digest": pending["digest"]}
            decisions = {"decisions": [{"decision": "approve", **same}]}
            await other.ask("POST", f"/runs/{run_id}/decisions", 202, json=decisions)
            assert (await one.end(run_id))["output"] == "done: a shred b"
            assert world == ["a", "shred", "b"]
            events = await other.events(run_id)
            assert [event["number"] for event in events] == list(range(1, len(events) + 1))
            assert events == await one.events(run_id) and kinds(events)[-1] == "run_finished"
            waiting = await one.run("wait")
            while "wait" not in world:
                await anyio.sleep(0.01)
            await other.ask("POST", f"/runs/{waiting}/cancel", 202)
            assert (await one.end(waiting))["error"]["type"] == "RunCancelled"
            left = await one.run("wait", session="talk")
            while world.count("wait") < 2:
                await anyio.sleep(0.01)
        view = await other.end(left)  # its service has stopped
        assert (view["status"], view["pending"][0]["kind"]) == ("needs_approval", "unknown")
        messages = (await other.ask("GET", "/sessions/talk", 200))["messages"]
        assert len(messages) == 8


async def test_of_runs_that_are_begun_in_a_session_at_once_one_stays(databases: Databases) -> None:
    async with service(databases) as one, service(databases) as other:
        await one_run_of_a_session_stays(one, other)


async def test_a_database_that_stops_is_an_error_of_the_service_and_runs_go_on_later(databases: Databases) -> None:
    async with service(databases, wait_s=1.0) as client:
        run_id = await client.run("shred a")
        (pending,) = (await client.end(run_id))["pending"]
        databases.server.stop()
        try:
            refused = await client.ask("GET", "/runs", 503)
        finally:
            databases.server.start()
        assert refused["error"]["code"] == "journal" and "cannot be used" in refused["error"]["message"]
        same = {"tool_call_id": pending["tool_call_id"], "digest": pending["digest"]}
        decisions = {"decisions": [{"decision": "approve", **same}]}
        await client.ask("POST", f"/runs/{run_id}/decisions", 202, json=decisions)
        assert (await client.end(run_id))["output"] == "done: shred a"


async def test_a_run_whose_database_stops_goes_on_from_its_last_stored_step(databases: Databases) -> None:
    world: list[str] = []

    def note(word: str) -> None:
        world.append(word)
        if len(world) == 1:  # the call has run, and its result cannot be stored
            databases.server.stop()

    async with service(databases, note, wait_s=1.0) as client:
        run_id = await client.run("a b")
        while not world:
            await anyio.sleep(0.01)
        try:
            await client.ask("GET", f"/runs/{run_id}", 503)
        finally:
            databases.server.start()
        while (response := await client.http.get(f"/runs/{run_id}")).status_code == 503 or (
            (view := response.json())["status"] == "running"
        ):  # 503: the service has not found the database again
            await anyio.sleep(0.05)
        (pending,) = view["pending"]
        assert (view["status"], pending["kind"]) == ("needs_approval", "unknown")
        same = {"tool_call_id": pending["tool_call_id"], "digest": pending["digest"]}
        decisions = {"decisions": [{"decision": "settle", "content": "filed a", **same}]}
        await client.ask("POST", f"/runs/{run_id}/decisions", 202, json=decisions)
        assert (await client.end(run_id))["output"] == "done: a b"
        assert world == ["a", "b"]
