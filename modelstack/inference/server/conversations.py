"""Parts of conversations that the protocols share: tools, turns of results, and what contradicts itself."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from modelstack.inference.server.errors import ApiError
from modelstack.inference.server.turns import PastCall, Turn
from modelstack.toolcalls.convention import ToolSpec

Choice = Literal["auto", "none", "required", "named"]
ToolChoice = tuple[frozenset[str] | None, bool]
"""Names of the tools that a reply may call, None for all, and whether it must call one."""


def tool_spec(name: str, description: str | None, parameters: Mapping[str, Any] | None, param: str) -> ToolSpec:
    """Return a tool.

    Raises:
        ApiError: The name cannot be written without escapes.
    """
    try:
        return ToolSpec(name, description or "", parameters or {"type": "object", "properties": {}})
    except ValueError as error:
        raise ApiError(400, str(error), param) from error


def past_call(call_id: str, name: str, arguments: str | Mapping[str, Any], param: str) -> PastCall:
    """Return a call of an earlier turn; arguments may be JSON text.

    Raises:
        ApiError: The arguments are not a JSON object.
    """
    value: Any = arguments
    if isinstance(arguments, str):
        try:
            value = json.loads(arguments or "{}")
        except (ValueError, RecursionError) as error:
            raise ApiError(400, f"the arguments of the call of {name!r} are not JSON: {error}", param) from error
    if not isinstance(value, Mapping):
        raise ApiError(400, f"the arguments of the call of {name!r} are {value!r:.40}, not a JSON object", param)
    return PastCall(call_id, name, value)


def results_in_order(
    turns: Sequence[Turn], results: Sequence[tuple[str, str]], param: str, failed: Collection[str] = ()
) -> list[Turn]:
    """Return the turns of the results of the latest calls, in the order of the calls.

    Args:
        turns: The conversation before them.
        results: Id of the call and text of each result.
        param: Field of the request, for errors.
        failed: Ids of the calls whose results are errors.

    Raises:
        ApiError: A result belongs to no call of the turn before.
    """
    calls = turns[-1].calls if turns else ()
    numbers = {call.id: number for number, call in enumerate(calls)}
    unknown = [call_id for call_id, _ in results if call_id not in numbers]
    if unknown:
        known = ", ".join(map(repr, numbers)) or "none"
        raise ApiError(
            400, f"a result of the call {unknown[0]!r} does not follow that call; known: {known}", param
        )
    ordered = sorted(results, key=lambda result: numbers[result[0]])
    return [
        Turn("tool", text, tool_name=calls[numbers[call_id]].name, is_error=call_id in failed)
        for call_id, text in ordered
    ]


def tool_choice(choice: Choice, tools: Sequence[ToolSpec], name: str | None = None) -> ToolChoice:
    """Return which tools a reply may call, and whether it must.

    Args:
        choice: "auto", "none", "required", or "named" for one tool.
        tools: Tools of the request.
        name: Name of that tool.

    Raises:
        ApiError: A call is forced without tools, or there is no tool of this name.
    """
    if choice in ("auto", "none"):
        return (frozenset() if choice == "none" else None), False
    if choice == "named" and name not in [tool.name for tool in tools]:
        known = ", ".join(repr(tool.name) for tool in tools) or "none"
        raise ApiError(400, f"tool_choice names the tool {name!r}; the request's tools: {known}", "tool_choice")
    if not tools:
        raise ApiError(400, "a forced call needs tools, and the request has none", "tool_choice")
    return (frozenset({name or ""}) if choice == "named" else None), True


def require_one_form(must_call: bool, has_schema: bool, param: str) -> None:
    """Check that a reply that must be a call is given no schema of an answer.

    Raises:
        ApiError: It is.
    """
    if must_call and has_schema:
        raise ApiError(
            400,
            f"a reply that must be a call has no answer that {param} could describe; let the model choose, or "
            f"leave {param} out",
            param,
        )
