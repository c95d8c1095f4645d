"""Resources: data that a client lists, reads and completes by URI, without a model that calls a tool.

An author writes templates (RFC 6570), each with the function that reads what its URI names, and one function that
lists. A template without variables is a single resource. URIs are parsed here; values go to the author's function,
which applies the same rules as the tools do. Errors are protocol errors, because no model reads them.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.shared.exceptions import MCPError
from mcp.shared.uri_template import UriTemplate

from mcp_servers.answers import bounded_failure
from mcp_servers.completion import Completer
from mcp_servers.failures import ToolFailure
from mcp_servers.hidden import visible
from mcp_servers.limited_calls import limited_call

MAX_RESOURCE_BYTES = 500_000
"""Bytes of one resource. As Base64 or escaped JSON it then fits an event of 1 MiB, the limit of mcp's client."""
MAX_LISTED = 1_000
"""Resources that a server lists; its templates reach the others."""
PAGE_RESOURCES = 200
"""Resources on one page of the list."""
MAX_URI_CHARS = 8_192
"""Characters of a URI."""
RESOURCE_NOT_FOUND = -32002
"""Code of MCP 2025-11-25 for a missing resource; 2026-07-28 has `INVALID_PARAMS` (SEP-2164)."""
FIRST_WITH_INVALID_PARAMS = "2026-07-28"


@dataclass(frozen=True)
class Body:
    """Content of a resource: text, or bytes for anything else."""

    data: str | bytes
    media_type: str = "text/plain"


ReadFunction = Callable[..., Body] | Callable[..., Awaitable[Body]]
"""Reads a resource; its keyword arguments are the template's variables. Raises `ToolFailure` if it cannot."""
ListFunction = Callable[[], Sequence[types.Resource]] | Callable[[], Awaitable[Sequence[types.Resource]]]


@dataclass(frozen=True)
class Template:
    """A family of resources."""

    uri_template: str
    name: str
    description: str
    read: ReadFunction
    media_type: str | None = None
    """Media type of all resources of the family; None if they differ."""
    completers: Mapping[str, Completer] = field(default_factory=dict)
    """Completers by the name of the variable."""

    @property
    def is_single(self) -> bool:
        """Whether the template has no variables, so it names one resource."""
        return not UriTemplate.is_template(self.uri_template)


@dataclass(frozen=True)
class Resources:
    """The resources of a server."""

    templates: Sequence[Template]
    """The first one that matches a URI reads it."""
    listed: ListFunction
    """Lists the resources, apart from the single ones; only the first `MAX_LISTED` are sent."""
    state: Callable[[str], Hashable] | None = None
    """Returns a value that changes with the content of a URI, None if it cannot be read. It is called often, on a
    worker thread. With this function clients can subscribe."""


def uri_of(template: str, **variables: str) -> str:
    """Return the URI of a template's resource."""
    return UriTemplate.parse(template).expand(variables)


def offer_resources(server: Server[Any], resources: Resources, limiter: anyio.CapacityLimiter) -> None:
    """Make `server` answer `resources/list`, `resources/templates/list` and `resources/read`."""
    routes = [(UriTemplate.parse(each.uri_template), each) for each in resources.templates]
    singles = [
        types.Resource(
            uri=each.uri_template, name=each.name, description=each.description, mime_type=each.media_type
        )
        for each in resources.templates
        if each.is_single
    ]
    described = [
        types.ResourceTemplate(
            uri_template=each.uri_template, name=each.name, description=each.description, mime_type=each.media_type
        )
        for each in resources.templates
        if not each.is_single
    ]

    async def list_resources(
        ctx: ServerRequestContext[Any], params: types.PaginatedRequestParams | None
    ) -> types.ListResourcesResult:
        start = _offset(params.cursor if params else None)
        with refusals_told(types.INVALID_PARAMS):
            found = await limited_call(limiter, _in_order, resources.listed)
        every = [*singles, *found][:MAX_LISTED]
        end = start + PAGE_RESOURCES
        return types.ListResourcesResult(
            resources=every[start:end], next_cursor=str(end) if end < len(every) else None
        )

    async def list_templates(ctx: object, params: object) -> types.ListResourceTemplatesResult:
        return types.ListResourceTemplatesResult(resource_templates=described)

    async def read_resource(
        ctx: ServerRequestContext[Any], params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        uri = str(params.uri)
        is_modern = ctx.protocol_version >= FIRST_WITH_INVALID_PARAMS
        code = types.INVALID_PARAMS if is_modern else RESOURCE_NOT_FOUND
        with refusals_told(code, {"uri": uri[:MAX_URI_CHARS]}):
            template, variables = _routed(uri, routes)
            contents = await limited_call(limiter, partial(_contents, uri), template.read, **variables)
        return types.ReadResourceResult(contents=[contents])

    server.add_request_handler("resources/list", types.PaginatedRequestParams, list_resources)
    server.add_request_handler("resources/templates/list", types.PaginatedRequestParams, list_templates)
    server.add_request_handler("resources/read", types.ReadResourceRequestParams, read_resource)


@contextmanager
def refusals_told(code: int, data: Any = None) -> Iterator[None]:
    """Turn a `ToolFailure` of the enclosed code into a protocol error.

    Raises:
        MCPError: The enclosed code raised `ToolFailure`.
    """
    try:
        yield
    except ToolFailure as failure:
        raise MCPError(code, visible(bounded_failure(str(failure))), data) from failure


def _in_order(found: Sequence[types.Resource]) -> list[types.Resource]:
    return list(found[:MAX_LISTED])


def _offset(cursor: str | None) -> int:
    if cursor is None:
        return 0
    if not cursor.isascii() or not cursor.isdigit() or int(cursor[:9]) > MAX_LISTED:
        raise MCPError(types.INVALID_PARAMS, f"The cursor {cursor[:40]!a} is not from this list; start again.")
    return int(cursor)


def _routed(uri: str, routes: Sequence[tuple[UriTemplate, Template]]) -> tuple[Template, dict[str, Any]]:
    if len(uri) > MAX_URI_CHARS:
        raise ToolFailure(f"The URI has {len(uri):,} characters; at most {MAX_URI_CHARS:,} are allowed.")
    for template, described in routes:
        variables = template.match(uri)
        if variables is not None:
            return described, dict(variables)
    known = ", ".join(described.uri_template for _, described in routes)
    raise ToolFailure(f"{uri[:200]!r} is no resource of this server. Its resources are: {known}.")


def _contents(uri: str, body: Body) -> types.TextResourceContents | types.BlobResourceContents:
    data = body.data
    n_bytes = len(data if isinstance(data, bytes) else data.encode("utf-8", "replace"))
    if n_bytes > MAX_RESOURCE_BYTES:
        raise ToolFailure(
            f"{uri[:200]!r} has {n_bytes:,} bytes; at most {MAX_RESOURCE_BYTES:,} can be read as a resource. "
            "A tool of this server may read a part of it."
        )
    if isinstance(data, bytes):
        blob = base64.b64encode(data).decode("ascii")
        return types.BlobResourceContents(uri=uri, mime_type=body.media_type, blob=blob)
    return types.TextResourceContents(uri=uri, mime_type=body.media_type, text=visible(data))
