"""HTTP/1.1 for our servers by httptools, with the limits that it lacks.

httptools is llhttp, the parser of Node.js: a server takes a tenth less processor time with it than with h11. But
uvicorn's protocol on it takes a head of any length and a request with two `Host` lines, and loses the body of a
request that asks to upgrade. RFC 9112, section 3.2, wants one `Host`; RFC 9110, section 7.8, lets a server ignore
`Upgrade`.
"""

from __future__ import annotations

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_HEAD_BYTES = 65_536
"""Longest head of a request, as with h11; also the longest trailer, and the longest extension of a chunk."""
_TOO_LONG = f"The head, the trailer or a chunk's extension has more than {MOST_HEAD_BYTES} bytes."


class LimitedHttp(HttpToolsProtocol):
    """Connection of a client."""

    _n_waiting = 0
    """Bytes received since the end of the last head, or the last bytes of a body."""
    _why_refused = "Invalid HTTP request received."

    def data_received(self, data: bytes) -> None:
        """Parse what the client has sent."""
        self._unset_keepalive_if_required()
        self._n_waiting += len(data)
        rest = memoryview(data)  # a slice copies nothing
        try:
            while rest:
                rest = self._parse(rest)
            self._require(self._n_waiting <= MOST_HEAD_BYTES, _TOO_LONG)
        except (HttpParserError, _Refused):
            self.send_400_response(self._why_refused)

    def _parse(self, data: memoryview) -> memoryview:
        """Parse data up to the end of a head that asks to upgrade; return what comes behind it."""
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade as stopped:
            version = self.parser.get_http_version().encode()
            lines = [self.parser.get_method() + b" " + self.url + b" HTTP/" + version]
            for name, value in self.headers:
                if name not in (b"connection", b"upgrade"):
                    lines.append(name + b": " + value)
            self.parser = HttpRequestParser(self)
            self.parser.feed_data(b"\r\n".join([*lines, b"", b""]))
            return data[stopped.args[0] :]
        return data[:0]

    def on_headers_complete(self) -> None:
        """Begin to answer."""
        self._n_waiting = 0
        n_bytes = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        n_hosts = sum(name == b"host" for name, _ in self.headers)
        may_lack_host = n_hosts == 0 and self.parser.get_http_version() == "1.0"
        self._require(n_bytes <= MOST_HEAD_BYTES, _TOO_LONG)  # it may have come in one piece
        self._require(n_hosts == 1 or may_lack_host, "An HTTP/1.1 request has one Host.")
        self._require(self.parser.get_method() != b"CONNECT", "This server is no proxy.")
        if not self.parser.should_upgrade():  # else the request is parsed again
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Hand on a part of a body."""
        self._n_waiting = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note the end of a request."""
        self._n_waiting = 0
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _require(self, is_right: bool, why: str) -> None:
        if not is_right:
            self._why_refused = why
            raise _Refused(why)


class _Refused(ValueError):
    """A request that breaks a rule of this module; the parser makes it an HttpParserError."""
