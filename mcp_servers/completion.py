"""Completion of the arguments of prompts and of the variables of resource templates.

A completer returns candidates; those that begin with what was typed are sent, in the completer's order, at most a
hundred (MCP, Completion).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from itertools import islice
from typing import Any

import anyio
import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server

from mcp_servers.failures import ToolFailure
from mcp_servers.hidden import visible
from mcp_servers.limited_calls import limited_call

MAX_COMPLETIONS = 100
"""Values of one answer: the protocol's own limit."""
MAX_CANDIDATES = 10_000
"""Candidates of a completer that are looked at."""

Given = Mapping[str, str]
"""The arguments that the user has filled in already."""
Completer = Callable[[str, Given], Iterable[str]] | Callable[[str, Given], Awaitable[Iterable[str]]]
"""Returns candidates for a value that begins with the first argument."""
Completers = Mapping[tuple[str, str], Mapping[str, Completer]]
"""Completers by the kind of reference ("prompt", "resource") and its name or URI template, then by argument."""


def offer_completion(server: Server[Any], completers: Completers, limiter: anyio.CapacityLimiter) -> None:
    """Make `server` answer `completion/complete`; an argument without a completer has no completions."""

    async def complete(
        ctx: ServerRequestContext[Any], params: types.CompleteRequestParams
    ) -> types.CompleteResult:
        reference = params.ref
        is_prompt = isinstance(reference, types.PromptReference)
        key = ("prompt", reference.name) if is_prompt else ("resource", str(reference.uri))
        completer = completers.get(key, {}).get(params.argument.name)
        if completer is None:
            return types.CompleteResult(completion=types.Completion(values=[], total=0, has_more=False))
        given = params.context.arguments if params.context else None
        typed = params.argument.value

        try:
            found = await limited_call(limiter, tuple, completer, typed, given or {})
        except ToolFailure:  # a folder or revision that does not exist has no completions
            found = tuple[str, ...]()
        return types.CompleteResult(completion=_completion(typed, found))

    server.add_request_handler("completion/complete", types.CompleteRequestParams, complete)


def _completion(typed: str, candidates: Iterable[str]) -> types.Completion:
    """Return the candidates that begin with `typed`, ignoring case, without hidden characters."""
    folded = typed.casefold()
    looked_at = islice(candidates, MAX_CANDIDATES)
    fitting = [visible(each) for each in looked_at if each.casefold().startswith(folded)]
    shown = fitting[:MAX_COMPLETIONS]
    return types.Completion(values=shown, total=len(fitting), has_more=len(fitting) > len(shown))
