"""Features that the application offers to a server: folders (roots) and a receiver of log messages.

Both are deprecated in the protocol since 2026-07-28, and servers in use still ask for them. Neither is offered
unless the application gives it. A root tells the server where the user works; it grants nothing, and it does not
confine the server.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import anyio
from pydantic_core import to_json

from agentkit.errors import UserError
from agentkit.mcp.results import bounded

if TYPE_CHECKING:
    import os

    from mcp import Client
    from mcp_types import ListRootsResult, LoggingMessageNotificationParams

logger = logging.getLogger(__name__)

LogLevel = Literal["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"]

MAX_LOG_CHARS = 2_000
"""Characters of a log message; a longer one is cut."""
MAX_LOGGER_CHARS = 100
SET_LEVEL_TIMEOUT_S = 5.0
"""Seconds for the server to accept the level; without an answer it is used all the same."""


@dataclass(frozen=True, slots=True)
class LogMessage:
    """A log message of a server: untrusted text, without hidden characters."""

    server: str
    """The toolset's id."""
    level: LogLevel
    text: str
    """The message; JSON if the server sent a value."""
    logger: str | None = None
    """Name of the server's logger."""


OnLog = Callable[[LogMessage], None]


class Roots:
    """The folders that a server may ask for."""

    def __init__(self, folders: Sequence[str | os.PathLike[str]] | None) -> None:
        """Offer `folders`; None: the server is told that there are no roots to ask for."""
        self.is_offered = folders is not None
        self._folders = _checked(folders or ())

    def replace(self, folders: Sequence[str | os.PathLike[str]]) -> None:
        """Offer other folders.

        Raises:
            UserError: one does not exist, or roots were not offered at the beginning.
        """
        if not self.is_offered:
            raise UserError(
                "set_roots: the toolset was made without roots; make it with roots=[...], or roots=[]."
            )
        self._folders = _checked(folders)

    async def answer(self, context: Any) -> ListRootsResult:
        """Return the folders for the protocol."""
        from mcp_types import ListRootsResult, Root

        return ListRootsResult(
            roots=[Root.model_validate({"uri": path.as_uri(), "name": path.name}) for path in self._folders]
        )


@dataclass(frozen=True, slots=True)
class ClientFeatures:
    """Everything that is offered to the server of one toolset."""

    server: str
    roots: Roots
    on_log: OnLog | None
    log_level: LogLevel

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `mcp.Client`."""
        given: dict[str, Any] = {}
        if self.roots.is_offered:
            given["list_roots_callback"] = self.roots.answer
        if self.on_log is not None:
            given |= {"logging_callback": self._log, "log_level": self.log_level}
        return given

    async def begin(self, client: Client) -> None:
        """Tell a server of the handshake era which log messages to send; later ones are told with each request."""
        from mcp import MCPError
        from mcp_types import EmptyResult, SetLevelRequest, SetLevelRequestParams
        from mcp_types.version import MODERN_PROTOCOL_VERSIONS

        is_modern = client.protocol_version in MODERN_PROTOCOL_VERSIONS
        if self.on_log is None or is_modern or client.server_capabilities.logging is None:
            return
        request = SetLevelRequest(params=SetLevelRequestParams(level=self.log_level))
        try:
            with anyio.fail_after(SET_LEVEL_TIMEOUT_S):
                await client.session.send_request(request, EmptyResult)
        except (MCPError, TimeoutError) as error:
            logger.warning(
                "MCP server %r does not set its log level: %s", self.server, bounded(str(error), 200, clean=True)
            )

    async def _log(self, params: LoggingMessageNotificationParams) -> None:
        if self.on_log is None:
            return
        data = params.data
        text = data if isinstance(data, str) else to_json(data).decode()
        name = bounded(params.logger, MAX_LOGGER_CHARS, clean=True) if params.logger else None
        message = LogMessage(self.server, params.level, bounded(text, MAX_LOG_CHARS, clean=True), name)
        try:
            self.on_log(message)
        except Exception:  # the boundary to the application: its error must not end the connection
            logger.exception("on_log of MCP server %r raised", self.server)


def _checked(folders: Sequence[str | os.PathLike[str]]) -> tuple[Path, ...]:
    if isinstance(folders, str):
        raise UserError(f"roots={folders!r} is one string; give a list of folders: roots=[{folders!r}].")
    paths = tuple(Path(folder).expanduser().resolve() for folder in folders)
    for path in paths:
        if not path.is_dir():
            raise UserError(f"roots: {str(path)!r} is not a folder; name folders that exist.")
    return paths
