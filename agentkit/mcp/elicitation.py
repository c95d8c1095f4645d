"""Questions that a server asks the person during a call (MCP elicitation).

Answers go through one callback in both eras of the protocol: pushed requests before 2026-07-28, results that
ask for another round since. Without a callback every question is declined; a tool can then take its default.

A question is untrusted text that a person reads: hidden characters are removed from its prose, and long prose is
cut. A question with hidden characters in names, values or URL is declined, and so is a URL that is not http(s).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import anyio

from agentkit.basics.hidden import is_plain
from agentkit.errors import ToolDefinitionError
from agentkit.mcp.call_clocks import CallClocks
from agentkit.mcp.listing import MAX_DESCRIPTION_CHARS, clean_schema
from agentkit.mcp.results import bounded

if TYPE_CHECKING:
    from mcp.client.session import ElicitationFnT
    from mcp_types import ElicitRequestParams, ElicitResult

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Elicitation:
    """A question. Show `server` to the person: the text is the server's, not the application's."""

    server: str
    """The toolset's id."""
    message: str
    schema: Mapping[str, Any] | None = None
    """A flat JSON Schema of the answer; None when the person is sent to `url` instead."""
    url: str | None = None


OnElicit = Callable[[Elicitation], Awaitable[Mapping[str, Any] | None]]
"""Returns the answer (for a URL: `{}` once the person agreed), or None to decline; omitted fields get the
schema's defaults."""


ANSWER_TIMEOUT_S = 600.0
"""Default number of seconds for a person to answer a question: long enough to look something up."""


def elicitation_callback(
    on_elicit: OnElicit | None, server: str, clocks: CallClocks, timeout_s: float
) -> ElicitationFnT:
    """Return the callback for `mcp.Client`; `clocks` stop while `on_elicit` runs.

    An error of `on_elicit`, or `timeout_s` seconds without an answer, is logged and answers "cancel".
    """

    async def answer(context: Any, params: ElicitRequestParams) -> ElicitResult:
        from mcp_types import ElicitRequestURLParams, ElicitResult

        if on_elicit is None:
            return ElicitResult(action="decline")
        message = bounded(params.message, MAX_DESCRIPTION_CHARS, clean=True)
        try:
            if isinstance(params, ElicitRequestURLParams):
                question = Elicitation(server, message, url=_page(params.url))
            else:
                schema = clean_schema(dict(params.requested_schema), "a question", [])
                question = Elicitation(server, message, schema=schema)
        except (ToolDefinitionError, ValueError, RecursionError) as reason:
            logger.warning("MCP server %r asked what is not shown to a person: %s", server, reason)
            return ElicitResult(action="decline")
        values = None
        try:
            with clocks.stopped(), anyio.move_on_after(timeout_s) as limit:
                values = await on_elicit(question)
        except Exception:  # the boundary to the application: its error must not end the connection
            logger.exception("on_elicit of MCP server %r raised; the question is cancelled", server)
            return ElicitResult(action="cancel")
        if limit.cancelled_caught:
            logger.warning(
                "nobody answered a question of MCP server %r within elicit_timeout_s=%g", server, timeout_s
            )
            return ElicitResult(action="cancel")
        if values is None:
            return ElicitResult(action="decline")
        content = None if question.schema is None else {**_defaults(question.schema), **values}
        return ElicitResult(action="accept", content=content)

    return answer


def _page(url: str) -> str:
    """Return `url` if it is a web page's.

    Raises:
        ValueError: the URL is not http or https, or has hidden characters.
    """
    if not is_plain(url) or urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"the URL {url[:200]!a} is no plain http or https URL")
    return url


def _defaults(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of a flat schema; they answer the fields that the person leaves out (SEP-1034)."""
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        return {}
    fields = cast("Mapping[str, Any]", properties)
    return {
        name: field["default"]
        for name, field in fields.items()
        if isinstance(field, Mapping) and "default" in field
    }
