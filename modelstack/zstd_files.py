"""Reading of files that may be zstd (RFC 8878): all frames, in bounded memory, with detection of truncation.

zstandard's own `stream_reader` ends silently at a truncation, and after the first of several frames. Here a frame
without an end, or trailing bytes that are not a frame, are an error that names the file. A truncation between two
frames cannot be detected, because the format does not record the number of frames.
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
"""Bytes of input per step: zstandard does not limit its output, and 4 bytes can yield a block of 128 KiB."""
MAX_WINDOW = 1 << 27
"""Maximum window, the default of the command line tool; a header can request terabytes."""


class Frame:
    """Incremental decoder of one zstd frame."""

    def __init__(self) -> None:
        """Create the decoder, before the first byte."""
        import zstandard

        self._fault: type[Exception] = zstandard.ZstdError
        self._decompress: Any = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompressobj()
        self.done = False
        self.rest = b""
        """Input that belongs to the next frame."""

    def unpack(self, data: bytes) -> Iterator[bytes]:
        """Yield the output for some input, in pieces of about `PIECE_BYTES`.

        Raises:
            ValueError: The input is not zstd, or is damaged.
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
    """Open a file for reading from its beginning; a file with the suffix .zst is decompressed.

    Raises:
        UserError: The file is zstd and the package is not installed; while reading: it is not zstd, damaged,
            truncated, or followed by other data.
        OSError: The file cannot be read.
    """
    if path.suffix != SUFFIX:
        return path.open("rb")
    try:
        import zstandard  # noqa: F401 # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise UserError(
            f"{path} is compressed with zstandard; install the package with pip install zstandard, "
            f"or unpack the file with `zstd -d`"
        ) from error
    return io.BufferedReader(_Unpacked(path), PIECE_BYTES)


class _Unpacked(io.RawIOBase):
    """Decompressed content of a file's frames, in sequence."""

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
            raise UserError(f"{path} is truncated: its last zstd frame has no end; copy or create it again")
        if frame.done:
            frame, n_frames = Frame(), n_frames + 1
        try:
            yield from frame.unpack(data)
        except ValueError as error:
            position = f" after {n_frames} complete frames" if n_frames else ""
            raise UserError(
                f"{path} is not a complete zstd file{position}: {error}; copy or create it again"
            ) from error
        data = frame.rest or file.read(READ_BYTES)
        frame.rest = b""
