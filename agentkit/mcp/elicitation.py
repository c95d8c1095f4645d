"""Questions that a server asks the person during a call (MCP elicitation).

Answers go through one callback in both eras of the protocol: pushed requests before 2026-07-28, results that
ask for another round since. Without a callback every question is declined; a tool can then take its default.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from agentkit.hidden import strip_data

if TYPE_CHECKING:
    from mcp.client.session import ElicitationFnT
    from mcp_types import ElicitRequestParams, ElicitResult

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Elicitation:
    """One question. Show `server`: the text is the server's, not the application's."""

    server: str
    """The toolset's id."""
    message: str
    schema: Mapping[str, Any] | None = None
    """A flat JSON Schema of the answer; None when the person is sent to `url` instead."""
    url: str | None = None


OnElicit = Callable[[Elicitation], Awaitable[Mapping[str, Any] | None]]
"""Returns the answer (for a URL: `{}` once the person agreed), or None to decline; what it leaves out gets the
schema's default."""


def elicitation_callback(on_elicit: OnElicit | None, server: str) -> ElicitationFnT:
    """Return what `mcp.Client` takes. An error of `on_elicit` is logged and answers "cancel"."""

    async def answer(context: Any, params: ElicitRequestParams) -> ElicitResult:
        from mcp_types import ElicitRequestURLParams, ElicitResult

        if on_elicit is None:
            return ElicitResult(action="decline")
        message, _ = strip_data(params.message)
        if isinstance(params, ElicitRequestURLParams):
            question = Elicitation(server, message, url=params.url)
        else:
            question = Elicitation(server, message, schema=dict(params.requested_schema))
        try:
            values = await on_elicit(question)
        except Exception:  # the boundary to the application: its error must not end the connection
            logger.exception("on_elicit of MCP server %r raised; the question is cancelled", server)
            return ElicitResult(action="cancel")
        if values is None:
            return ElicitResult(action="decline")
        content = None if question.schema is None else {**_defaults(question.schema), **values}
        return ElicitResult(action="accept", content=content)

    return answer


def _defaults(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of a flat schema: what the person leaves out is answered with them (SEP-1034)."""
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        return {}
    fields = cast("Mapping[str, Any]", properties)
    return {
        name: field["default"]
        for name, field in fields.items()
        if isinstance(field, Mapping) and "default" in field
    }
