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

_LONG_CARD_LINES = 15
"""Lines of arguments from which the title is repeated below, because it may have left the screen."""


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

    body = readable_arguments(call.arguments)
    title = plain(f"{one_line(call.tool_name, 60)} {what}")
    panel = Panel(
        plain(f"{body}\n\n{call.reason}"),
        title=title,
        title_align="left",
        subtitle=title if body.count("\n") >= _LONG_CARD_LINES else None,
        subtitle_align="left",
        border_style="yellow",
    )
    notes.print(panel, soft_wrap=False)  # soft wrapping would cut the card at the edge of the terminal


def readable_arguments(arguments: str) -> str:
    """Return the arguments as indented JSON, with hidden characters escaped so that the user can see them."""
    try:
        given = json.loads(arguments)
        # Check the decoded value: an escaped character is printable in the JSON text but hidden when decoded.
        seen = is_plain(json.dumps(given, ensure_ascii=False).replace("\\n", ""))
        return json.dumps(given, indent=2, ensure_ascii=not seen)
    except ValueError:
        return ascii(arguments)
