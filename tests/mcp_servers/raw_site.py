"""Web sites on a raw socket: they answer what no honest server would."""

from __future__ import annotations

import gzip
import random
import socket
import threading
import zlib
from collections.abc import Callable
from contextlib import suppress


class RawSite:
    """A socket on loopback that sends bytes, or floods until the client leaves."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes | tuple[bytes, bytes]] = {"/sound": text_of(b"sound")}
        self.asked: list[str] = []
        self.ended = threading.Semaphore(0)
        """Released when a flood ends."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.origin = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def answer(self, path: str) -> bytes | tuple[bytes, bytes]:
        """Return the bytes for a path, or a beginning and what follows it until the client leaves."""
        return self.answers.get(path, b"HTTP/1.1 404 None\r\ncontent-length: 0\r\n\r\n")

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            request = b""
            while b"\r\n\r\n" not in request:
                if not (received := connection.recv(65_536)):
                    return
                request += received
            path = request.split(b" ")[1].decode()
            self.asked.append(path)
            answer = self.answer(path)
            if isinstance(answer, bytes):
                with suppress(OSError):  # the client has read enough
                    connection.sendall(answer)
                return
            try:
                connection.sendall(answer[0])
                while answer[1]:
                    connection.sendall(answer[1])
                connection.recv(1)
            except OSError:
                pass
            finally:
                self.ended.release()

    def close(self) -> None:
        self._listener.close()


def http(*headers: bytes, body: bytes = b"", status: bytes = b"200 OK") -> bytes:
    lines = b"".join(header + b"\r\n" for header in headers)
    return b"HTTP/1.1 " + status + b"\r\n" + lines + b"connection: close\r\n\r\n" + body


def text_of(body: bytes, *headers: bytes, kind: bytes = b"text/plain") -> bytes:
    return http(b"content-type: " + kind, *headers, body=body)


class RandomSite(RawSite):
    """Each path has its own hostile answer, which follows from the path alone."""

    def answer(self, path: str) -> bytes | tuple[bytes, bytes]:
        """Return a random answer; `/sound` has an ordinary one."""
        if path in self.answers:
            return self.answers[path]
        return _random_answer(random.Random(path), self.origin)


def _random_answer(draw: random.Random, origin: str) -> bytes:
    headers = [b"content-type: " + draw.choice(_TYPES) + draw.choice(_CHARSETS)]
    body = draw.choice(_BODIES)(draw)
    match draw.randrange(8):
        case 0:
            body = gzip.compress(body)[: draw.choice((None, 10, -4))]
            headers.append(b"content-encoding: gzip")
        case 1:
            body = zlib.compress(body) + draw.randbytes(draw.randrange(20))
            headers.append(b"content-encoding: " + draw.choice((b"deflate", b"br", b"gzip, deflate", b"x" * 500)))
        case 2:
            headers.append(b"content-length: " + draw.choice((b"5", b"999999999", b"-1", b"a", b"1, 2")))
        case 3:
            headers.append(
                draw.choice((b": empty", b"a" * 9_000 + b": b", b"x: \xff\x00", b"no colon", b"a:" * 300))
            )
        case _:
            pass
    status = draw.choice(
        (*6 * (b"200 OK",), b"204 None", b"404 None", b"500 Down", b"999 Odd", b"abc", b"301 Moved")
    )
    if status.startswith(b"301") or draw.random() < 0.1:
        target = draw.choice(
            (f"{origin}/{draw.randrange(400)}", "/", "//", "file:///etc/passwd", "http://[", "\x00")
        )
        headers.append(b"location: " + target.encode())
        status = b"302 Found"
    return http(*headers, body=body, status=status)


_TYPES = (
    *3 * (b"text/html",), b"text/plain", b"application/pdf", b"application/json", b"application/xhtml+xml",
    b"image/png", b"text/" + b" " * 3_000, b"\xff/\xff", b"", b"text/html, text/plain",
    b"multipart/mixed; boundary=x",
)  # fmt: skip
_CHARSETS = (
    b"",
    b"",
    b"; charset=utf-8",
    b"; charset=utf-7",
    b"; charset=utf-16",
    b"; charset=" + b"x" * 900,
    b";;=",
)
_BODIES: tuple[Callable[[random.Random], bytes], ...] = (
    lambda draw: draw.randbytes(draw.randrange(5_000)),
    lambda draw: b"<html><body>" + b"<div>" * draw.randrange(30_000) + b"deep",
    lambda draw: b"<table>" + b"<tr><td>a" * draw.randrange(3_000),
    lambda draw: (
        b"<p>" + draw.choice((b" ", b"&nbsp;", b"a", "\u202e".encode(), b"<!--")) * draw.randrange(200_000)
    ),
    lambda draw: b"<a href='" + b"x" * draw.randrange(100_000) + b"'>link</a>" * 50,
    lambda draw: b"%PDF-1.7\n" + draw.randbytes(3_000) + b"\nstartxref\n%d\n%%EOF" % draw.randrange(9_999),
    lambda draw: b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>" + b"&b;" * draw.randrange(5_000),
    lambda draw: b"\0" * draw.randrange(12_000_000),
    lambda draw: b"[" * draw.randrange(50_000),
    lambda draw: b"<title>Page</title><main><h1>Title</h1>" + b"<p>Some words here.</p>" * draw.randrange(900),
)
