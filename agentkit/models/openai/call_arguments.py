"""Arguments of earlier calls, made sendable."""

from __future__ import annotations

import json


def sendable_arguments(arguments: str) -> str:
    """Return the arguments of an earlier call; those that are not a JSON object are wrapped in one.

    Chat templates parse the arguments, so one bad call in the history would make a server refuse every later
    request (litellm#33678).
    """
    if not arguments.strip():
        return "{}"
    try:
        if isinstance(json.loads(arguments, parse_constant=_no_constant), dict):
            return arguments
    except (ValueError, RecursionError):
        pass
    return json.dumps({"invalid_arguments": arguments}, ensure_ascii=False)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
