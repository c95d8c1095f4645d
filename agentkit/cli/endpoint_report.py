"""`agentkit doctor URL`: checks an endpoint and prints what holds, what does not, and the model that suits."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import typer

from agentkit.errors import UserError

if TYPE_CHECKING:
    from agentkit.models.endpoint_check.advice import Advice
    from agentkit.models.endpoint_check.checking import EndpointCheck

TOTAL_S = 900.0
"""Seconds of a whole check."""
_ENDS = {
    "stopped": "The check ended early: nothing further works without what does not hold.",
    "deadline": f"The check ended after {TOTAL_S:g} s; what is missing was not asked.",
    "lost": "The check ended early: the server no longer answers.",
    "interrupted": "The check was interrupted; what is missing was not asked.",
}


def check_url(url: str, *, model: str | None, key_env: str | None, timeout_s: float, as_json: bool) -> None:
    """Check an endpoint and print the report. Exit status 1: no agent can run.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed; what was found is printed.
        UserError: the address or the key cannot be used, or the server lists several models and none was named.
    """
    from agentkit.models.endpoint_check.advice import advice_of
    from agentkit.models.endpoint_check.checking import EndpointCheck
    from agentkit.models.http.credentials import checked_url
    from agentkit.models.openai.model import OPENAI_HOST

    base_url = checked_url(url)
    host = urlsplit(base_url).hostname or ""
    is_openai = host == OPENAI_HOST or host.endswith(f".{OPENAI_HOST}")
    variable, key = _key(key_env, is_openai=is_openai)
    check = EndpointCheck(model=model or "", total_s=TOTAL_S, is_openai=is_openai)
    _run(check, base_url, key, timeout_s, quiet=as_json)
    advice = advice_of(
        check.findings, model=check.model, base_url=base_url, key_variable=variable, is_openai=is_openai
    )
    report = _report(check, advice, base_url, key)
    if as_json:
        from modelstack.terminal.tables import print_json

        print_json(report)
    else:
        _show(report)
    if check.end == "interrupted":
        raise KeyboardInterrupt
    if not advice.can_run:
        raise typer.Exit(1)


def _key(named: str | None, *, is_openai: bool) -> tuple[str | None, str | None]:
    """Return the variable of the key, and the key. OpenAI's own key goes to OpenAI only, unless it is named.

    Raises:
        UserError: the variable is not set, or its value cannot be sent.
    """
    from agentkit.models.http.credentials import checked_key
    from agentkit.models.openai.model import API_KEY_VARIABLE

    variable = named or (API_KEY_VARIABLE if is_openai else None)
    key = checked_key(os.environ.get(variable, "")) if variable else None
    if named and key is None:
        raise UserError(f"--key-env {named}: the environment has no such variable, or it is empty; set it first.")
    return (variable, key) if key else (None, None)


def _run(check: EndpointCheck, base_url: str, key: str | None, timeout_s: float, *, quiet: bool) -> None:
    """Run the check; Ctrl-C ends it, and leaves what was found."""
    import anyio

    from agentkit.cli.console import notes_console
    from agentkit.models.endpoint_check.sending import Sender
    from agentkit.models.http.http_clients import LoopClients

    async def run() -> None:
        clients = LoopClients(base_url)
        async with clients.borrowed() as client:
            check.send = Sender(client, base_url, key, timeout_s).send
            await check.run()

    console = notes_console()
    try:
        if quiet or not console.is_terminal:
            anyio.run(run)
            return
        with console.status(f"asking {base_url}") as status:
            check.on_probe = lambda title: status.update(f"{title} ({check.n_requests} requests so far)")
            anyio.run(run)
    except KeyboardInterrupt:
        if not check.findings:
            raise


def _report(check: EndpointCheck, advice: Advice, base_url: str, key: str | None) -> dict[str, Any]:
    """Return the report as JSON-able data, without the key, which a server may repeat in whatever it sends."""
    from agentkit.models.endpoint_check.advice import as_data
    from agentkit.models.endpoint_check.sending import with_secrets_hidden

    report = {
        "url": base_url,
        "model": check.model,
        "end": check.end,
        "n_requests": check.n_requests,
        **as_data(advice),
        "findings": [asdict(finding) for finding in check.findings],
    }
    return with_secrets_hidden(report, () if key is None else (key,))


def _show(report: dict[str, Any]) -> None:
    from agentkit.cli.console import output_console, print_tables, print_wrapped
    from agentkit.models.endpoint_check.findings import WORDS
    from modelstack.terminal.tables import Column, Table

    console = output_console()
    columns = (Column("check", "title"), Column("verdict", show=WORDS.__getitem__), Column("found", "detail"))
    rows = [(finding["title"], finding["verdict"], finding["detail"]) for finding in report["findings"]]
    print_tables(Table(columns, rows))
    console.print()
    if report["end"] in _ENDS:
        print_wrapped(console, _ENDS[report["end"]], "yellow")
    if report["can_run"]:
        print_wrapped(console, "An agent can run on this endpoint.", "green")
    else:
        print_wrapped(
            console, f"No agent with tools can run on this endpoint: {' '.join(report['reasons'])}", "red"
        )
    for consequence in report["consequences"]:
        print_wrapped(console, f"- {consequence}", indent="  ")
    if report["code"]:
        console.print()
        print_wrapped(console, report["code"])
