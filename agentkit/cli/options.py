"""The options that `run`, `chat` and other commands share, and the agent that they describe."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentkit.errors import UserError

if TYPE_CHECKING:
    from agentkit.agent import Agent
    from agentkit.runner import Sink
    from agentkit.tools.toolset import Toolset

_PREFIXED = re.compile(r"([A-Za-z][A-Za-z0-9-]*)=(.+)", re.DOTALL)

ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="local, local:ID, local:PATH.gguf, openai:NAME or http://HOST/v1#NAME.",
    ),
]
McpOption = Annotated[
    list[str] | None,
    typer.Option(
        "--mcp",
        metavar="SERVER",
        help="Tools: a command in quotes, a URL, or an mcpServers JSON file; NAME=SERVER prefixes the tools' "
        "names. May be repeated.",
    ),
]
MaxStepsOption = Annotated[
    int | None, typer.Option(min=1, help="Model requests; the last one is kept for an answer without tools.")
]
InstructionsOption = Annotated[str | None, typer.Option(metavar="TEXT", help="System prompt.")]
TemperatureOption = Annotated[float | None, typer.Option(min=0.0, help="0 always takes the likeliest token.")]
SeedOption = Annotated[int | None, typer.Option(help="For sampling.")]
TraceDirOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder of traces; `agentkit trace` also takes an Inspect log (.eval)."),
]
NoTraceOption = Annotated[bool, typer.Option("--no-trace", help="Keep no trace.")]


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """What a command line says of the agent."""

    model: str
    mcp: Sequence[str] = ()
    max_steps: int | None = None
    instructions: str | None = None
    temperature: float | None = None
    seed: int | None = None
    trace: Path | None = None
    """Directory; None keeps no trace."""

    def agent(self, on_event: Sink, toolsets: Sequence[Toolset]) -> Agent[None, str]:
        """Make the agent with the toolsets of `--mcp`; nothing is started yet.

        Raises:
            UserError: an option cannot be used.
        """
        from agentkit.agent import Agent
        from agentkit.limits import UsageLimits
        from agentkit.models.model import ModelSettings
        from agentkit.models.resolve import resolve_model

        return Agent(
            resolve_model(self.model),
            toolsets=toolsets,
            instructions=self.instructions,
            limits=UsageLimits() if self.max_steps is None else UsageLimits(request_limit=self.max_steps),
            settings=ModelSettings(temperature=self.temperature, seed=self.seed),
            trace=self.trace,
            on_event=on_event,
        )

    def toolsets(self) -> list[Toolset]:
        """Return a toolset for each server that `--mcp` names.

        Raises:
            UserError: a value of `--mcp` cannot be used.
        """
        return [toolset for value in self.mcp for toolset in mcp_toolsets(value)]


def mcp_toolsets(value: str, **options: Any) -> list[Toolset]:
    """Read one value of `--mcp`; `options` are those of `MCPToolset`.

    Raises:
        UserError: it is empty, its quotes do not match, or the file is no configuration.
    """
    from agentkit.mcp.toolset import MCPToolset

    prefix = _PREFIXED.fullmatch(value)
    if prefix is not None:
        options["id"], value = prefix.groups()
    found: Sequence[Toolset]
    if re.match(r"https?://", value):
        found = [MCPToolset.http(value, **options)]
    elif value.endswith(".json") and Path(value).expanduser().is_file():
        found = MCPToolset.from_config(Path(value).expanduser(), **options)
    else:
        found = [MCPToolset.stdio(*_command(value), **options)]
    return [toolset.prefixed(prefix[1]) for toolset in found] if prefix is not None else list(found)


def trace_directory(named: Path | None, *, no_trace: bool) -> Path | None:
    """Return where traces go, None for nowhere."""
    from agentkit.tracing.jsonl import default_trace_directory

    return None if no_trace else named or default_trace_directory()


def _command(value: str) -> list[str]:
    try:
        words = shlex.split(value)
    except ValueError as error:
        raise UserError(f"--mcp {value!r}: {error}; write the command as in a shell.") from error
    if not words:
        raise UserError("--mcp is empty: give a command in quotes, a URL, or an mcpServers JSON file.")
    if value.endswith(".json") and len(words) == 1:
        raise UserError(f"--mcp {value!r}: there is no such file.")
    return words
