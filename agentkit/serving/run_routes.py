"""The served agent's own interface: runs, their events from any number on, decisions, forks and rewards.

`docs/guides/serving-agents.md` lists the routes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import anyio
from pydantic import Field
from sse_starlette.sse import EventSourceResponse
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from agentkit.events import RewardEvent, RunFailedEvent, RunFinishedEvent
from agentkit.file_references import references_in, with_files
from agentkit.files import media_type_of
from agentkit.persistence.checkpointer import UNENDED, RunSummary
from agentkit.persistence.stored_events import StoredEvent
from agentkit.serving.bodies import DecisionsBody, RunBody
from agentkit.serving.errors import RequestRefused
from agentkit.serving.followers import Batches, until_end, wait_for_end
from agentkit.serving.forks import ForkBody, words_of
from agentkit.serving.given_files import content_of
from agentkit.serving.limits import ServiceLimits
from agentkit.serving.run_request import RunRequest
from agentkit.serving.service import FIRST_PAGE, AgentService
from agentkit.serving.worker import SESSION
from agentkit.tracing.jsonl import DELTAS, trace_line
from modelstack.inference.server.bodies import Body, BodyT, read_body

MOST_LISTED = 1000
MOST_WAIT_S = 300.0
"""Longest time for which `GET /runs/ID?wait=S` waits for the end of a run."""
STREAM_HEADERS: Mapping[str, str] = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""Headers of server-sent events in one piece: no proxy keeps them; nginx passes them on at once."""
Endpoint = Callable[[Request, str], Awaitable[Response]]
"""Answers a request of the client with a name."""


class RewardBody(Body):
    """Reward of an ended run."""

    reward: float = Field(allow_inf_nan=False)
    step: int | None = Field(default=None, ge=1)
    source: str | None = Field(default=None, min_length=1, max_length=200)
    """Name of the grader; None: the client's name."""


class RunRoutes:
    """Endpoints of runs, by method and path."""

    def __init__(self, service: AgentService) -> None:
        """Answer for a service."""
        self.service = service
        self.by_method: dict[str, dict[str, Endpoint]] = {
            "GET": {
                "/runs": self._list,
                "/runs/{run_id}": self._run,
                "/runs/{run_id}/events": self._events,
                "/runs/{run_id}/trace": self._trace,
                "/runs/{run_id}/files/{sha256}": self._file,
            },
            "POST": {
                "/runs": self._submit,
                "/forks": self._fork,
                "/runs/{run_id}/decisions": self._decide,
                "/runs/{run_id}/cancel": self._cancel,
                "/runs/{run_id}/resume": self._resume,
                "/runs/{run_id}/rewards": self._reward,
            },
            "DELETE": {"/runs/{run_id}": self._delete},
        }

    async def _submit(self, request: Request, owner: str) -> Response:
        body = await read(request, RunBody, self.service.limits)
        key = request.headers.get("idempotency-key")
        items = [body.prompt] if isinstance(body.prompt, str) else body.prompt
        prompt = content_of(items, self.service.file_limits)
        return await self._accepted(request, RunRequest(prompt, body.session, key, body.timeout_s), owner)

    async def _fork(self, request: Request, owner: str) -> Response:
        body = await read(request, ForkBody, self.service.limits)
        messages = body.conversation()
        if body.run_id is not None:
            hashes = references_in(messages)
            files = {sha256: await self.service.file(body.run_id, sha256, owner) for sha256 in hashes}
            messages = with_files(messages, files, whose=f"run {body.run_id!r}")
        key = request.headers.get("idempotency-key")
        asked = RunRequest(words_of(messages), None, key, body.timeout_s, history=messages, is_fork=True)
        return await self._accepted(request, asked, owner)

    async def _accepted(self, request: Request, asked: RunRequest, owner: str) -> Response:
        run_id = await self.service.submit(asked, owner)
        headers = {"Location": f"runs/{run_id}", "Run-Id": run_id}
        if "text/event-stream" in request.headers.get("accept", ""):
            lines = _lines(until_end(await self.service.follow(run_id, 0, owner)))
            return streaming(lines, headers, self.service.limits)
        return JSONResponse({"run_id": run_id}, status_code=201, headers=headers)

    async def _list(self, request: Request, owner: str) -> Response:
        limit = _number(request, "limit", 100, most=MOST_LISTED)
        found = await self.service.runs(owner, session=request.query_params.get("session"), limit=int(limit))
        return JSONResponse({"runs": [_entry(summary) for summary in found]})

    async def _run(self, request: Request, owner: str) -> Response:
        run_id = request.path_params["run_id"]
        if wait_s := _number(request, "wait", 0.0, most=MOST_WAIT_S):
            with anyio.move_on_after(wait_s):
                await self._ended(run_id, owner)
        stored, end = await self.service.stored(run_id, owner)
        pending = [asdict(call) for call in stored.state.pending]
        view = {**_entry(stored.summary), "pending": pending, "usage": stored.state.usage.as_json()}
        if isinstance(end, RunFinishedEvent):
            view |= {"output": end.output, "confidence": end.confidence}
        elif isinstance(end, RunFailedEvent):
            view["error"] = {"type": end.error_type, "message": end.error}
        return JSONResponse(view)

    async def _ended(self, run_id: str, owner: str) -> None:
        """Wait until a run does not go on."""
        n_before = await self.service.n_events(run_id, owner)  # the end of a run that still goes on comes behind
        if (await self.service.summary(run_id, owner)).status == "running":
            await wait_for_end(await self.service.follow(run_id, n_before, owner))

    async def _events(self, request: Request, owner: str) -> Response:
        run_id = request.path_params["run_id"]
        given = request.headers.get("last-event-id") or request.query_params.get("after") or "0"
        if not (given.isascii() and given.isdecimal() and len(given) < 16):
            raise RequestRefused("bad_request", f"Last-Event-ID {given!r} is not the number of an event.")
        after = int(given)
        goes_on = after == 0 and self.service.performs(run_id, owner)  # its end is among its events
        run = None if goes_on else await self.service.summary(run_id, owner)
        if run is None or run.status in UNENDED:
            batches = until_end(await self.service.follow(run_id, after, owner))
            return streaming(_lines(batches), {}, self.service.limits)
        if after and not await self.service.n_events_behind(run_id, after, owner):
            return Response(status_code=204)  # all is read: an EventSource does not ask again
        return await self._told(self.service.pages(run, after))  # rewards behind its end too

    async def _told(self, pages: Batches) -> Response:
        """Return the events of an ended run; a single page at once, without tasks that keep a stream alive."""
        first = await anext(pages, ())
        if len(first) < FIRST_PAGE:
            return Response(b"".join(map(_line, first)), headers=STREAM_HEADERS, media_type="text/event-stream")
        return streaming(_lines(_behind(first, pages)), {}, self.service.limits)

    async def _trace(self, request: Request, owner: str) -> Response:
        run_id = request.path_params["run_id"]
        pages = self.service.pages(await self.service.summary(run_id, owner))
        lines = (
            b"".join(trace_line(each.event, each.time) for each in events if not isinstance(each.event, DELTAS))
            async for events in pages
        )
        name = {"Content-Disposition": f'attachment; filename="{run_id}.jsonl"'}
        return StreamingResponse(lines, headers=name, media_type="application/x-ndjson")

    async def _file(self, request: Request, owner: str) -> Response:
        run_id, sha256 = request.path_params["run_id"], request.path_params["sha256"]
        data = await self.service.file(run_id, sha256, owner)
        # Its kind is found out from its bytes: a page that claims to be an image must not be shown as a page.
        headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "private, immutable, max-age=86400"}
        return Response(data, media_type=media_type_of(data) or "application/octet-stream", headers=headers)

    async def _decide(self, request: Request, owner: str) -> Response:
        body = await read(request, DecisionsBody, self.service.limits)
        run_id = request.path_params["run_id"]
        await self.service.decide(run_id, [each.as_decision() for each in body.decisions], owner)
        return JSONResponse({"run_id": run_id}, status_code=202)

    async def _cancel(self, request: Request, owner: str) -> Response:
        run_id = request.path_params["run_id"]
        await self.service.cancel(run_id, owner)
        return JSONResponse({"run_id": run_id}, status_code=202)

    async def _resume(self, request: Request, owner: str) -> Response:
        run_id = request.path_params["run_id"]
        await self.service.resume(run_id, owner)
        return JSONResponse({"run_id": run_id}, status_code=202)

    async def _reward(self, request: Request, owner: str) -> Response:
        body = await read(request, RewardBody, self.service.limits)
        run_id = request.path_params["run_id"]
        await self.service.reward(run_id, RewardEvent(body.reward, body.source or owner, body.step), owner)
        return JSONResponse({"run_id": run_id}, status_code=201)

    async def _delete(self, request: Request, owner: str) -> Response:
        await self.service.delete(request.path_params["run_id"], owner)
        return Response(status_code=204)


async def read(request: Request, model: type[BodyT], limits: ServiceLimits) -> BodyT:
    """Return the body of a request.

    Raises:
        ApiError: it is too large, too slow, or of another form.
    """
    return await read_body(request, model, max_bytes=limits.max_body_bytes, timeout_s=limits.body_timeout_s)


def streaming(
    lines: AsyncIterator[bytes],
    headers: Mapping[str, str],
    limits: ServiceLimits,
    on_left: Callable[[object], Awaitable[None]] | None = None,
) -> Response:
    """Return server-sent events as a response; `on_left` is called if the client closes the connection."""
    return EventSourceResponse(
        lines,
        headers=dict(headers),
        sep="\n",
        send_timeout=limits.send_timeout_s,
        client_close_handler_callable=on_left,
    )


async def _behind(first: Sequence[StoredEvent], further: Batches) -> Batches:
    yield first
    async for events in further:
        yield events


async def _lines(batches: Batches) -> AsyncIterator[bytes]:
    """Yield events as server-sent events."""
    async for events in batches:
        yield b"".join(map(_line, events))


def _line(event: StoredEvent) -> bytes:
    fields = f'{{"number":{event.number},"time":{event.time},{event.body[1:]}'
    return f"id: {event.number}\ndata: {fields}\n\n".encode()


def _entry(summary: RunSummary) -> dict[str, Any]:
    return {
        "run_id": summary.run_id,
        "status": summary.status,
        "session": summary.metadata.get(SESSION),
        "created_at": summary.created_at,
        "updated_at": summary.updated_at,
    }


def _number(request: Request, name: str, default: float, *, most: float) -> float:
    given = request.query_params.get(name)
    try:
        value = default if given is None else float(given)
    except ValueError:
        value = -1.0
    if not 0 <= value <= most:
        raise RequestRefused("bad_request", f"{name}={given!r} must be a number from 0 to {most:g}.")
    return value
