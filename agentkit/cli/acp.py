"""`agentkit acp`: an agent for the editor that starts this process, over the Agent Client Protocol."""

from __future__ import annotations

from typing import Annotated

import typer

from agentkit.cli.options import JournalOption, journal_file
from agentkit.errors import UserError


def acp(
    agent: Annotated[str, typer.Argument(metavar="MODULE:NAME", help="The agent, or FILE.py:NAME.")],
    journal: JournalOption = None,
) -> None:
    """Serve an agent to an editor on standard input and output."""
    import anyio

    try:
        from agentkit.serving.acp_agent import serve_stdio
    except ImportError as error:
        from mcp_servers.distribution import install_command

        raise UserError(f"`agentkit acp` needs {error.name}: {install_command('acp')}") from error
    from functools import partial

    from agentkit.persistence import SQLiteCheckpointer, SQLiteSession
    from agentkit.serving.named_agent import named_agent
    from agentkit.serving.service import AgentService

    file = journal_file(journal)
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    checkpointer = SQLiteCheckpointer(file)
    service = AgentService(
        named_agent(agent),
        checkpointer=checkpointer,
        session_of=partial(SQLiteSession, checkpointer.database),
        name="acp",
    )
    anyio.run(serve_stdio, service)
