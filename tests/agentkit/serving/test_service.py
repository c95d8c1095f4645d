"""Runs over HTTP: accepted, followed, decided about, cancelled, resumed, and kept apart."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from agentkit import RunContext
from agentkit.errors import UserError
from agentkit.events import RewardEvent
from agentkit.persistence import InMemoryCheckpointer, InMemorySession, SQLiteCheckpointer
from agentkit.serving import ServiceLimits, app
from agentkit.serving.service import FIRST_PAGE
from tests.agentkit.serving.killed_servers import text_after_last_request
from tests.agentkit.serving.served_agents import (
    KEYS,
    clerk,
    client_of,
    kinds,
    listening,
    one_run_of_a_session_stays,
    served,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


async def test_a_run_is_followed_to_its_result(journal: Path) -> None:
    async with served(clerk(), journal) as client:
        run_id = await client.run("a b")
        events = await client.events(run_id)
        assert [event["number"] for event in events] == list(range(1, len(events) + 1))
        calls = ["model_request", "model_response", "tool_call", "tool_result"]
        assert kinds(events) == [
            "run_requested",
            "run_started",
            *calls,
            *calls,
            "model_request",
            "model_response",
            "run_finished",
        ]
        view = await client.end(run_id)
        assert (view["status"], view["output"], view["pending"]) == ("completed", "done: a b", [])
        assert view["usage"]["tool_calls"] == 2
        assert await client.events(run_id, after=len(events)) == []  # 204: an EventSource asks no more
        assert await client.events(run_id, after=5) == events[5:]
        (listed,) = (await client.ask("GET", "/runs", 200))["runs"]
        assert listed["run_id"] == run_id
        await client.ask("DELETE", f"/runs/{run_id}", 204)
        await client.ask("GET", f"/runs/{run_id}", 404)


async def test_a_request_may_be_answered_with_the_stream(journal: Path) -> None:
    async with served(clerk(), journal) as client:
        headers = {"Accept": "text/event-stream"}
        async with client.http.stream("POST", "/runs", json={"prompt": "a"}, headers=headers) as response:
            text = (await response.aread()).decode()
        assert response.headers["content-type"].startswith("text/event-stream")
        assert text.startswith('id: 1\ndata: {"number":1,') and '"event_kind":"run_finished"' in text
        assert response.headers["run-id"] in text


async def test_a_session_goes_on_and_has_one_run_at_a_time(journal: Path) -> None:
    async with served(clerk(), journal) as client:
        await client.end(await client.run("a", session="talk"))
        waiting = await client.run("shred", session="talk")
        assert (await client.end(waiting))["status"] == "needs_approval"
        refused = await client.ask("POST", "/runs", 409, json={"prompt": "b", "session": "talk"})
        assert refused["error"]["code"] == "session_busy" and waiting in refused["error"]["message"]
        await client.end(await client.run("b", session="other"))
        await client.ask("POST", f"/runs/{waiting}/cancel", 202)
        await client.end(await client.run("c", session="talk"))
        messages = (await client.ask("GET", "/sessions/talk", 200))["messages"]
        assert len(messages) == 8  # two runs of four; the cancelled one left nothing
        assert len((await client.ask("GET", "/runs?session=talk", 200))["runs"]) == 3
        await client.ask("DELETE", "/sessions/talk", 204)
        assert (await client.ask("GET", "/sessions/talk", 200))["messages"] == []


async def test_of_runs_that_are_begun_in_a_session_at_once_one_stays(journal: Path) -> None:
    async with served(clerk(), journal) as one, served(clerk(), journal) as other:
        await one_run_of_a_session_stays(one, other)


async def test_a_run_whose_session_went_on_without_it_fails(journal: Path) -> None:
    async with served(clerk(), journal) as client:
        failed = await client.run("a boom", session="talk")
        assert (await client.end(failed))["status"] == "failed"
        await client.end(await client.run("b", session="talk"))
        await client.ask("POST", f"/runs/{failed}/resume", 202)
        view = await client.end(failed)
        assert (view["status"], view["error"]["type"]) == ("failed", "CheckpointError")
        assert "has gone on since" in view["error"]["message"]


async def test_decisions_name_what_was_shown_and_count_once(journal: Path) -> None:
    world: list[str] = []
    async with served(clerk(world.append), journal) as client:
        run_id = await client.run("a shred b")
        first = await client.events(run_id)
        assert kinds(first)[-2:] == ["approval_requested", "run_finished"] and world == ["a"]
        (pending,) = (await client.end(run_id))["pending"]
        path, approve = (
            f"/runs/{run_id}/decisions",
            {"decision": "approve", "tool_call_id": pending["tool_call_id"]},
        )
        stale = await client.ask("POST", path, 409, json={"decisions": [approve | {"digest": "0" * 64}]})
        assert stale["error"]["code"] == "stale_decision" and pending["digest"] in stale["error"]["message"]
        unknown = {"decision": "deny", "tool_call_id": "call_none"}
        refused = await client.ask("POST", path, 409, json={"decisions": [unknown]})
        assert "call_none" in refused["error"]["message"] and world == ["a"]
        settle = {"decision": "settle", "tool_call_id": pending["tool_call_id"], "content": "x"}
        refused = await client.ask("POST", path, 409, json={"decisions": [settle]})
        assert "has not run" in refused["error"]["message"]

        body = {"decisions": [approve | {"digest": pending["digest"]}]}
        responses = await asyncio.gather(*(client.http.post(path, json=body) for _ in range(2)))
        assert sorted(response.status_code for response in responses) == [202, 409]
        view = await client.end(run_id)
        assert (view["status"], world) == ("completed", ["a", "shred", "b"])
        rest = await client.events(run_id, after=len(first))
        assert kinds(rest)[:2] == ["decision", "run_resumed"] and kinds(rest)[-1] == "run_finished"
        assert kinds(rest).count("decision") == 1
        late = await client.ask("POST", path, 409, json=body)
        assert late["error"]["code"] == "not_waiting"


async def test_a_denied_call_is_told_to_the_model(journal: Path) -> None:
    world: list[str] = []
    async with served(clerk(world.append), journal) as client:
        run_id = await client.run("shred")
        (pending,) = (await client.end(run_id))["pending"]
        deny = {"decision": "deny", "tool_call_id": pending["tool_call_id"], "reason": "keep it"}
        await client.ask("POST", f"/runs/{run_id}/decisions", 202, json={"decisions": [deny]})
        assert (await client.end(run_id))["status"] == "completed" and world == []


async def test_an_idempotency_key_begins_one_run(journal: Path) -> None:
    async with served(clerk(), journal) as client:
        headers = {"Idempotency-Key": "order 7"}
        asked: dict[str, Any] = {"json": {"prompt": "a"}, "headers": headers}
        ids = await asyncio.gather(*(client.ask("POST", "/runs", 201, **asked) for _ in range(5)))
        assert len({each["run_id"] for each in ids}) == 1
        assert len((await client.ask("GET", "/runs", 200))["runs"]) == 1
        other = await client.ask("POST", "/runs", 409, json={"prompt": "b"}, headers=headers)
        assert other["error"]["code"] == "idempotency_conflict"


async def test_a_running_run_is_cancelled_and_can_be_resumed(journal: Path) -> None:
    world: list[str] = []
    async with served(clerk(world.append), journal) as client:
        run_id = await client.run("a wait")
        while world != ["a", "wait"]:
            await anyio.sleep(0.01)
        refused = await client.ask("DELETE", f"/runs/{run_id}", 409)
        assert refused["error"]["code"] == "held"
        await client.ask("POST", f"/runs/{run_id}/cancel", 202)
        view = await client.end(run_id)
        assert (view["status"], view["error"]) == (
            "failed",
            {"type": "RunCancelled", "message": "local cancelled it."},
        )
        events = await client.events(run_id)
        assert kinds(events)[-2:] == ["cancel_requested", "run_failed"] and kinds(events).count("run_failed") == 1
        refused = await client.ask("POST", f"/runs/{run_id}/cancel", 409)
        assert refused["error"]["code"] == "ended"
        await client.ask("POST", f"/runs/{run_id}/resume", 202)
        view = await client.end(run_id)
        assert (view["status"], view["pending"][0]["kind"]) == ("needs_approval", "unknown")
        assert world == ["a", "wait"]


async def test_a_run_ends_at_its_deadline(journal: Path) -> None:
    async with served(clerk(), journal) as client:
        run_id = await client.run("wait", timeout_s=0.2)
        assert (await client.end(run_id))["error"]["type"] == "DeadlineExceeded"
        refused = await client.ask("POST", "/runs", 400, json={"prompt": "a", "timeout_s": 0})
        assert refused["error"]["param"] == "timeout_s"


async def test_a_resumed_run_has_a_new_deadline_wherever_it_goes_on(journal: Path) -> None:
    limits = ServiceLimits(max_runs=1, drain_s=0.2)
    async with served(clerk(), journal, limits=limits) as client:
        failed = await client.run("boom", timeout_s=0.3)
        assert (await client.end(failed))["error"]["type"] == "RuntimeError"
        hog = await client.run("wait")
        await anyio.sleep(0.3)
        await client.ask("POST", f"/runs/{failed}/resume", 202)  # taken up later, from the journal
        await client.ask("POST", f"/runs/{hog}/cancel", 202)
        assert (await client.end(failed))["error"]["type"] == "RuntimeError"
        asked, resumed = (e for e in await client.events(failed) if e["event_kind"].endswith("_requested"))
        assert asked["deadline"] < asked["time"] + 1 < resumed["deadline"]


async def test_a_process_takes_up_runs_until_its_last_place(journal: Path) -> None:
    async with (
        served(clerk(), journal, limits=ServiceLimits(max_runs=3, drain_s=0.2)) as one,
        served(clerk(), journal, limits=ServiceLimits(max_runs=1, drain_s=0.2)) as other,
    ):
        for client in (one, one, other):
            await client.run("wait")
        assert (await one.end(await other.run("a")))["output"] == "done: a"


async def test_a_failure_is_told_and_the_run_can_be_resumed(journal: Path) -> None:
    async with served(clerk(), journal) as client:
        run_id = await client.run("a boom")
        view = await client.end(run_id)
        assert (view["status"], view["error"]) == (
            "failed",
            {"type": "RuntimeError", "message": "the model burst"},
        )
        assert kinds(await client.events(run_id))[-1] == "run_failed"
        await client.ask("POST", f"/runs/{run_id}/resume", 202)
        assert (await client.end(run_id))["status"] == "failed"
        refused = await client.ask("POST", f"/runs/{await client.run('a')}/resume", 409)
        assert refused["error"]["code"] == "not_ended"


async def test_runs_beyond_the_places_wait_and_too_many_are_refused(journal: Path) -> None:
    world: list[str] = []
    limits = ServiceLimits(max_runs=1, max_waiting=2, drain_s=0.2)
    async with served(clerk(world.append), journal, limits=limits) as client:
        first = await client.run("wait")
        waiting = [await client.run(word) for word in ("a", "b")]
        refused = await client.ask("POST", "/runs", 503, json={"prompt": "c"})
        assert refused["error"]["code"] == "busy"
        assert kinds(await client.events(waiting[0], most=1)) == ["run_requested"]
        await client.ask("POST", f"/runs/{waiting[0]}/cancel", 202)
        await client.ask("POST", f"/runs/{first}/cancel", 202)
        assert (await client.end(waiting[1]))["output"] == "done: b"
        assert (await client.end(waiting[0]))["error"]["type"] == "RunCancelled" and world == ["wait", "b"]


async def test_a_service_that_stops_leaves_runs_to_the_next(journal: Path) -> None:
    world: list[str] = []
    async with served(clerk(world.append), journal) as client:
        run_id = await client.run("wait")
        while not world:
            await anyio.sleep(0.01)
    async with served(clerk(world.append), journal) as client:
        view = await client.end(run_id)
        assert (view["status"], view["pending"][0]["kind"], world) == ("needs_approval", "unknown", ["wait"])
        (pending,) = view["pending"]
        settle = {"decision": "settle", "tool_call_id": pending["tool_call_id"], "content": "waited"}
        await client.ask("POST", f"/runs/{run_id}/decisions", 202, json={"decisions": [settle]})
        assert (await client.end(run_id))["output"] == "done: wait"
        events = await client.events(run_id)
        assert "run_failed" not in kinds(events) and kinds(events).count("run_finished") == 2


async def test_a_stored_answer_is_not_taken_back_when_another_service_ends_the_run(journal: Path) -> None:
    checking = anyio.Event()
    agents = [clerk(), clerk()]

    @agents[0].output_validator
    async def check(context: RunContext[None], output: str) -> str:
        checking.set()
        await anyio.sleep_forever()
        return output

    async with served(agents[0], journal) as client:
        run_id = await client.run("a")
        await checking.wait()
    async with served(agents[1], journal) as client:
        assert (await client.end(run_id))["output"] == "done: a"
        events = await client.events(run_id)
    assert kinds(events)[-3:] == ["model_response", "run_resumed", "run_finished"]
    assert text_after_last_request(events) == "done: a"


async def test_two_processes_share_a_journal(journal: Path) -> None:
    """Two services with a connection each: one performs, the other follows, decides and cancels."""
    world: list[str] = []
    idle = ServiceLimits(max_runs=1, drain_s=0.2)
    async with (
        served(clerk(world.append), journal) as one,
        served(clerk(world.append), journal, limits=idle) as other,
    ):
        run_id = await one.run("a shred")
        assert kinds(await other.events(run_id))[-1] == "run_finished"
        (pending,) = (await other.end(run_id))["pending"]
        approve = {
            "decision": "approve",
            "tool_call_id": pending["tool_call_id"],
            "digest": pending["digest"],
        }
        await other.ask("POST", f"/runs/{run_id}/decisions", 202, json={"decisions": [approve]})
        assert (await one.end(run_id))["status"] == "completed" and world == ["a", "shred"]
        long = await one.run("wait")
        while world[-1] != "wait":
            await anyio.sleep(0.01)
        await other.ask("POST", f"/runs/{long}/cancel", 202)
        assert (await other.end(long))["error"]["type"] == "RunCancelled"


async def test_what_belongs_to_one_key_is_unknown_to_another(journal: Path) -> None:
    async with served(clerk(), journal, key="ann") as ann:
        url = str(ann.http.base_url)
        run_id = await ann.run("a shred", session="talk")
        await ann.end(run_id)
        async with client_of(url, "bob") as bob, client_of(url) as nobody:
            deny = {"decisions": [{"decision": "deny", "tool_call_id": "x"}]}
            routes: list[tuple[str, str, dict[str, Any]]] = [
                ("GET", f"/runs/{run_id}", {}),
                ("GET", f"/runs/{run_id}/events", {}),
                ("POST", f"/runs/{run_id}/decisions", {"json": deny}),
                ("POST", f"/runs/{run_id}/cancel", {}),
                ("POST", f"/runs/{run_id}/resume", {}),
                ("DELETE", f"/runs/{run_id}", {}),
            ]
            for method, path, options in routes:
                assert (await bob.ask(method, path, 404, **options))["error"]["code"] == "not_found"
            assert (await bob.ask("GET", "/runs", 200))["runs"] == []
            assert (await bob.ask("GET", "/sessions/talk", 200))["messages"] == []
            closed = [*routes, ("GET", "/runs", {}), ("POST", "/runs", {"json": {"prompt": "a"}})]
            closed += [("GET", path, {}) for path in ("/sessions/talk", "/agent", "/metrics")]
            closed += [("DELETE", "/sessions/talk", {})]
            wrong = {"Authorization": f"Bearer {KEYS['ann']}x"}
            for method, path, options in closed:
                assert (await nobody.ask(method, path, 401, **options))["error"]["code"] == "unauthorized"
                await nobody.ask(method, path, 401, headers=wrong, **options)
            await nobody.ask("GET", "/health/live", 200)
        assert (await ann.end(run_id))["status"] == "needs_approval"


async def test_web_pages_and_foreign_names_are_refused(journal: Path) -> None:
    async with served(clerk(), journal, origins=["https://app.example"]) as client:
        body = {"prompt": "a"}
        for header, value in (("Origin", "https://evil.example"), ("Host", "evil.example")):
            refused = await client.ask("POST", "/runs", 403, json=body, headers={header: value})
            assert value in refused["error"]["message"]
        for origin in ("https://app.example", str(client.http.base_url)):
            await client.ask("POST", "/runs", 201, json=body, headers={"Origin": origin})


async def test_a_browser_is_told_which_pages_may_ask(journal: Path) -> None:
    page = "https://app.example"
    async with served(clerk(), journal, key="ann", origins=[page]) as client:
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        for origin, status in ((page, 200), ("https://evil.example", 400)):
            headers = {"Origin": origin, "Authorization": "", **asked}
            response = await client.http.options("/runs", headers=headers)
            allowed = response.headers.get("access-control-allow-origin")
            assert (response.status_code, allowed) == (status, page if status == 200 else None)
        response = await client.http.post("/runs", json={"prompt": "a"}, headers={"Origin": page})
        assert response.headers["access-control-allow-origin"] == page
        assert "Run-Id" in response.headers["access-control-expose-headers"]


@pytest.mark.parametrize(
    ("given", "status", "told"),
    [
        ("x", 400, "Last-Event-ID 'x' is not the number of an event"),
        ("-1", 400, "'-1'"),
        ("9" * 40, 400, "is not the number"),
        ("99", 400, "and none with number 99"),
    ],
)
async def test_a_wrong_event_id_is_named(journal: Path, given: str, status: int, told: str) -> None:
    async with served(clerk(), journal) as client:
        run_id = await client.run("wait")
        headers = {"Last-Event-ID": given}
        refused = await client.ask("GET", f"/runs/{run_id}/events", status, headers=headers)
        assert told in refused["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"", 400, "not JSON"),
        (b'{"prompt": 1}', 400, "prompt"),
        (b'{"prompt": ""}', 400, "prompt"),
        (b'{"prompt": "a", "tools": []}', 400, "'tools' is not known"),
        (b"\xff", 400, "UTF-8"),
        (b'{"prompt": "' + b"a" * 9_000_000 + b'"}', 413, "8,000,000"),
        (b"[" * 100_000, 400, "nested"),
    ],
)
async def test_a_wrong_body_is_named(journal: Path, body: bytes, status: int, told: str) -> None:
    async with served(clerk(), journal) as client:
        refused = await client.ask("POST", "/runs", status, content=body)
        assert told in refused["error"]["message"]
        assert (await client.ask("GET", "/runs", 200))["runs"] == []


async def test_the_figures_and_the_health_of_a_service(journal: Path) -> None:
    async with served(clerk(), journal) as client:
        await client.ask("GET", "/health/live", 200)
        await client.ask("GET", "/health/ready", 200)
        agent = await client.ask("GET", "/agent", 200)
        assert agent == {"name": "clerk", "service": "agent", "client": "local"}
        figures = (await client.http.get("/metrics")).text
        assert 'agentkit_requests_total{method="GET",path="/agent",status="200"} 1.0' in figures
        missing = await client.ask("GET", "/nothing", 404)
        assert "GET /nothing does not exist" in missing["error"]["message"]
        await client.ask("PUT", "/runs", 405)


async def test_an_application_that_mounts_the_service_starts_it(journal: Path) -> None:
    mounted = app(clerk(), journal=journal)
    async with listening(Starlette(routes=[Mount("/desk", mounted)])) as url, client_of(url) as client:
        assert (await client.ask("GET", "/desk/health/ready", 503))["error"]["code"] == "closing"
        refused = await client.ask("POST", "/desk/runs", 503, json={"prompt": "a"})
        assert refused["error"]["code"] == "closing"
        async with mounted.running():
            run_id = (await client.ask("POST", "/desk/runs", 201, json={"prompt": "a"}))["run_id"]
            assert (await client.ask("GET", f"/desk/runs/{run_id}?wait=9", 200))["output"] == "done: a"


@pytest.mark.parametrize("path", ["/runs", "/ag-ui", "/vercel", "/v1/chat/completions", "/a2a", "/mcp/"])
async def test_a_body_that_is_too_large_is_refused_at_every_endpoint(journal: Path, path: str) -> None:
    async with served(clerk(), journal) as client:
        headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        response = await client.http.post(path, content=b"[" + b"1," * 4_500_000, headers=headers)
        assert response.status_code == 413, response.text
        assert (await client.ask("GET", "/runs", 200))["runs"] == []


async def test_ended_runs_are_deleted_after_their_time(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentkit.serving.worker.SWEEP_S", 0.05)
    async with served(clerk(), journal, limits=ServiceLimits(keep_s=0.1, drain_s=0.1)) as client:
        ended, waiting = await client.run("a", session="talk"), await client.run("shred")
        while len((await client.ask("GET", "/runs", 200))["runs"]) > 1:
            await anyio.sleep(0.02)
        await client.ask("GET", f"/runs/{ended}", 404)
        assert (await client.end(waiting))["status"] == "needs_approval"
        assert len((await client.ask("GET", "/sessions/talk", 200))["messages"]) == 4


async def test_runs_in_memory_are_served_too(tmp_path: Path) -> None:
    async with served(clerk(), InMemoryCheckpointer(), session_of=InMemorySession) as client:
        assert (await client.end(await client.run("a")))["output"] == "done: a"


def test_a_journal_must_store_events_and_have_conversations() -> None:
    wrong: Any = object()
    with pytest.raises(UserError, match="name a file, or an EventCheckpointer"):
        app(clerk(), journal=wrong)
    with pytest.raises(UserError, match="InMemoryCheckpointer keeps no conversations"):
        app(clerk(), journal=InMemoryCheckpointer())


async def test_events_are_in_the_journal_of_the_run(journal: Path) -> None:
    async with served(clerk(), journal) as client:
        run_id = await client.run("a")
        await client.end(run_id)
    stored = await SQLiteCheckpointer(journal).events(run_id)
    assert [each.number for each in stored] == list(range(1, len(stored) + 1))


@pytest.mark.parametrize("n_further", [0, 1, 2])
async def test_an_ended_run_is_told_whole_whether_it_fits_a_page_or_not(journal: Path, n_further: int) -> None:
    async with served(clerk(), journal) as client:
        run_id = await client.run("a")
        await client.end(run_id)
        keeper = SQLiteCheckpointer(journal)
        n_before = len(await keeper.events(run_id))
        for n in range(FIRST_PAGE - 1 - n_before + n_further):
            await keeper.append_event(run_id, RewardEvent(n, "grader"))
        events = await client.events(run_id)
        assert [event["number"] for event in events] == list(range(1, FIRST_PAGE + n_further))
        assert {event["event_kind"] for event in events[n_before:]} == {"reward"}
        response = await client.http.get(f"/runs/{run_id}/events")
        told = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-store"}
        told["x-accel-buffering"] = "no"
        assert {name: response.headers.get(name) for name in told} == told
        assert ("content-length" in response.headers) == (n_further == 0)
