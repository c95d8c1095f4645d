"""Reasons why a server could not be started or reached, in words.

They are the telling line of its stderr, the missing command, and the status of an HTTP answer.
"""

from __future__ import annotations

import os
import re
from http import HTTPStatus
from pathlib import Path
from typing import Any

from agentkit.mcp.target import HttpTarget, StdioTarget
from mcp_servers.near_paths import near_path

_TELLING = re.compile(r"error|exception|panic|fatal|fail|refused|denied|missing|not found|cannot", re.IGNORECASE)
_DRAWN = re.compile(r"[\s|+~^-]*")
"""Lines of marks: carets below code, frames of exception groups."""
_GROUP_FRAME = re.compile(r"(\s*\|)+ ?")
"""Frame before the lines of a Python exception group."""


def telling_line(text: str) -> str:
    """Return the line of a server's stderr that names the error: the last unindented one that speaks of an error.

    Python, Go and Java put the error's name at the beginning of a line and indent the frames; Node writes frames
    and its version after it. Without such a line it is the last unindented one.
    """
    lines = [_GROUP_FRAME.sub("", line).rstrip() for line in text.splitlines()]
    lines = [line for line in lines if not _DRAWN.fullmatch(line)]
    unindented = [line for line in lines if not line[0].isspace()] or lines
    telling = [line for line in unindented if _TELLING.search(line)]
    return (telling or unindented or [""])[-1].strip()


def last_words(text: str) -> str:
    """Return a sentence with the telling line of a server's stderr, and where the other lines are; "" for none."""
    if not text:
        return ""
    n_lines = len(text.splitlines())
    rest = f" (its last {n_lines} lines: `error.stderr`, or `agentkit --debug COMMAND`)" if n_lines > 1 else ""
    return f" Its stderr says: {telling_line(text)}{rest}"


def start_failure(error: BaseException, target: Any) -> str | None:
    """Return the reason why a command cannot be started; None if the error is another one."""
    if not isinstance(error, FileNotFoundError | PermissionError) or not isinstance(target, StdioTarget):
        return None
    if target.cwd is not None and not Path(target.cwd).is_dir():
        return f"its folder cwd={near_path(Path(target.cwd))}"
    if " " in target.command.strip():
        return (
            f"{target.command!r} is one word to the system; give the command and its arguments apart, like "
            f'MCPToolset.stdio("python", "-m", "mcp_servers.time").'
        )
    path = Path(target.command)
    if path.is_dir():
        return f"{target.command!r} is a folder; a server is a command."
    if path.exists():
        return f"{target.command!r} is not executable."
    if os.sep in target.command:
        return f"the command {near_path(path)}"
    return f"there is no command {target.command!r} on PATH. Is it installed?"


def http_refusal(status: int, target: Any) -> str:
    """Return the reason for an HTTP error status, with the fix if it concerns access; "" for a success."""
    if status < HTTPStatus.BAD_REQUEST:
        return ""
    try:
        answer = f"the server answered {status} {HTTPStatus(status).phrase}"
    except ValueError:
        answer = f"the server answered {status}"
    headers = target.headers or {} if isinstance(target, HttpTarget) else {}
    if status == HTTPStatus.FORBIDDEN or (status == HTTPStatus.UNAUTHORIZED and headers):
        sent = f"the headers {', '.join(headers)}" if headers else "a request without a header"
        return f"{answer}: it refuses {sent}."
    if status == HTTPStatus.UNAUTHORIZED:
        return (
            f"{answer}: it wants a secret. Give it as a header: MCPToolset.http(url, headers={{...}}), or "
            f"--header 'Authorization: Bearer ${{TOKEN}}' on the command line. With OAuth: `agentkit mcp login "
            f"URL` and MCPToolset.http(url, auth=OAuth())."
        )
    if status == HTTPStatus.NOT_FOUND:
        return f"{answer}. Is the path of the URL right? Many servers have /mcp."
    return f"{answer}."
