"""The options shared by `run`, `chat` and other commands, and the agent built from them."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentkit.errors import UserError

if TYPE_CHECKING:
    from agentkit.agent import Agent
    from agentkit.run.setup import Sink
    from agentkit.tools.definition import ToolDefinition
    from agentkit.tools.toolset import Toolset

JOURNAL_VARIABLE = "AGENTKIT_JOURNAL"
_PREFIXED = re.compile(r"([A-Za-z][A-Za-z0-9-]*)=(.+)", re.DOTALL)


class Ask(StrEnum):
    """Calls of MCP tools that require approval."""

    changes = "changes"
    all = "all"
    none = "none"


ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="local, local:PROFILE, local:ID, local:PATH.gguf, openai:NAME or http://HOST/v1#NAME.",
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
    int | None,
    typer.Option(
        min=1, help="Maximum number of model requests; the last one is reserved for an answer without tools."
    ),
]
InstructionsOption = Annotated[str | None, typer.Option(metavar="TEXT", help="System prompt.")]
TemperatureOption = Annotated[
    float | None, typer.Option(min=0.0, help="Sampling temperature; 0 always takes the likeliest token.")
]
ThinkingOption = Annotated[
    int | None,
    typer.Option(
        "--thinking",
        min=0,
        metavar="TOKENS",
        help="Let a local model that was trained to think do so before each reply, for at most so many tokens.",
    ),
]
SeedOption = Annotated[int | None, typer.Option(help="Seed for sampling.")]
TraceDirOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder of traces; `agentkit trace` also takes an Inspect log (.eval)."),
]
AskOption = Annotated[
    Ask,
    typer.Option(
        help="Calls to ask about before they run: those of tools that do not say they only read; all; none."
    ),
]
JournalOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="SQLite file of runs and chats that can be resumed."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")]
NoJournalOption = Annotated[bool, typer.Option("--no-journal", help="Store nothing that could be resumed.")]
NoTraceOption = Annotated[bool, typer.Option("--no-trace", help="Write no trace.")]


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """Options of the agent, as given on the command line."""

    model: str
    mcp: Sequence[str] = ()
    max_steps: int | None = None
    instructions: str | None = None
    temperature: float | None = None
    seed: int | None = None
    trace: Path | None = None
    """Directory of traces; None disables tracing."""
    ask: Ask = Ask.changes
    journal: Path | None = None
    """SQLite file of resumable runs; None disables the journal."""
    thinking: int | None = None
    """Maximum number of thinking tokens before each reply."""

    def agent(self, on_event: Sink, toolsets: Sequence[Toolset]) -> Agent[None, str]:
        """Create the agent with the toolsets of `--mcp`; nothing is started yet.

        Raises:
            UserError: an option cannot be used.
        """
        from agentkit.agent import Agent
        from agentkit.limits import UsageLimits
        from agentkit.models.base import ModelSettings
        from agentkit.models.resolve import resolve_model

        return Agent(
            resolve_model(self.model),
            toolsets=toolsets,
            instructions=self.instructions,
            limits=UsageLimits() if self.max_steps is None else UsageLimits(request_limit=self.max_steps),
            settings=ModelSettings(temperature=self.temperature, seed=self.seed, thinking_tokens=self.thinking),
            trace=self.trace,
            checkpointer=self.journal,
            on_event=on_event,
        )

    def toolsets(self) -> list[Toolset]:
        """Return a toolset for each server that `--mcp` names.

        Raises:
            UserError: a value of `--mcp` cannot be used.
        """
        toolsets = [toolset for value in self.mcp for toolset in mcp_toolsets(value)]
        if self.ask is Ask.none:
            return toolsets
        return [toolset.requiring_approval(when=self._asks) for toolset in toolsets]

    def _asks(self, tool: ToolDefinition) -> bool:
        return self.ask is Ask.all or not tool.annotations.read_only

    def to_metadata(self) -> dict[str, str]:
        """Return the options as run metadata, for `from_metadata`."""
        kept = {
            "model": self.model,
            "mcp": json.dumps(list(self.mcp)),
            "max_steps": self.max_steps,
            "instructions": self.instructions,
            "temperature": self.temperature,
            "seed": self.seed,
            "thinking": self.thinking,
            "trace": self.trace,
            "ask": self.ask.value,
            "cwd": Path.cwd(),
        }
        return {name: str(value) for name, value in kept.items() if value is not None}

    @classmethod
    def from_metadata(cls, kept: Mapping[str, str], journal: Path) -> AgentOptions:
        """Return the options with which a run was started.

        Raises:
            UserError: the run was not started from the command line, or its servers started in another folder.
        """
        try:
            options = cls(
                model=kept["model"],
                mcp=json.loads(kept["mcp"]),
                max_steps=int(kept["max_steps"]) if "max_steps" in kept else None,
                instructions=kept.get("instructions"),
                temperature=float(kept["temperature"]) if "temperature" in kept else None,
                seed=int(kept["seed"]) if "seed" in kept else None,
                thinking=int(kept["thinking"]) if "thinking" in kept else None,
                trace=Path(kept["trace"]) if "trace" in kept else None,
                ask=Ask(kept["ask"]),
                journal=journal,
            )
        except (KeyError, ValueError) as error:
            raise UserError(
                f"this run was not started by `agentkit run` ({error}); resume it in its program."
            ) from error
        if options.mcp and kept.get("cwd") != str(Path.cwd()):
            raise UserError(f"this run's servers were started in {kept.get('cwd')!r}; resume it there.")
        return options


def mcp_toolsets(value: str, **options: Any) -> list[Toolset]:
    """Return the toolsets of one `--mcp` value; `options` are those of `MCPToolset`.

    Raises:
        UserError: the value is empty, its quotes do not match, or the file is not a configuration.
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
    """Return the directory of traces; None if tracing is disabled."""
    from agentkit.tracing.jsonl import default_trace_directory

    return None if no_trace else named or default_trace_directory()


def journal_file(named: Path | None) -> Path:
    """Return the journal's path: `named`, AGENTKIT_JOURNAL, or a file in the user's state directory."""
    import platformdirs

    if named is not None:
        return named
    kept = os.environ.get(JOURNAL_VARIABLE)
    return Path(kept).expanduser() if kept else Path(platformdirs.user_state_dir("agentkit")) / "runs.db"


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
