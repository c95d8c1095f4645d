"""`agentkit serve`: an agent behind HTTP. The interface is `agentkit.serving`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentkit.cli.options import journal_name
from agentkit.errors import UserError
from agentkit.persistence.named_journal import is_postgres, named_journal
from mcp_servers.uvicorn_settings import uvicorn_settings

if TYPE_CHECKING:
    from agentkit.serving.asgi import AgentApp
    from mcp_servers.oauth.protected_resource import ProtectedResource

DEFAULT_PORT = 8080
KEEP_ALIVE_S = 75
"""Seconds until a connection that asks nothing is closed: more than the 60 s of usual load balancers, which would
otherwise send a request on a connection that is being closed."""
SETTINGS_VARIABLE = "AGENTKIT_SERVE_SETTINGS"
"""Settings of the command line as JSON, for the worker processes that it starts."""


def serve(
    agent: Annotated[str, typer.Argument(metavar="MODULE:NAME", help="The agent, or FILE.py:NAME.")],
    journal: Annotated[
        str | None,
        typer.Option("--journal", metavar="FILE", help="SQLite file of the runs, or postgresql://USER@HOST/NAME."),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65_535, help="Port to listen on.")] = DEFAULT_PORT,
    key: Annotated[
        list[str] | None,
        typer.Option(
            "--key",
            metavar="NAME=VARIABLE",
            help="A client, and the environment variable with its key. May be repeated.",
        ),
    ] = None,
    no_key: Annotated[bool, typer.Option("--no-key", help="Serve other machines without a key.")] = False,
    origin: Annotated[
        list[str] | None, typer.Option("--origin", help="Origin of web pages that may ask. May be repeated.")
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option("--name", help="Name of this machine that is answered; with keys all are. May be repeated."),
    ] = None,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Runs that a process performs at once.")] = 64,
    timeout: Annotated[float, typer.Option("--timeout", min=1, help="Seconds that a run may take.")] = 3600.0,
    keep: Annotated[
        float | None, typer.Option("--keep", min=0.001, help="Days after which ended runs are deleted.")
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes; they share the journal.")] = 1,
    oauth_issuer: Annotated[
        str | None,
        typer.Option(
            "--oauth-issuer",
            metavar="URL",
            help="Authorization server whose access tokens the MCP endpoint demands, instead of keys.",
        ),
    ] = None,
    oauth_resource: Annotated[
        str | None,
        typer.Option(
            "--oauth-resource",
            metavar="URL",
            help="URL of the MCP endpoint, which tokens must be for; ends in /mcp.",
        ),
    ] = None,
    oauth_audience: Annotated[
        str | None,
        typer.Option(
            "--oauth-audience", metavar="NAME", help="Audience of tokens of an issuer that does not use the URL."
        ),
    ] = None,
    oauth_scope: Annotated[
        list[str] | None, typer.Option("--oauth-scope", help="Scope that tokens need. May be repeated.")
    ] = None,
) -> None:
    """Serve an agent: runs, sessions, approvals and streams that survive the server."""
    try:
        import uvicorn
    except ImportError as error:
        from mcp_servers.distribution import install_command

        raise UserError(f"`agentkit serve` needs {error.name}: {install_command('serve')}") from error
    _require_key(host, key or (), no_key)
    runs_are_in = journal_name(journal)
    settings = {
        "agent": agent,
        "journal": runs_are_in,
        "keys": None if not key else dict(_split(each) for each in key),
        "origins": origin or [],
        "hosts": name or (["*"] if no_key else None),
        "runs": runs,
        "timeout": timeout,
        "keep": None if keep is None else keep * 86_400,
        "oauth": _oauth(oauth_issuer, oauth_resource, oauth_audience, oauth_scope),
    }
    os.environ[SETTINGS_VARIABLE] = json.dumps(settings)
    made = served_app()  # an error in the module or the settings is told before anything listens
    address = f"http://{'[' + host + ']' if ':' in host else host}:{port}"
    name_of_journal = named_journal(runs_are_in).name
    print(f"{address} serves {agent}; runs are in {name_of_journal}", file=sys.stderr, flush=True)
    uvicorn.run(
        "agentkit.cli.serve:served_app" if workers > 1 else made,
        factory=workers > 1,
        workers=workers,
        host=host,
        port=port,
        **uvicorn_settings(),
        proxy_headers=False,
        timeout_graceful_shutdown=5,
        timeout_keep_alive=KEEP_ALIVE_S,
    )


def served_app() -> AgentApp:
    """Return the application of the command line's settings; each worker process calls it.

    Raises:
        UserError: a setting is wrong.
    """
    from agentkit.serving import ServiceLimits, app
    from agentkit.serving.garbage import collect_seldom
    from agentkit.serving.named_agent import named_agent

    settings = json.loads(os.environ[SETTINGS_VARIABLE])
    variables: Mapping[str, str] | None = settings["keys"]
    oauth: Mapping[str, Any] | None = settings["oauth"]
    if not is_postgres(settings["journal"]):
        Path(settings["journal"]).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = app(
        named_agent(settings["agent"]),
        journal=settings["journal"],
        keys=None if variables is None else {client: _key(variable) for client, variable in variables.items()},
        hosts=settings["hosts"],
        origins=settings["origins"],
        oauth=None if oauth is None else _resource(oauth),
        limits=ServiceLimits(
            max_runs=settings["runs"], run_timeout_s=settings["timeout"], keep_s=settings["keep"]
        ),
    )
    collect_seldom()
    return made


def _split(given: str) -> tuple[str, str]:
    name, equals, variable = given.partition("=")
    if not equals or not name or not variable:
        raise UserError(f"--key {given!r}: write NAME=VARIABLE, for example web=WEB_KEY.")
    return name, variable


def _oauth(
    issuer: str | None, resource: str | None, audience: str | None, scopes: Sequence[str] | None
) -> dict[str, Any] | None:
    """Return the settings of OAuth; None if it is off."""
    if issuer is None and resource is None and audience is None and not scopes:
        return None
    if issuer is None or resource is None:
        raise UserError("OAuth needs both --oauth-issuer and --oauth-resource.")
    return {"issuer": issuer, "url": resource, "audience": audience, "scopes": list(scopes or ())}


def _resource(settings: Mapping[str, Any]) -> ProtectedResource:
    from mcp_servers.oauth.protected_resource import ProtectedResource

    try:
        return ProtectedResource(
            settings["url"], settings["issuer"], settings["audience"], tuple(settings["scopes"])
        )
    except ValueError as error:
        raise UserError(f"OAuth: {error} --oauth-resource and --oauth-issuer set them.") from error


def _key(variable: str) -> str:
    key = os.environ.get(variable, "")
    if not key:
        raise UserError(f"the environment variable {variable!r} with a client's key is empty or not set.")
    return key


def _require_key(host: str, keys: Sequence[str], no_key: bool) -> None:
    try:
        is_local = ip_address(host).is_loopback
    except ValueError:
        is_local = host == "localhost"
    if not is_local and not keys and not no_key:
        raise UserError(
            f"--host {host} lets other machines run this agent: give clients keys with --key NAME=VARIABLE, or "
            f"add --no-key if the network is closed."
        )
