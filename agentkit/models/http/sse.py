"""Parses server-sent events from bytes (HTML standard, section 9.2.6), with a bound on buffered data.

Lines are split on bytes and decoded whole, so a character or a line end may be cut anywhere between two reads.
`id` and `retry` fields are ignored: a reply is never resumed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from agentkit.errors import UnexpectedModelBehavior

MAX_LINE_BYTES = 8 * 2**20
"""Bytes of a line or event. An event is one delta, seldom over 1 kB; a tool call with a file stays well below."""

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """An event: its data lines joined, and its type."""

    data: str
    event: str = "message"


class SSEParser:
    """Turns the chunks of one stream into events; one parser per stream."""

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        """Make a parser that refuses a line, or the data of an event, over `max_line_bytes`."""
        self._max_line_bytes = max_line_bytes
        self._line: list[bytes] = []
        self._n_line_bytes = 0
        self._after_cr = False
        self._first_line = True
        self._data: list[str] = []
        self._n_data_bytes = 0
        self._event = ""

    def feed(self, chunk: bytes) -> Iterator[ServerEvent]:
        """Yield the events that `chunk` completes; must be exhausted.

        Raises:
            UnexpectedModelBehavior: a line is too long or not UTF-8.
        """
        if not chunk:
            return
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        self._after_cr = chunk.endswith(b"\r")
        *complete, rest = _LINE_END.split(chunk)
        for piece in complete:
            self._hold(piece)
            yield from self._take_line()
        self._hold(rest)

    def close(self) -> Iterator[ServerEvent]:
        """Yield the event pending at the stream's end: servers omit the last blank line, or were cut off."""
        yield from self._take_line()
        yield from self._dispatch()

    def _hold(self, piece: bytes) -> None:
        self._n_line_bytes += len(piece)
        self._check_size(self._n_line_bytes, "a line")
        if piece:
            self._line.append(piece)

    def _take_line(self) -> Iterator[ServerEvent]:
        line = b"".join(self._line)
        self._line.clear()
        self._n_line_bytes = 0
        if self._first_line:
            self._first_line = False
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if line:
            self._read_field(line)
        else:
            yield from self._dispatch()

    def _read_field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        try:
            if name == b"data":
                self._n_data_bytes += len(value)
                self._check_size(self._n_data_bytes, "an event")
                self._data.append(value.decode())
            elif name == b"event":
                self._event = value.decode()
            elif name == b"error":  # llama.cpp before 2025: an error is a field of its own
                self._event = "error"
                self._data.append(value.decode())
        except UnicodeDecodeError as error:
            raise UnexpectedModelBehavior(f"the server's event stream is not UTF-8: {error}") from None

    def _dispatch(self) -> Iterator[ServerEvent]:
        data, event = self._data, self._event
        self._data, self._n_data_bytes, self._event = [], 0, ""
        if data:
            yield ServerEvent("\n".join(data), event or "message")

    def _check_size(self, n_bytes: int, what: str) -> None:
        if n_bytes > self._max_line_bytes:
            raise UnexpectedModelBehavior(
                f"{what} of the server's event stream is over {self._max_line_bytes:,} bytes; "
                f"nothing more was read of it."
            )
