"""Requests as OpenTelemetry spans, and served runs as children of the request that began them.

A request's span is a child of the client's, which the header `traceparent` names (W3C Trace Context). The context
is stored in the metadata of the run, so that the run's spans belong to the same trace wherever the run goes on.
Requests are reported if the runs are: `Agent(telemetry=Telemetry())`. Only the API package is used, and only in
functions: an application without telemetry does not import it.

https://opentelemetry.io/docs/specs/semconv/http/http-spans/#http-server-span
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span
    from starlette.types import Scope

    from agentkit.tracing.telemetry import Telemetry

PREFIX = "agentkit."
"""Beginning of the metadata with a run's trace context; the end is the name of the header."""
HEADERS = ("traceparent", "tracestate")
MOST_STATE_CHARS = 512
"""Longest `tracestate` that is stored; the standard asks for so much to be passed on."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
OTHER_METHOD = "_OTHER"
"""The conventions' name of a method that a client made up."""


def method_of(scope: Scope) -> str:
    """Return the method of a request; one of a few, whatever a client sends."""
    return scope["method"] if scope["method"] in METHODS else OTHER_METHOD


class RequestSpans:
    """Spans of the requests to one service."""

    def __init__(self, telemetry: Telemetry | None) -> None:
        """Report as the runs do; None reports nothing."""
        self._tracer = None
        if telemetry is not None:
            from opentelemetry import trace

            self._tracer = trace.get_tracer("agentkit", tracer_provider=telemetry.tracer_provider)

    @contextmanager
    def around(self, scope: Scope, path: str) -> Generator[Span | None]:
        """Keep the span of a request open and current; yield None if requests are not reported.

        Args:
            scope: The request.
            path: Template of its path: a path itself has the names of sessions, which are a client's words.
        """
        if self._tracer is None:
            yield None
            return
        from opentelemetry import context
        from opentelemetry.trace import SpanKind, get_current_span, set_span_in_context
        from starlette.datastructures import Headers  # an agent of an editor is served without HTTP

        method = method_of(scope)
        attributes = {
            "http.request.method": method,
            "http.route": path,
            "url.path": path,
            "url.scheme": scope["scheme"],
            "network.protocol.version": scope["http_version"],
        }
        # An instrumented application that mounts this one has opened the server's span already.
        is_outermost = not get_current_span().get_span_context().is_valid
        span = self._tracer.start_span(
            f"{method} {path}",
            context=_context_in(Headers(scope=scope)) if is_outermost else None,
            kind=SpanKind.SERVER if is_outermost else SpanKind.INTERNAL,
            attributes=attributes,
        )
        token = context.attach(set_span_in_context(span))
        try:
            yield span
        except BaseException as error:
            _fail(span, type(error).__name__)
            raise
        finally:
            context.detach(token)
            span.end()


def note_status(span: Span, status: int) -> None:
    """Add the status of a response to the span of its request; only the server's own failures are errors."""
    span.set_attribute("http.response.status_code", status)
    if status >= 500:
        _fail(span, str(status))


def trace_metadata() -> dict[str, str]:
    """Return the current trace context as metadata of a run; empty outside of a trace."""
    from opentelemetry.trace import get_current_span

    if not get_current_span().get_span_context().is_valid:
        return {}
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers)
    if len(headers.get("tracestate", "")) > MOST_STATE_CHARS:
        del headers["tracestate"]
    return {PREFIX + name: value for name, value in headers.items()}


@contextmanager
def continued_trace(metadata: Mapping[str, str]) -> Generator[None]:
    """Make the trace context of a run current; without one, the current context stays."""
    headers = {name: metadata[PREFIX + name] for name in HEADERS if PREFIX + name in metadata}
    if not headers:
        yield
        return
    from opentelemetry import context

    token = context.attach(_context_in(headers))
    try:
        yield
    finally:
        context.detach(token)


def _context_in(headers: Mapping[str, Any]) -> Context:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract(headers)


def _fail(span: Span, error_type: str) -> None:
    from opentelemetry.trace import StatusCode

    span.set_attribute("error.type", error_type)
    span.set_status(StatusCode.ERROR)
