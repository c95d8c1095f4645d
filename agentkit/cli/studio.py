"""`agentkit studio`: the page of an agent of this machine, in a browser."""

from __future__ import annotations

import sys
import webbrowser
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentkit.cli.options import (
    AgentOptions,
    AllowEnvOption,
    Ask,
    AskOption,
    CostLimitOption,
    HeaderOption,
    InstructionsOption,
    JournalOption,
    MaxStepsOption,
    McpOption,
    ModelOption,
    NoTraceOption,
    SeedOption,
    TemperatureOption,
    ThinkingOption,
    TraceDirOption,
    journal_file,
    trace_directory,
)
from agentkit.errors import UserError
from mcp_servers.uvicorn_settings import uvicorn_settings

if TYPE_CHECKING:
    from agentkit.agent import Agent

DEFAULT_PORT = 8090
_OF_A_NEW_AGENT = (
    "model",
    "mcp",
    "header",
    "allow_env",
    "max_steps",
    "cost_limit",
    "instructions",
    "temperature",
    "thinking",
    "seed",
    "trace_dir",
    "no_trace",
    "ask",
)
"""Options that an agent of the application has itself."""
NAME = "studio"
"""Name of the service in the journal, for an agent of the command line."""


def studio(
    context: typer.Context,
    agent: Annotated[
        str | None,
        typer.Argument(metavar="[MODULE:NAME]", help="The agent, or FILE.py:NAME; else --model with --mcp."),
    ] = None,
    model: ModelOption = "local",
    mcp: McpOption = None,
    header: HeaderOption = None,
    allow_env: AllowEnvOption = None,
    max_steps: MaxStepsOption = None,
    cost_limit: CostLimitOption = None,
    instructions: InstructionsOption = None,
    temperature: TemperatureOption = None,
    thinking: ThinkingOption = None,
    seed: SeedOption = None,
    trace_dir: TraceDirOption = None,
    no_trace: NoTraceOption = False,
    ask: AskOption = Ask.changes,
    journal: JournalOption = None,
    port: Annotated[int, typer.Option("--port", min=1, max=65_535, help="Port to listen on.")] = DEFAULT_PORT,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open a browser.")] = False,
) -> None:
    """Use, watch and approve an agent on a page of this machine.

    The page shows streams, probabilities of tools, tokens by origin, and any trace; it forks and compares runs.
    """
    try:
        import uvicorn

        from agentkit.serving.asgi import app
    except ImportError as error:
        from mcp_servers.distribution import install_command

        raise UserError(f"`agentkit studio` needs {error.name}: {install_command('serve')}") from error
    if agent is None:
        from agentkit.cli.console import notes_console
        from agentkit.cli.downloads import prepare_model

        prepare_model(model, notes_console())
        trace = trace_directory(trace_dir, no_trace=no_trace)
        options = AgentOptions(
            model, mcp or (), max_steps, instructions, temperature, seed, trace, ask, thinking=thinking
        ).with_access(header, allow_env)
        options = options.with_cost_limit(cost_limit)
        served: Agent[Any, Any] = options.agent(None, options.toolsets())
    else:
        from agentkit.serving.named_agent import named_agent

        _require_none_of(_OF_A_NEW_AGENT, context, agent)
        served = named_agent(agent)
    file = journal_file(journal)
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = app(served, journal=file, name=NAME if agent is None else "agent", has_studio=True)
    address = f"http://127.0.0.1:{port}/studio/"

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.started:
                print(f"{address} (runs are in {file}; Ctrl-C stops)", file=sys.stderr, flush=True)
                if not no_open:
                    webbrowser.open(address)

    config = uvicorn.Config(
        made,
        host="127.0.0.1",
        port=port,
        **uvicorn_settings(),
        timeout_graceful_shutdown=5,
    )
    with suppress(KeyboardInterrupt):
        Server(config).run()


def _require_none_of(names: Sequence[str], context: typer.Context, agent: str) -> None:
    sources = {name: context.get_parameter_source(name) for name in names}
    if given := [name for name, source in sources.items() if source is not None and source.name != "DEFAULT"]:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UserError(f"{options} would have no effect on {agent!r}, which has its own: leave it out.")
