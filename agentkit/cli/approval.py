"""Terminal prompts for calls that wait for a decision."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from agentkit.approvals.pending import Decision, PendingCall
from agentkit.basics.hidden import is_plain

if TYPE_CHECKING:
    from rich.console import Console

_MAX_ARGUMENT_LINES = 60
"""Lines of arguments on one card; a longer card would scroll its title off the screen."""


def can_ask() -> bool:
    """Return whether standard input and standard error are a terminal."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def decide(calls: Sequence[PendingCall], notes: Console) -> list[Decision]:
    """Show each call and ask for a decision.

    Raises:
        EOFError: standard input has ended.
        KeyboardInterrupt: the user pressed Ctrl-C.
    """
    return [_decide_unknown(call, notes) if call.kind == "unknown" else _decide(call, notes) for call in calls]


def _decide(call: PendingCall, notes: Console) -> Decision:
    _card(call, notes, "needs approval")
    while True:
        answer = _answer("[o]nce, for this [r]un (any arguments), or [d]eny? ", notes).lower()
        if answer in ("o", "once"):
            return call.approve()
        if answer in ("r", "run"):
            return call.approve(for_run=True)
        if answer in ("d", "deny"):
            return call.deny(_answer("reason for the model (may be empty): ", notes))


def _decide_unknown(call: PendingCall, notes: Console) -> Decision:
    _card(call, notes, "may have taken effect already")
    while True:
        answer = _answer("it [t]ook effect, [r]un it again, or [l]eave it? ", notes).lower()
        if answer in ("t", "took effect"):
            return call.settle(_answer("its result, for the model: ", notes) or "done")
        if answer in ("r", "run"):
            return call.approve()
        if answer in ("l", "leave"):
            return call.deny(_answer("reason for the model (may be empty): ", notes))


def _answer(question: str, notes: Console) -> str:
    notes.print(question, end="")  # standard output is for the run's answer
    return input().strip()


def _card(call: PendingCall, notes: Console, what: str) -> None:
    from rich.panel import Panel

    from agentkit.cli.console import one_line, plain

    lines = _shown(call.arguments).splitlines()
    body = "\n".join(lines[:_MAX_ARGUMENT_LINES])
    if len(lines) > _MAX_ARGUMENT_LINES:
        body += f"\n... {len(lines) - _MAX_ARGUMENT_LINES} more lines; look at them before you allow this"
    text = plain(f"{body}\n\n{one_line(call.reason)}")
    notes.print(Panel(text, title=plain(f"{call.tool_name} {what}"), title_align="left", border_style="yellow"))


def _shown(arguments: str) -> str:
    """Return the arguments as indented JSON, with hidden characters escaped so that the user can see them."""
    try:
        given = json.loads(arguments)
        # Check the decoded value: an escaped character is printable in the JSON text but hidden when decoded.
        seen = is_plain(json.dumps(given, ensure_ascii=False).replace("\\n", ""))
        return json.dumps(given, indent=2, ensure_ascii=not seen)
    except ValueError:
        return ascii(arguments)
