"""Child process that converts units: pint evaluates text, and `9**9**9` would take years."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from mcp_servers.child import answer_requests
from mcp_servers.time.units import convert


def handle(request: dict[str, Any]) -> dict[str, str]:
    """Answer `{"amount": fraction, "source": unit, "target": unit}` with the converted amount as a fraction."""
    amount = Fraction(request["amount"])
    return {"amount": str(convert(amount, request["source"], request["target"]))}


def main() -> None:
    """Answer the parent's requests."""
    answer_requests(handle)
