"""Files that may be zstd (RFC 8878), read to their end: all frames, in bounded memory, and no part as the whole.

zstandard's own `stream_reader` ends without a word where a file was cut, and behind the first frame of several.
Here a frame that does not end, or bytes behind the last one that begin no frame, are an error that names the file.
Which frames a file should have, the format does not say: one cut off between two frames is read as it is.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from modelstack.errors import UserError

SUFFIX = ".zst"
READ_BYTES = 1 << 18
PIECE_BYTES = 1 << 18
STEP_BYTES = 1 << 9
"""Of input at a time: zstandard bounds no output, and a block of 128 KiB can come from 4 bytes."""
MAX_WINDOW = 1 << 27
"""What the command line tool takes by default; a header can ask for terabytes."""


class Frame:
    """One zstd frame, as its bytes come."""

    def __init__(self) -> None:
        """Stand before its first byte."""
        import zstandard

        self._fault: type[Exception] = zstandard.ZstdError
        self._decompress: Any = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompressobj()
        self.done = False
        self.rest = b""
        """Input that is the next frame's."""

    def unpack(self, data: bytes) -> Iterator[bytes]:
        """Give what comes of some input, in pieces of about `PIECE_BYTES`.

        Raises:
            ValueError: It is no zstd, or damaged.
        """
        held: list[bytes] = []
        n_held = 0
        try:
            for i in range(0, len(data), STEP_BYTES):
                held.append(self._decompress.decompress(data[i : i + STEP_BYTES]))
                n_held += len(held[-1])
                if n_held >= PIECE_BYTES:
                    yield b"".join(held)
                    held, n_held = [], 0
                if self._decompress.eof:
                    self.rest = self._decompress.unused_data + data[i + STEP_BYTES :]
                    break
        except self._fault as error:
            raise ValueError(str(error)) from error
        yield b"".join(held)
        self.done = self._decompress.eof


def open_unpacked(path: Path) -> BinaryIO:
    """Open a file to be read from its beginning; one whose name ends in .zst is unpacked.

    Raises:
        UserError: It is zstd and the package is not installed; while reading: it is no zstd, damaged, cut short,
            or something else follows its last frame.
        OSError: It cannot be read.
    """
    if path.suffix != SUFFIX:
        return path.open("rb")
    try:
        import zstandard  # noqa: F401 # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise UserError(
            f"{path} is compressed with zstandard, which needs the package of that name: pip install zstandard, "
            f"or unpack the file with `zstd -d`"
        ) from error
    return io.BufferedReader(_Unpacked(path), PIECE_BYTES)


class _Unpacked(io.RawIOBase):
    """What is in a file's frames, one after the other."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._pieces = _pieces(self._file, path)
        self._piece = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while not self._piece:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._piece = memoryview(piece)
        n = min(len(buffer), len(self._piece))
        buffer[:n] = self._piece[:n]
        self._piece = self._piece[n:]
        return n

    def close(self) -> None:
        self._file.close()
        super().close()


def _pieces(file: BinaryIO, path: Path) -> Iterator[bytes]:
    frame, n_frames = Frame(), 0
    data = file.read(READ_BYTES)
    while data or not frame.done:
        if not data:
            raise UserError(f"{path} is cut short: its last zstd frame has no end; copy or make it again")
        if frame.done:
            frame, n_frames = Frame(), n_frames + 1
        try:
            yield from frame.unpack(data)
        except ValueError as error:
            behind = f" behind {n_frames} whole frames" if n_frames else ""
            raise UserError(f"{path} is no whole zstd file{behind}: {error}; copy or make it again") from error
        data = frame.rest or file.read(READ_BYTES)
        frame.rest = b""
