"""GGUF files written number by number, so that a test can write what no writer would."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelstack.gguf_file import ARRAY, BOOL, FLOAT32, INT32, STRING, UINT32, open_gguf

CODES = {0: "B", 1: "b", 2: "H", 3: "h", UINT32: "I", INT32: "i", FLOAT32: "f", BOOL: "?"}
CODES |= {10: "Q", 11: "q", 12: "d"}
ALIGNMENT = 32

Kind = int | tuple[int, int]
"""A value type, or `ARRAY` and that of its items."""


@dataclass
class Info:
    """A tensor as the header lists it."""

    shape: tuple[int, ...]
    """Innermost axis first, as in the file."""
    kind: int
    offset: int


@dataclass
class RawGGUF:
    """Content of a file, to be changed and written."""

    fields: dict[str, tuple[Kind, Any]] = field(default_factory=dict[str, tuple[Kind, Any]])
    tensors: dict[str, Info] = field(default_factory=dict[str, Info])
    data: bytes = b""

    @classmethod
    def read(cls, path: Path) -> RawGGUF:
        """Take a sound file apart."""
        with open_gguf(path) as file:
            start = min(tensor.start for tensor in file.tensors.values())
            fields = {key: (file.kinds[key], value) for key, value in file.fields.items()}
            tensors = {
                name: Info(tensor.shape[::-1], tensor.ggml_type, tensor.start - start)
                for name, tensor in file.tensors.items()
            }
        return cls(fields, tensors, path.read_bytes()[start:])

    def set(self, key: str, value: Any, kind: Kind | None = None) -> None:
        """Give a field another value, of the same type or of another one."""
        self.fields[key] = (self.fields[key][0] if kind is None else kind, value)

    def header(self) -> bytes:
        """Return the bytes before the tensors' data."""
        parts = [b"GGUF", struct.pack("<IQQ", 3, len(self.tensors), len(self.fields))]
        for key, (kind, value) in self.fields.items():
            parts += [_text(key), struct.pack("<I", kind if isinstance(kind, int) else ARRAY), _value(kind, value)]
        for name, info in self.tensors.items():
            dimensions = struct.pack(f"<I{len(info.shape)}Q", len(info.shape), *info.shape)
            parts += [_text(name), dimensions, struct.pack("<IQ", info.kind, info.offset)]
        header = b"".join(parts)
        return header + bytes(-len(header) % ALIGNMENT)

    def write(self, path: Path) -> Path:
        """Write the file."""
        path.write_bytes(self.header() + self.data)
        return path


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(kind: Kind, value: Any) -> bytes:
    if kind == STRING:
        return _text(value)
    if isinstance(kind, int):
        return struct.pack(f"<{CODES[kind]}", value)
    return struct.pack("<IQ", kind[1], len(value)) + b"".join(_value(kind[1], item) for item in value)
