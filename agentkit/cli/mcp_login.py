"""`agentkit mcp login` and `logout`: OAuth at an MCP server over HTTP."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from agentkit.errors import UserError

UrlArgument = Annotated[str, typer.Argument(metavar="URL", help="The MCP server.")]
AccountOption = Annotated[
    str, typer.Option("--account", metavar="NAME", help="One of several users of the server, who log in apart.")
]


def login(
    url: UrlArgument,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            "--scope", help="Scope to request; without any, those that the server names. May be repeated."
        ),
    ] = None,
    account: AccountOption = "",
    client_id: Annotated[
        str | None,
        typer.Option(
            "--client-id", metavar="ID", help="Client that is registered already; none: one is registered."
        ),
    ] = None,
    client_secret: Annotated[
        str | None,
        typer.Option(
            "--client-secret", metavar="VARIABLE", help="Environment variable with that client's secret."
        ),
    ] = None,
    issuer: Annotated[
        str | None,
        typer.Option("--issuer", metavar="URL", help="The only authorization server to log in at."),
    ] = None,
    port: Annotated[
        int,
        typer.Option(
            "--port", min=0, max=65_535, help="Port on 127.0.0.1 to which the browser returns; 0: a free one."
        ),
    ] = 0,
    paste: Annotated[
        bool,
        typer.Option("--paste", help="The browser is on another machine: ask for the URL to which it was sent."),
    ] = False,
) -> None:
    """Log in at an MCP server with a browser. The login is kept for all commands and programs."""
    import anyio

    from agentkit.cli.console import output_console, plain
    from agentkit.mcp.oauth import OAuth, open_browser

    options = OAuth(
        scopes=tuple(scope) if scope else None,
        account=account,
        client_id=client_id,
        client_secret=_secret(client_secret),
        issuer=issuer,
        redirect_port=port,
        on_authorize=_ask_for_url if paste else open_browser,
    )
    scopes, storage = anyio.run(_log_in, url, options)
    granted = f" with {', '.join(scopes)}" if scopes else ""
    output_console().print(plain(f"{url}: logged in{granted}; the login is in {storage}"))


def logout(url: UrlArgument, account: AccountOption = "") -> None:
    """Revoke the login at an MCP server and delete it. Exit status 1: there was none."""
    import anyio

    from agentkit.cli.console import output_console, plain

    revoked = anyio.run(_log_out, url, account)
    if revoked is None:
        output_console().print(plain(f"{url}: not logged in"))
        raise typer.Exit(1)
    state = (
        "the tokens were revoked" if revoked else "the server did not revoke the tokens; they expire by themselves"
    )
    output_console().print(plain(f"{url}: logged out; {state}"))


async def _log_in(url: str, options: Any) -> tuple[tuple[str, ...], str]:
    """Log in; return the granted scopes and the name of the store."""
    from agentkit.mcp.oauth.http_auth import challenge_of
    from agentkit.mcp.oauth.session import OAuthSession
    from agentkit.mcp.target import HttpTarget, describe

    target = HttpTarget(url, auth=options)
    session = OAuthSession(url, options, describe(target))
    await session.log_in(await challenge_of(url))
    tokens = (await session.stored()).tokens
    return (tokens.scopes if tokens is not None else ()), await session.place()


async def _log_out(url: str, account: str) -> bool | None:
    from agentkit.mcp.oauth import OAuth
    from agentkit.mcp.oauth.session import OAuthSession
    from agentkit.mcp.target import HttpTarget

    options = OAuth(account=account)
    HttpTarget(url, auth=options)  # checks the URL
    return await OAuthSession(url, options).log_out()


async def _ask_for_url(url: str) -> str:
    """Show the authorization URL, and return the URL that the person pastes."""
    typer.echo(f"Log in with a browser at:\n{url}\nIt ends at a page that cannot be reached. Paste its URL here.")
    return typer.prompt("URL", prompt_suffix=": ").strip()


def _secret(variable: str | None) -> str | None:
    if variable is None:
        return None
    if not (secret := os.environ.get(variable, "")):
        raise UserError(f"--client-secret {variable}: the environment has no such variable, or it is empty.")
    return secret
