"""Errors and warnings of a command, as text for the terminal."""

from __future__ import annotations

import logging

from agentkit.cli.console import clean, notes_console, one_line, plain
from agentkit.errors import AgentKitError

MAX_ERROR_CHARS = 4_000
"""Characters of an error that are printed; enough for a difference of tool definitions, or a server's reply."""
MAX_WARNING_CHARS = 1_000
_EXTRAS = {"eval": "evals", "compare": "evals", "calibrate": "evals", "specialise": "train"}
"""Extra that a command needs, where several bring a module; `local` for all others."""
_LOGGER = logging.getLogger("agentkit")


def error_text(error: BaseException, command: str) -> str:
    """Return the text of an error that ended a command; errors of this package keep their lines."""
    if isinstance(error, AgentKitError):
        return error_lines(str(error), MAX_ERROR_CHARS)
    if isinstance(error, ImportError) and (fix := _missing_extra(error, command)) is not None:
        return fix
    what = one_line(f"{type(error).__name__}: {error}", MAX_ERROR_CHARS)
    return f"{what} (`agentkit --debug COMMAND` shows where)"


def error_lines(text: str, limit: int) -> str:
    """Return an error's text cleaned and cut to `limit` characters, with its lines.

    Lines after the first are indented: a line that a server wrote never looks like a line of this program.
    """
    shown = "\n  ".join(clean(text[: 4 * limit]).strip().splitlines())
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def show_warnings() -> None:
    """Print the warnings of this package on standard error, one line each, cleaned: they may quote a server."""
    if not any(isinstance(handler, _Warnings) for handler in _LOGGER.handlers):
        _LOGGER.addHandler(_Warnings(logging.WARNING))


class _Warnings(logging.Handler):
    """Prints log records like other notices."""

    def emit(self, record: logging.LogRecord) -> None:
        notes_console().print(plain(f"warning: {one_line(record.getMessage(), MAX_WARNING_CHARS)}", "yellow"))


def _missing_extra(error: ImportError, command: str) -> str | None:
    """Return the error that an extra is not installed; None if no extra brings the module."""
    from mcp_servers.missing_modules import how_to_install

    fix = how_to_install(error, prefer=(_EXTRAS.get(command, "local"),))
    return None if fix is None else f"`agentkit {command}`: {fix}"
