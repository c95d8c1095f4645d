"""Text in which the model reads an exception that a tool did not declare.

An exception's message may hold anything: paths of the server, a connection string, a page of another program's
output. The model, and whoever reads its answer, receive the class and one short line without paths and secrets;
the application receives the original (`ToolResultEvent.error`).
"""

from __future__ import annotations

import re
from concurrent.futures import CancelledError
from typing import cast

from agentkit.basics.well_formed import well_formed
from agentkit.errors import AgentKitError
from agentkit.tracing.redaction import redact

MAX_CHARS = 300
"""Maximum length of a message in characters: a sentence or two, as much as a model can act on."""
_MAX_READ_CHARS = 20_000
"""Characters of a message that are searched for paths and secrets; the rest is dropped unread."""
PATH = "[path]"

_TRACEBACK = re.compile(r"Traceback \(most recent call last\):.*", re.DOTALL)
_PATHS = re.compile(
    r"""(?P<kept>\bhttps?://[^\s'"]{1,2000}|</[A-Za-z][\w-]{0,30}>)"""
    r"""|(?P<quote>['"`])(?:file:|~|\.{0,2}[/\\]|[A-Za-z]:[/\\])[^'"`\n]{0,1000}(?P=quote)"""  # may hold blanks
    r"""|\bfile:/{1,3}[^\s'"]{1,1000}"""
    r"""|(?<![\w/\\.])(?:~|\.{1,2})?/[\w.@+~-][^\s'",;:()\[\]{}<>]{0,1000}"""
    r"""|(?<!\w)(?:[A-Za-z]:[/\\]|\\\\)[^\s'",;()\[\]{}]{1,1000}"""
    r"""|(?<![\w/.-])(?:[\w.-]{1,100}/){1,40}[\w-]{1,100}\.[A-Za-z]\w{0,7}\b"""
)


def is_told(error: Exception) -> bool:
    """Return whether a model may be told of an exception instead of the run ending with it.

    A cancellation and an error of this package, also within a group, are no failure of the tool.
    """
    if isinstance(error, ExceptionGroup):
        return all(map(is_told, cast("ExceptionGroup[Exception]", error).exceptions))
    return not isinstance(error, (AgentKitError, CancelledError))


def whole_error(error: Exception) -> str:
    """Return the class and the whole message of an exception."""
    name, message = type(error).__name__, _message(error)
    return f"{name}: {message}" if message else name


def told_error(error: Exception) -> str:
    """Return the class and the cleaned message of an exception: one line, no traceback, no paths, no secrets."""
    name, message = type(error).__name__, _cleaned(_message(error)[:_MAX_READ_CHARS])
    return f"The tool failed: {name}: {message}" if message else f"The tool failed: {name}."


def _message(error: Exception) -> str:
    try:
        return well_formed(str(error))
    except Exception as broken:  # the tool author's own `__str__`
        return f"(no message: {type(broken).__name__})"


def _cleaned(message: str) -> str:
    text = redact(message.encode()).decode(errors="replace")  # before blanks are joined: a key has lines
    text = " ".join(_TRACEBACK.sub("", text).split())
    text = _PATHS.sub(lambda found: found["kept"] or PATH, text)
    return text if len(text) <= MAX_CHARS else f"{text[: MAX_CHARS - 3]}..."
