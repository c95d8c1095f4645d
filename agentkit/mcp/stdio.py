"""A server as a child process: one message per line, on its stdin and stdout (2025-11-25, transports, stdio).

Two differences from `stdio_client` of `mcp`:

- A line has at most `MAX_MESSAGE_BYTES`. `mcp` buffers a line until it ends, so an endless one takes all memory.
- Closing ends every process of the server's session, by SIGKILL if SIGTERM does not. `mcp` leaves a server's
  children running if the server itself ends in time. On Windows, `mcp` starts the server in a job object, which
  ends its processes.

Imported only when a connection is opened: it imports `mcp`.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, TypeAlias

import anyio
import anyio.to_thread
from anyio.abc import AsyncResource
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.client.stdio import StdioServerParameters, get_default_environment
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter
from pydantic_core import from_json

from agentkit.errors import UserError
from agentkit.mcp.message_bounds import MAX_CONTAINERS, MAX_MESSAGE_BYTES, n_containers

Messages: TypeAlias = MemoryObjectReceiveStream[SessionMessage | Exception]
"""Messages from the server; an invalid line arrives as an exception."""
Replies: TypeAlias = MemoryObjectSendStream[SessionMessage]
"""Messages to the server."""

logger = logging.getLogger(__name__)

FLUSH_S = 0.5
"""Seconds for messages that were already accepted to reach the server."""
EXIT_S = 2.0
"""Seconds for a server to end by itself after its stdin is closed."""
TERMINATE_S = 2.0
"""Seconds between SIGTERM and SIGKILL. This value and the two above are mcp's own."""
KILL_S = 2.0
"""Seconds for the end of a killed process to be noticed."""
POLL_S = 0.01
PROCESSES = Path("/proc")
"""Linux lists all processes here, with their sessions."""


class ServerOutputError(Exception):
    """A server's output exceeds the limits of a message."""


@asynccontextmanager
async def stdio_transport(
    server: StdioServerParameters, *, errlog: TextIO, on_fault: Callable[[Exception], None]
) -> AsyncGenerator[tuple[Messages, Replies]]:
    """Start a server and yield the streams of its messages; on exit, all its processes have ended.

    `on_fault` receives a `ServerOutputError` before the stream of messages ends.

    Raises:
        OSError: the command cannot be started.
        UserError: the encoding does not write a line feed as one byte.
    """
    if "\n".encode(server.encoding) != b"\n":
        raise UserError(f"encoding={server.encoding!r} cannot be cut into lines; MCP servers write UTF-8.")
    process = await _started(server, errlog)
    # Nothing is awaited between the start and the task group: a cancellation there would leak the process.
    to_session, messages = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    replies, from_session = anyio.create_memory_object_stream[SessionMessage](0)
    all_written = anyio.Event()

    async def read() -> None:
        try:
            async with to_session:
                try:
                    await _read(process.stdout, to_session, server)
                except ServerOutputError as error:
                    on_fault(error)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, ConnectionError):
            pass  # the session or the server is gone
        with anyio.CancelScope(shield=True):
            await _drain(process.stdout)

    async def write() -> None:
        try:
            async with from_session:
                await _write(process.stdin, from_session, server)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            await to_session.aclose()  # the server reads no more: closing tells the session
        finally:
            all_written.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        tasks.start_soon(write)
        try:
            yield messages, replies
        finally:
            with anyio.CancelScope(shield=True):
                messages.close()
                replies.close()
                with anyio.move_on_after(FLUSH_S):
                    await all_written.wait()
                await _end(process)
            tasks.cancel_scope.cancel()


class Lines:
    """Splits a server's output into lines."""

    def __init__(self, max_bytes: int) -> None:
        """Refuse a line of more than `max_bytes`, also before its end is known."""
        self._max_bytes = max_bytes
        self._begun = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that end in `data`, without their line feeds.

        Raises:
            ServerOutputError: a line is too long.
        """
        first, *others = data.split(b"\n")
        if len(self._begun) + len(first) > self._max_bytes or any(len(line) > self._max_bytes for line in others):
            raise ServerOutputError(
                f"it wrote over {self._max_bytes:,} bytes to its stdout without a line end, and a message has at "
                f"most that many (MAX_MESSAGE_BYTES); have it send less at a time, and write its logs to stderr"
            )
        self._begun += first
        if not others:
            return []
        lines = [bytes(self._begun), *others[:-1]]
        self._begun = bytearray(others[-1])
        return lines


async def _read(
    stdout: Any, to_session: MemoryObjectSendStream[SessionMessage | Exception], server: StdioServerParameters
) -> None:
    """Forward messages; nothing is read ahead while a message waits for its receiver."""
    lines = Lines(MAX_MESSAGE_BYTES)
    async for data in stdout:
        for line in lines.feed(data):
            await to_session.send(_message(line, server))


def _message(line: bytes, server: StdioServerParameters) -> SessionMessage | Exception:
    if n_containers(line) > MAX_CONTAINERS:
        raise ServerOutputError(
            f"it wrote a message of over {MAX_CONTAINERS:,} objects and lists (MAX_CONTAINERS)"
        )
    try:
        text = line.decode(server.encoding, server.encoding_error_handler)
        # `validate_json` keeps one parsed copy for each kind of message: five times the memory.
        return SessionMessage(jsonrpc_message_adapter.validate_python(from_json(text), by_name=False))
    except ValueError as error:
        logger.debug("a line of %d bytes on a server's stdout is no message: logs belong on stderr", len(line))
        return error


async def _write(
    stdin: Any, from_session: MemoryObjectReceiveStream[SessionMessage], server: StdioServerParameters
) -> None:
    async for message in from_session:
        text = message.message.model_dump_json(by_alias=True, exclude_unset=True) + "\n"
        await stdin.send(text.encode(server.encoding, server.encoding_error_handler))


async def _drain(stdout: Any) -> None:
    """Discard further output: a server that blocks on a full pipe cannot end."""
    with suppress(anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError, OSError):
        while True:
            await stdout.receive()


async def _started(server: StdioServerParameters, errlog: TextIO) -> Any:
    environment = get_default_environment() | (server.env or {})
    if sys.platform == "win32":  # pragma: no cover
        from mcp.os.win32.utilities import create_windows_process, get_windows_executable_command

        command = await anyio.to_thread.run_sync(get_windows_executable_command, server.command)
        return await create_windows_process(command, server.args, environment, errlog, server.cwd)
    return await anyio.open_process(
        [server.command, *server.args], env=environment, stderr=errlog, cwd=server.cwd, start_new_session=True
    )


async def _end(process: Any) -> None:
    """Close a server's stdin, wait, and end its remaining processes."""
    await _close(process.stdin)
    await _has_exited(process, EXIT_S)
    if sys.platform == "win32":  # pragma: no cover
        from mcp.os.win32.utilities import close_process_job, terminate_windows_process_tree

        if process.returncode is None:
            await terminate_windows_process_tree(process)
        close_process_job(process)
    else:
        await _end_session(process)
    if not await _has_exited(process, KILL_S):
        logger.warning("MCP server process %d is still there after SIGKILL; it is left behind", process.pid)
    await _close(process.stdout)
    # A process that left the session may hold the pipe; asyncio's transport would wait for its end.
    transport = getattr(getattr(process, "_process", None), "_transport", None)
    if transport is not None:
        with suppress(PermissionError):  # Python 3.11 kills again, which a changed user id forbids
            transport.close()


async def _end_session(process: Any) -> None:
    await _end_members(process)
    # A process that constantly forks and exits escapes every listing; a signal to its group reaches it.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


async def _end_members(process: Any) -> None:
    for sign, wait_s in ((signal.SIGTERM, TERMINATE_S), (signal.SIGKILL, KILL_S)):
        if not await _signalled(process.pid, sign):
            return
        with anyio.move_on_after(wait_s):
            while await _signalled(process.pid, 0):
                _ = process.returncode  # reading it reaps the server if the loop has no watcher
                await anyio.sleep(POLL_S)
            return


async def _signalled(session: int, sign: int) -> bool:
    """Send a signal to all processes of a session, 0 for none; return whether there are any."""
    if PROCESSES.joinpath("self").exists():
        members = await anyio.to_thread.run_sync(session_members, session)
        for member in members:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(member, sign)
        return bool(members)
    try:  # POSIX only reaches the server's own group, in which nearly all children stay
        os.killpg(session, sign)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # also raised for zombies, and if it concerns only some of the processes
    return True


def session_members(session: int) -> list[int]:
    """Return the process ids of a session on Linux, without zombies: these only wait for their parent."""
    found: list[int] = []
    for name in os.listdir(PROCESSES):
        if name.isdigit():
            try:
                status = (PROCESSES / name / "stat").read_bytes()
            except OSError:  # the process has ended meanwhile
                continue
            # man 5 proc: the name is in parentheses and may itself hold some; then state, parent, group, session.
            state, _, _, its_session = status.rpartition(b")")[2].split()[:4]
            if int(its_session) == session and state not in (b"Z", b"X"):
                found.append(int(name))
    return found


async def _has_exited(process: Any, wait_s: float) -> bool:
    """Wait for the server itself; asyncio's own `wait` also waits for every process that holds its pipes."""
    with anyio.move_on_after(wait_s):
        while process.returncode is None:
            await anyio.sleep(POLL_S)
    return process.returncode is not None


async def _close(stream: AsyncResource) -> None:
    with suppress(OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
        await stream.aclose()
