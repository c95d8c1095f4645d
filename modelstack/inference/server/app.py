"""The server's ASGI application: routes, keys, limits, errors in the form of each protocol."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from modelstack.inference.server.access import check_key
from modelstack.inference.server.anthropic_messages import (
    MessagesBody,
    messages_request,
    streamed_message,
    whole_message,
)
from modelstack.inference.server.bodies import BodyT, read_body
from modelstack.inference.server.chat_completions import ChatRequest, reply_request, streamed_reply, whole_reply
from modelstack.inference.server.completions import (
    CompletionBody,
    completion_requests,
    streamed_completion,
    whole_completion,
)
from modelstack.inference.server.embeddings import EmbeddingsBody, embeddings_work, whole_embeddings
from modelstack.inference.server.errors import ApiError, api_error
from modelstack.inference.server.metrics import Metrics
from modelstack.inference.server.moderations import ModerationsBody, moderation_results, moderation_texts
from modelstack.inference.server.openai_responses import (
    ResponsesBody,
    responses_request,
    streamed_response,
    whole_response,
)
from modelstack.inference.server.reply_response import (
    ANTHROPIC,
    OPENAI,
    Form,
    ReplyResponse,
    error_response,
    form_of,
)
from modelstack.inference.server.replying import Limits, Replies, Work
from modelstack.inference.server.served_model import ServedModel
from modelstack.inference.server.turns import ReplyRequest

logger = logging.getLogger(__name__)


class ServerApp:
    """The endpoints of one model."""

    def __init__(
        self, model: ServedModel, *, key: str | None = None, limits: Limits | None = None, temperature: float = 0.0
    ) -> None:
        """Serve a model.

        Args:
            model: The model, which the caller closes after the application has ended.
            key: Key that clients must send; None: all may ask.
            limits: Limits of number, size and time.
            temperature: Temperature of requests that name none.
        """
        self._model = model
        self._key = key
        self._temperature = temperature
        self._limits = limits or Limits()
        self._metrics = Metrics()
        self.replies = Replies(self._limits, self._metrics)
        self._started = int(time.time())

    def asgi(self) -> Starlette:
        """Return the application."""
        post: list[tuple[str, Callable[[Request], Awaitable[Response]]]] = [
            ("/v1/chat/completions", self._chat),
            ("/v1/completions", self._completions),
            ("/v1/responses", self._responses),
            ("/v1/messages", self._messages),
            ("/v1/embeddings", self._embeddings),
            ("/v1/moderations", self._moderations),
        ]
        get: list[tuple[str, Callable[[Request], Awaitable[Response]]]] = [
            ("/v1/models", self._models),
            ("/v1/models/{name:path}", self._one_model),
            ("/metrics", self._figures),
            ("/health", self._health),
        ]
        return Starlette(
            routes=[
                *(Route(path, self._guarded(path, endpoint), methods=["POST"]) for path, endpoint in post),
                *(Route(path, self._guarded(path, endpoint), methods=["GET"]) for path, endpoint in get),
            ],
            exception_handlers={HTTPException: self._no_route},
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            self.replies.is_closing = True

    def _guarded(
        self, path: str, endpoint: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Return an endpoint that checks the key, answers errors in its protocol's form, and counts."""

        async def guarded(request: Request) -> Response:
            try:
                check_key(request, self._key)
                response = await endpoint(request)
            except Exception as error:
                known = api_error(error)
                if known.status == 500:
                    logger.exception("%s failed", path)
                response = error_response(known, form_of(path))
            if not isinstance(response, ReplyResponse):  # which counts itself, when it has been sent
                self._count(path, response.status_code)
            return response

        return guarded

    async def _no_route(self, request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 404
        what = "has no such method" if status == 405 else "does not exist"
        message = f"{request.method} {request.url.path} {what} on this server"
        return error_response(ApiError(status, message), form_of(request.url.path))

    async def _chat(self, request: Request) -> Response:
        body = await self._body(request, ChatRequest)
        asked = reply_request(body, self._adapter(body.model), self._temperature)
        events = partial(streamed_reply, body) if body.stream else None
        works = [self._work(asked, number) for number in range(body.n)]
        return self._replying(request, works, Form(partial(whole_reply, body), events, last="[DONE]"))

    async def _completions(self, request: Request) -> Response:
        body = await self._body(request, CompletionBody)
        asked = completion_requests(body, self._model, self._adapter(body.model), self._temperature)
        events = partial(streamed_completion, body) if body.stream else None
        works: list[Work] = [partial(self._model.complete, each) for each in asked]
        return self._replying(request, works, Form(partial(whole_completion, body), events, last="[DONE]"))

    async def _responses(self, request: Request) -> Response:
        body = await self._body(request, ResponsesBody)
        asked = responses_request(body, self._adapter(body.model), self._temperature)
        events = partial(streamed_response, body) if body.stream else None
        form = replace(
            OPENAI, whole=lambda replies: whole_response(body, replies[0]), events=events, are_named=True
        )
        return self._replying(request, [self._work(asked, 0)], form)

    async def _messages(self, request: Request) -> Response:
        body = await self._body(request, MessagesBody)
        asked = messages_request(body, self._adapter(body.model), self._temperature)
        events = partial(streamed_message, body) if body.stream else None
        form = replace(ANTHROPIC, whole=lambda replies: whole_message(body, replies[0]), events=events)
        return self._replying(request, [self._work(asked, 0)], form)

    async def _embeddings(self, request: Request) -> Response:
        body = await self._body(request, EmbeddingsBody)
        work = embeddings_work(body, self._model, self._adapter(body.model))
        return self._replying(request, [work], Form(partial(whole_embeddings, body)))

    async def _moderations(self, request: Request) -> Response:
        texts = moderation_texts(await self._body(request, ModerationsBody))
        return JSONResponse(await run_sync(moderation_results, texts))

    def _replying(self, request: Request, works: Sequence[Work], form: Form) -> Response:
        path = request.url.path
        return ReplyResponse(self.replies, works, form, path, partial(self._count, path))

    def _count(self, path: str, status: int) -> None:
        self._metrics.requests.labels(path, str(status)).inc()

    def _work(self, asked: ReplyRequest, number: int) -> Work:
        """Return the work of the reply `number` to a request, with a seed of its own."""
        return partial(self._model.reply, asked.with_seed(number))

    async def _body(self, request: Request, model: type[BodyT]) -> BodyT:
        limits = self._limits
        return await read_body(request, model, max_bytes=limits.max_body_bytes, timeout_s=limits.body_timeout_s)

    def _adapter(self, name: str) -> str | None:
        try:
            return self._model.adapter_of(name)
        except KeyError as error:
            known = ", ".join(map(repr, (self._model.name, *self._model.adapters)))
            raise ApiError(
                404, f"the model {name!r} is not served here; known: {known}", "model", "model_not_found"
            ) from error

    async def _models(self, request: Request) -> Response:
        names = (self._model.name, *self._model.adapters)
        return JSONResponse({"object": "list", "data": [self._model_card(name) for name in names]})

    async def _one_model(self, request: Request) -> Response:
        name = request.path_params["name"]
        self._adapter(name)
        return JSONResponse(self._model_card(name))

    def _model_card(self, name: str) -> dict[str, Any]:
        base = self._model.name
        return {
            "id": name,
            "object": "model",
            "created": self._started,
            "owned_by": "modelstack",
            "parent": None if name == base else base,
            "max_model_len": self._model.engine.context_window,
        }

    async def _figures(self, request: Request) -> Response:
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _health(self, request: Request) -> Response:
        if self.replies.is_closing:
            raise ApiError(503, "the server is shutting down")
        return JSONResponse({"status": "ok"})
