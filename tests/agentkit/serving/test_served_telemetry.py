"""Spans of requests and of the runs that they begin, in one trace with the client, in whichever process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NoOpTracerProvider, SpanKind, StatusCode, use_span

from agentkit.persistence import SQLiteCheckpointer
from agentkit.serving import ServiceLimits, app
from agentkit.tracing.telemetry import Telemetry
from tests.agentkit.serving.served_agents import KEYS, clerk, client_of, listening, served
from tests.agentkit.serving.test_mcp_endpoint import mcp_client

pytestmark = pytest.mark.anyio

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADERS = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "congo=t61rcWkgMzE"}


class Collected:
    """Finished spans of one process."""

    def __init__(self) -> None:
        """Collect in memory."""
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.telemetry = Telemetry(tracer_provider=self.provider)

    def named(self, name: str) -> list[ReadableSpan]:
        """Return the spans with a name."""
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    async def one(self, name: str) -> ReadableSpan:
        """Return the only span with a name, once it has ended."""
        with anyio.fail_after(10):
            while not self.named(name):
                await anyio.sleep(0.01)
        (span,) = self.named(name)
        return span

    def text(self) -> str:
        """Return all spans as text."""
        return str([span.to_json() for span in self._exporter.get_finished_spans()])


def ids(span: ReadableSpan) -> tuple[str, str]:
    """Return the ids of a span's trace and of its parent."""
    assert span.parent is not None
    return f"{span.parent.trace_id:032x}", f"{span.parent.span_id:016x}"


def own_ids(span: ReadableSpan) -> tuple[str, str]:
    """Return the ids of a span's trace and of itself, as its children name them."""
    assert span.context is not None
    return f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def test_a_run_is_a_child_of_its_request_which_is_a_child_of_the_clients_span(tmp_path: Path) -> None:
    spans = Collected()
    async with served(clerk(telemetry=spans.telemetry), tmp_path / "runs.db") as client:
        body = {"prompt": "a", "session": "a private word"}
        asked = await client.ask("POST", "/runs", 201, json=body, headers=HEADERS)
        await client.end(asked["run_id"])
        await client.ask("GET", "/sessions/a private word", 200)
        request, run = await spans.one("POST /runs"), await spans.one("invoke_agent clerk")
        assert ids(request) == (TRACE, PARENT) and request.kind is SpanKind.SERVER
        assert attributes(request) == {
            "http.request.method": "POST",
            "http.route": "/runs",
            "url.path": "/runs",
            "url.scheme": "http",
            "network.protocol.version": "1.1",
            "http.response.status_code": 201,
        }
        assert ids(run) == own_ids(request)
        assert ids(await spans.one("execute_tool file")) == own_ids(run)
        assert run.context is not None and dict(run.context.trace_state) == {"congo": "t61rcWkgMzE"}
        other = await spans.one("GET /sessions/{session:path}")
        assert other.parent is None and "private" not in spans.text()


async def test_a_run_that_goes_on_in_another_process_stays_in_its_trace(tmp_path: Path) -> None:
    first, second = Collected(), Collected()
    world: list[str] = []
    limits = ServiceLimits(drain_s=0.1)
    async with served(
        clerk(world.append, telemetry=first.telemetry), tmp_path / "runs.db", limits=limits
    ) as client:
        run_ids = [
            (await client.ask("POST", "/runs", 201, json={"prompt": prompt}, headers=HEADERS))["run_id"]
            for prompt in ("wait", "shred")
        ]
        while "wait" not in world:
            await anyio.sleep(0.01)
        await client.end(run_ids[1])
    began = {own_ids(span) for span in first.named("POST /runs")}
    assert len(began) == 2
    async with served(clerk(world.append, telemetry=second.telemetry), tmp_path / "runs.db") as client:
        for run_id in run_ids:  # the first is taken up as it is found, the second by a decision
            (pending,) = (await client.end(run_id))["pending"]
            deny = {"decision": "deny", "tool_call_id": pending["tool_call_id"]}
            elsewhere = {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}
            body = {"decisions": [deny]}
            await client.ask("POST", f"/runs/{run_id}/decisions", 202, json=body, headers=elsewhere)
            await client.end(run_id)
        runs = second.named("invoke_agent clerk")
        assert len(runs) == 3 and {ids(run) for run in runs} == began
        decisions = second.named("POST /runs/{run_id}/decisions")
        assert {ids(span) for span in decisions} == {("1" * 32, "2" * 16)}


USER = {"id": "m", "role": "user"}
PROTOCOLS: Mapping[str, Mapping[str, Any]] = {
    "/ag-ui": {"threadId": "t", "runId": "r", "messages": [USER | {"content": "a"}]},
    "/vercel": {"id": "chat", "messages": [USER | {"parts": [{"type": "text", "text": "a"}]}]},
    "/v1/chat/completions": {"model": "agent", "messages": [{"role": "user", "content": "a"}]},
    "/v1/responses": {"model": "agent", "input": "a"},
    "/forks": {"messages": [{"kind": "request", "parts": [{"content": "a", "part_kind": "user-prompt"}]}]},
    "/a2a": {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "SendMessage",
        "params": {"message": {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "a"}]}},
    },
}
"""Bodies that begin a run, by path."""


@pytest.mark.parametrize("path", PROTOCOLS)
async def test_requests_of_all_protocols_are_parents_of_their_runs(tmp_path: Path, path: str) -> None:
    spans = Collected()
    async with served(clerk(telemetry=spans.telemetry), tmp_path / "runs.db") as client:
        headers = {**HEADERS, "A2A-Version": "1.0"}
        response = await client.http.post(path, json=PROTOCOLS[path], headers=headers)
        assert response.status_code in (200, 201), response.text
        request, run = await spans.one(f"POST {path}"), await spans.one("invoke_agent clerk")
        assert ids(request) == (TRACE, PARENT) and ids(run) == own_ids(request)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_calls_of_the_mcp_server_are_parents_of_their_runs_and_are_counted(
    tmp_path: Path, mode: Any
) -> None:
    spans = Collected()
    async with served(clerk(telemetry=spans.telemetry), tmp_path / "runs.db", key="ann") as client:
        async with mcp_client(client, "ann", mode=mode) as asked:
            found = await asked.call_tool("ask", {"task": "a"})
            assert found.structured_content is not None and found.structured_content["answer"] == "done: a"
        run = await spans.one("invoke_agent clerk")
        await client.ask("POST", "/mcp/", 401, json={}, headers={"Authorization": "Bearer wrong"})
        await client.http.request("PROPFIND", "/mcp/")
        requests = spans.named("POST /mcp")
        assert ids(run) in {own_ids(span) for span in requests}
        counted = (await client.http.get("/metrics")).text
        posts = [attributes(span)["http.response.status_code"] for span in requests]
        for status in set(posts):
            line = (
                f'agentkit_requests_total{{method="POST",path="/mcp",status="{status}"}} {posts.count(status)}.0'
            )
            assert line in counted, counted
        assert 401 in posts and 'method="_OTHER",path="/mcp"' in counted and "PROPFIND" not in counted


@pytest.mark.parametrize(
    ("path", "key", "status", "error_type"),
    [("/agent", "ann", 200, None), ("/agent", None, 401, None), ("/health/ready", None, 503, "503")],
)
async def test_only_failures_of_the_server_are_errors(
    tmp_path: Path, path: str, key: str | None, status: int, error_type: str | None
) -> None:
    spans = Collected()
    made = app(clerk(telemetry=spans.telemetry), journal=tmp_path / "runs.db", keys=KEYS)
    async with listening(unstarted(made)) as url, client_of(url, key) as client:
        await client.ask("GET", path, status)
        span = await spans.one(f"GET {path}")
        found = attributes(span)
        assert (found["http.response.status_code"], found.get("error.type")) == (status, error_type)
        assert (span.status.status_code is StatusCode.ERROR) == (error_type is not None)


def unstarted(made: Any) -> Callable[..., Any]:
    """Return an application that is not told that the server starts."""

    async def asked(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await made(scope, receive, send)

    return asked


async def test_a_broken_stream_is_an_error(tmp_path: Path) -> None:
    spans = Collected()
    made = app(clerk(telemetry=spans.telemetry), journal=tmp_path / "runs.db")
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/agent",
        "headers": [(b"host", b"localhost")],
        "scheme": "http",
        "http_version": "1.1",
        "query_string": b"",
        "server": ("localhost", 80),
    }

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            raise OSError("the client has gone")

    with pytest.raises(OSError, match="has gone"):
        await made(scope, receive, send)
    (span,) = spans.named("GET /agent")
    assert attributes(span)["error.type"] == "OSError" and span.status.status_code is StatusCode.ERROR


async def test_an_instrumented_application_keeps_its_own_span_as_the_servers(tmp_path: Path) -> None:
    spans = Collected()
    made = app(clerk(telemetry=spans.telemetry), journal=tmp_path / "runs.db")
    outer: Any = spans.provider.get_tracer("application").start_span("GET", kind=SpanKind.SERVER)

    async def instrumented(scope: Any, receive: Any, send: Any) -> None:
        with use_span(outer):
            await made(scope, receive, send)

    async with listening(instrumented) as url, client_of(url) as client:
        await client.ask("GET", "/agent", 200, headers=HEADERS)
    span = await spans.one("GET /agent")
    assert (span.kind, ids(span)) == (SpanKind.INTERNAL, own_ids(outer))


async def stored_trace(journal: Path, telemetry: Telemetry | None, headers: Mapping[str, str]) -> dict[str, str]:
    """Return what is stored of a trace with a run that was asked for with some headers."""
    async with served(clerk(telemetry=telemetry), journal) as client:
        run_id = (await client.ask("POST", "/runs", 201, json={"prompt": "a"}, headers=headers))["run_id"]
        assert (await client.end(run_id))["output"] == "done: a"
    metadata = (await SQLiteCheckpointer(journal).summary(run_id)).metadata
    return {key: value for key, value in metadata.items() if "trace" in key}


async def test_without_an_sdk_the_clients_context_is_passed_on(tmp_path: Path) -> None:
    telemetry = Telemetry(tracer_provider=NoOpTracerProvider())
    found = await stored_trace(tmp_path / "runs.db", telemetry, HEADERS)
    assert found == {f"agentkit.{name}": value for name, value in HEADERS.items()}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"traceparent": "00-zz-1-01"},
        {"traceparent": f"00-{'0' * 32}-{PARENT}-01"},
        {"traceparent": "x" * 9000},
    ],
)
async def test_a_context_that_is_none_is_not_stored(tmp_path: Path, headers: Mapping[str, str]) -> None:
    telemetry = Telemetry(tracer_provider=NoOpTracerProvider())
    assert await stored_trace(tmp_path / "runs.db", telemetry, headers) == {}


async def test_a_long_state_is_not_stored(tmp_path: Path) -> None:
    telemetry = Telemetry(tracer_provider=NoOpTracerProvider())
    state = ",".join(f"vendor{n}={'x' * 200}" for n in range(3))
    found = await stored_trace(tmp_path / "runs.db", telemetry, {**HEADERS, "tracestate": state})
    assert found == {"agentkit.traceparent": HEADERS["traceparent"]}


async def test_an_agent_without_telemetry_stores_no_context(tmp_path: Path) -> None:
    assert await stored_trace(tmp_path / "runs.db", None, HEADERS) == {}


def test_agents_of_editors_import_neither_spans_nor_a_server() -> None:
    code = "import sys, agentkit.serving.worker; print({'opentelemetry', 'starlette'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()", done.stdout
