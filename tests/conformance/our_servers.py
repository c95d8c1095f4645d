"""Our servers by name, each over a folder that the test made."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any


def _named(name: str) -> Callable[..., Any]:
    return lambda *arguments: import_module(f"mcp_servers.{name}.server").build_server(*arguments)


def _fixture() -> Any:
    from tests.conformance.fixture_server import build_server

    return build_server()


SERVERS: dict[str, Callable[..., Any]] = {
    "fixture": _fixture,
    **{
        name: _named(name)
        for name in ("fetch", "filesystem", "git", "memory", "python", "search", "sqlite", "time")
    },
}
