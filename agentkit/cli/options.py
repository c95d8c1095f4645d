"""The options shared by `run`, `chat` and other commands, and the agent built from them."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from agentkit.errors import UserError

if TYPE_CHECKING:
    from agentkit.agent import Agent
    from agentkit.context import RunContext
    from agentkit.run.setup import Sink
    from agentkit.tools.definition import ToolDefinition
    from agentkit.tools.toolset import Toolset

JOURNAL_VARIABLE = "AGENTKIT_JOURNAL"
_SERVER_FORMS = "Give a command in quotes, a URL, or an mcpServers JSON file"
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
HeaderOption = Annotated[
    list[str] | None,
    typer.Option(
        "--header",
        metavar="'NAME: VALUE'",
        help="Header for the MCP server at a URL, such as 'Authorization: Bearer ${TOKEN}': TOKEN comes from the "
        "environment, so that no list of processes shows it. May be repeated.",
    ),
]
AllowEnvOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-env",
        metavar="NAME",
        help="Environment variable that the MCP server may have: a command gets it, and an mcpServers file may "
        "name it as ${NAME}. May be repeated.",
    ),
]
MaxStepsOption = Annotated[
    int | None,
    typer.Option(
        min=1, help="Maximum number of model requests; the last one is reserved for an answer without tools."
    ),
]
FileOption = Annotated[
    list[Path] | None,
    typer.Option("--file", metavar="PATH", help="An image, sound or PDF document for the task; repeatable."),
]
CostLimitOption = Annotated[
    float | None,
    typer.Option(
        "--cost-limit",
        metavar="DOLLARS",
        help="US dollars that a run may cost (extra `cost`); a last answer follows. Models without a known price "
        "are refused.",
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
    headers: Sequence[str] = field(default=(), repr=False)
    """Headers for the one MCP server at a URL, as "NAME: VALUE"."""
    allow_env: Sequence[str] = ()
    """Environment variables that the MCP servers may have."""
    cost_limit: float | None = None
    """US dollars that a run may cost."""

    def with_access(self, headers: Sequence[str] | None, allow_env: Sequence[str] | None) -> AgentOptions:
        """Return the options with headers and environment variables for the MCP servers."""
        return replace(self, headers=headers or (), allow_env=allow_env or ())

    def with_cost_limit(self, dollars: float | None) -> AgentOptions:
        """Return the options with a limit on the cost of a run."""
        return replace(self, cost_limit=dollars)

    def agent(self, on_event: Sink | None, toolsets: Sequence[Toolset]) -> Agent[None, str]:
        """Create the agent with the toolsets of `--mcp`; nothing is started yet.

        Raises:
            UserError: an option cannot be used.
        """
        from agentkit.agent import Agent
        from agentkit.limits import DEFAULT_REQUEST_LIMIT, UsageLimits
        from agentkit.models.base import ModelSettings
        from agentkit.models.resolve import resolve_model

        return Agent(
            resolve_model(self.model),
            toolsets=toolsets,
            instructions=self.instructions,
            limits=UsageLimits(request_limit=self.max_steps or DEFAULT_REQUEST_LIMIT, cost_limit=self.cost_limit),
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
        toolsets = servers_of(self.mcp, self.headers, self.allow_env)
        if self.ask is Ask.none:
            return toolsets
        reason = "--ask all" if self.ask is Ask.all else "its server does not mark it as read only"

        def why(_arguments: dict[str, Any], _context: RunContext[Any]) -> str:
            return reason

        return [toolset.requiring_approval(why, when=self._asks) for toolset in toolsets]

    def _asks(self, tool: ToolDefinition) -> bool:
        return self.ask is Ask.all or not tool.annotations.read_only

    def to_metadata(self) -> dict[str, str]:
        """Return the options as run metadata, for `from_metadata`; a header that holds a secret is left out."""
        from agentkit.mcp.config import is_without_secret

        kept = {
            "model": self.model,
            "mcp": json.dumps(list(self.mcp)),
            "headers": json.dumps([header for header in self.headers if is_without_secret(header)]),
            "allow_env": json.dumps(list(self.allow_env)),
            "max_steps": self.max_steps,
            "cost_limit": self.cost_limit,
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
    def from_metadata(
        cls, kept: Mapping[str, str], journal: Path, *, headers: Sequence[str] = (), allow_env: Sequence[str] = ()
    ) -> AgentOptions:
        """Return the options with which a run was started; `headers` and `allow_env` are added to the stored ones.

        Raises:
            UserError: the run was not started from the command line, or its servers started in another folder.
        """
        try:
            options = cls(
                model=kept["model"],
                mcp=json.loads(kept["mcp"]),
                headers=(*json.loads(kept.get("headers", "[]")), *headers),
                allow_env=(*json.loads(kept.get("allow_env", "[]")), *allow_env),
                max_steps=int(kept["max_steps"]) if "max_steps" in kept else None,
                cost_limit=float(kept["cost_limit"]) if "cost_limit" in kept else None,
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


def servers_of(
    values: Sequence[str], headers: Sequence[str] = (), allow_env: Sequence[str] = (), **options: Any
) -> list[Toolset]:
    """Return the toolsets of all `--mcp` values; `options` are those of `MCPToolset`.

    A secret goes to the server that it is meant for: headers need exactly one URL among the values, and variables
    at most one command.

    Raises:
        UserError: a value cannot be used, or several servers would get a secret.
    """
    kinds = [_kind_of(value) for value in values]
    if headers and "url" not in kinds:
        raise UserError("--header is for an MCP server at a URL, and none is named.")
    if headers and kinds.count("url") > 1:
        raise UserError(
            f"--header is for one MCP server at a URL, and {kinds.count('url')} are named; write an mcpServers "
            f'JSON file, with "headers" for each server.'
        )
    if allow_env and kinds.count("command") > 1:
        raise UserError(
            f"--allow-env is for one MCP server, and {kinds.count('command')} commands are named; write an "
            f'mcpServers JSON file, with "env" for each server.'
        )
    return [each for value in values for each in mcp_toolsets(value, headers, allow_env, **options)]


def mcp_toolsets(
    value: str, headers: Sequence[str] = (), allow_env: Sequence[str] = (), **options: Any
) -> list[Toolset]:
    """Return the toolsets of one `--mcp` value; `options` are those of `MCPToolset`.

    `headers` are for a URL. `allow_env` names environment variables for a command, or for `${NAME}` in a file.

    Raises:
        UserError: the value is empty, names nothing that exists, its quotes do not match, or the file is not a
            configuration.
    """
    from agentkit.mcp.config import header_of
    from agentkit.mcp.oauth.options import stored_login
    from agentkit.mcp.toolset import MCPToolset

    prefix = _PREFIXED.fullmatch(value)
    if prefix is not None:
        options["id"], value = prefix.groups()
    found: Sequence[Toolset]
    kind = _kind_of(value)
    if kind == "url":
        given = dict(map(header_of, headers))
        found = [MCPToolset.http(value, headers=given, auth=stored_login(value, given), **options)]
    elif kind == "file":
        found = MCPToolset.from_config(Path(value).expanduser(), allow_env=allow_env, **options)
    else:
        found = [MCPToolset.stdio(*_command(value), env=_variables(allow_env), **options)]
    return [toolset.prefixed(prefix[1]) for toolset in found] if prefix is not None else list(found)


def trace_directory(named: Path | None, *, no_trace: bool) -> Path | None:
    """Return the directory of traces; None if tracing is disabled."""
    from agentkit.tracing.jsonl import default_trace_directory

    return None if no_trace else named or default_trace_directory()


def journal_name(named: str | None) -> str:
    """Return the journal's path or its PostgreSQL URL: `named`, AGENTKIT_JOURNAL, or a file as `journal_file`."""
    from agentkit.persistence.named_journal import is_postgres

    name = named or os.environ.get(JOURNAL_VARIABLE, "")
    return name if is_postgres(name) else str(journal_file(Path(named) if named else None))


def journal_file(named: Path | None) -> Path:
    """Return the journal's path: `named`, AGENTKIT_JOURNAL, or a file in the user's state directory.

    Raises:
        UserError: it is the URL of a PostgreSQL database.
    """
    import platformdirs

    kept = os.environ.get(JOURNAL_VARIABLE)
    if re.match(r"postgres(ql)?:/", str(named or kept)):  # the URL may have a password
        raise UserError(
            "the journal is a PostgreSQL database, which only `agentkit serve` takes; name a file with --journal."
        )
    if named is not None:
        return named
    return Path(kept).expanduser() if kept else Path(platformdirs.user_state_dir("agentkit")) / "runs.db"


def _kind_of(value: str) -> Literal["url", "file", "command"]:
    value = value if (prefix := _PREFIXED.fullmatch(value)) is None else prefix[2]
    if re.match(r"https?://", value):
        return "url"
    return "file" if value.endswith(".json") and Path(value).expanduser().is_file() else "command"


def _command(value: str) -> list[str]:
    try:
        words = shlex.split(value)
    except ValueError as error:
        raise UserError(f"MCP server {value!r}: {error}; write the command as in a shell.") from error
    if not words:
        raise UserError(f"the MCP server is empty. {_SERVER_FORMS}.")
    if len(words) == 1 and (wrong := _no_command(words[0])) is not None:
        raise UserError(wrong)
    return words


def _no_command(word: str) -> str | None:
    """Return the reason why a single word is no server; None if it may be a command."""
    from mcp_servers.near_paths import near_path

    path = Path(word).expanduser()
    is_path = os.sep in word or path.suffix == ".json"
    if not is_path and (word in ("python", "python3") or which(word) is not None):
        return None
    if path.is_dir():
        return f"MCP server {word!r} is a folder; serve its files with 'python -m mcp_servers.filesystem {word}'."
    if re.match(r"[\w.-]+:\d+(/|$)", word):
        return f"MCP server {word!r} is no command; for a URL write 'http://{word}'."
    if is_path:
        return None if path.exists() else f"MCP server {near_path(path)} {_SERVER_FORMS}."
    _, found, near = near_path(path).partition("; ")
    hint = f"; {near}" if found else "."
    return f"MCP server {word!r}: there is no such command on PATH{hint} {_SERVER_FORMS}."


def _variables(names: Sequence[str]) -> dict[str, str] | None:
    """Return variables of the environment.

    Raises:
        UserError: one is not set.
    """
    for name in names:
        if name not in os.environ:
            raise UserError(f"--allow-env {name}: the environment has no such variable; set it first.")
    return {name: os.environ[name] for name in names} or None
