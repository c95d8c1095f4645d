"""An endpoint whose requests are counted and traced, whatever answers them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentkit.serving.request_spans import RequestSpans, method_of, note_status

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from agentkit.serving.metrics import Metrics


class ObservedEndpoint:
    """An ASGI application around another one."""

    def __init__(self, endpoint: ASGIApp, path: str, metrics: Metrics, spans: RequestSpans) -> None:
        """Observe an endpoint; `path` is the template of its path."""
        self._endpoint, self._path, self._metrics, self._spans = endpoint, path, metrics, spans

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; its span is open until the whole response is sent."""
        with self._spans.around(scope, self._path) as span:

            async def noted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    status = message["status"]
                    self._metrics.requests.labels(self._path, method_of(scope), str(status)).inc()
                    if span is not None:
                        note_status(span, status)
                await send(message)

            await self._endpoint(scope, receive, noted)
