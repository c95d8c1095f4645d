"""The options of a toolset as a type, for the constructors that pass them on."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from typing import Literal, TypedDict

from agentkit.mcp.call import Trust
from agentkit.mcp.client_features import LogLevel, OnLog
from agentkit.mcp.config import MCPServerConfig
from agentkit.mcp.elicitation import OnElicit
from agentkit.mcp.listing import OnBadTool
from agentkit.mcp.pins import ToolPins


class MCPOptions(TypedDict, total=False):
    """The keyword arguments of `MCPToolset`."""

    id: str | None
    allow: Collection[str] | None
    trust: Trust
    assume_harmless: bool
    on_elicit: OnElicit | None
    elicit_timeout_s: float
    on_log: OnLog | None
    log_level: LogLevel
    roots: Sequence[str | os.PathLike[str]] | None
    resources: Literal["tools"] | None
    call_timeout_s: float
    max_total_timeout_s: float
    connect_timeout_s: float
    result_limit: int
    max_tools: int
    max_pages: int
    on_bad_tool: OnBadTool
    reconnect: bool
    pins: ToolPins | None
    pins_key: str | None
    mode: Literal["auto", "legacy"] | str


def options_of(name: str, server: MCPServerConfig, options: MCPOptions) -> MCPOptions:
    """Return the options of one server of a file."""
    of_file: MCPOptions = {"assume_harmless": server.assume_harmless}
    return {**of_file, **options, "id": name}
