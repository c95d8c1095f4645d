"""KV states of prompts on disk, so that a new process need not evaluate the beginning of a known prompt again.

A file holds the state of one sequence as llama.cpp writes it, after the tokens that it was computed from:

    magic 8 B | key 32 B | number of tokens u32 | bytes of the state u64 | tokens i32 each | state | SHA-256

The key covers everything that the bytes depend on besides the tokens (weights, adapter, build, number format). The
hash covers all bytes before it. Readers trust nothing: a link, a file that others can write, and a truncated,
altered or foreign file is removed and counts as absent. A file never changes under its final name, so readers take
no lock. Writers and `clear` exclude each other by a lock that the kernel releases with its holder. A temporary
file found under the lock was left by a killed process. Files are not synced: the hash detects the damage of a
power failure.

A store that cannot be read or written behaves as an empty one: no method raises because of the disk or another
process.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from modelstack.inference.private_files import (
    LOCK_NAME,
    SCRATCH_PREFIX,
    is_private_folder,
    locked,
    make_private_folder,
    open_private,
    remove,
    replace_private,
)
from modelstack.inference.sequences import common_prefix_length

DEFAULT_MAX_BYTES = 1 << 30
MAX_FILES = 256
"""Maximum number of files, whose heads `closest` reads; 1 GiB holds about 45 states of 1,000 tokens of a 135M
model."""
MAX_TOKENS = 1 << 20

_MAGIC = b"KVSTATE1"
_HEAD = struct.Struct("<8s32sIQ")
_HASH_BYTES = 32
_SUFFIX = ".kv"


@dataclass(frozen=True, slots=True)
class StoredState:
    """The verified state of a sequence that holds `tokens`."""

    tokens: list[int]
    state: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class StoreUsage:
    """Size of a store."""

    n_states: int
    n_bytes: int


class StateStore:
    """A folder of states, limited in bytes; the least recently used state is removed first."""

    def __init__(self, folder: str | os.PathLike[str], max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        """Set the folder; the first `put` creates it.

        Raises:
            ValueError: `max_bytes` is not positive.
        """
        if max_bytes < 1:
            raise ValueError(f"max_bytes is {max_bytes}; it must be at least 1. Pass no store to disable storing.")
        self.folder = Path(folder)
        self.max_bytes = max_bytes

    def get(self, key: bytes, tokens: Sequence[int]) -> StoredState | None:
        """Return the state of exactly these tokens."""
        return self._load(self._path(key, tokens), key, tokens) if is_private_folder(self.folder) else None

    def has(self, key: bytes, tokens: Sequence[int]) -> bool:
        """Whether there is a file for these tokens; it is not verified."""
        return self._path(key, tokens).is_file()

    def closest(self, key: bytes, tokens: Sequence[int], at_least: int) -> StoredState | None:
        """Return the state with the longest common beginning with `tokens`, of at least `at_least` tokens."""
        for _, path in self._sharing(key, tokens, at_least):
            if (found := self._load(path, key, None)) is not None:
                return found
        return None

    def closest_tokens(self, key: bytes, tokens: Sequence[int], at_least: int) -> list[int] | None:
        """Return the tokens of the state that `closest` would return first, which is not verified."""
        return next((held for held, _ in self._sharing(key, tokens, at_least)), None)

    def put(self, key: bytes, tokens: Sequence[int], state: NDArray[np.uint8]) -> bool:
        """Store a state; False if that failed, or if the state alone is larger than the store."""
        head = _HEAD.pack(_MAGIC, key, len(tokens), state.size) + _token_bytes(tokens)
        n_bytes = len(head) + state.size + _HASH_BYTES
        if n_bytes > self.max_bytes:
            return False
        digest = hashlib.sha256(head)
        digest.update(state.data)
        try:
            make_private_folder(self.folder)
            with locked(self.folder):
                self._make_room(n_bytes)
                replace_private(self._path(key, tokens), (head, state.data, digest.digest()))
        except OSError:
            return False
        return True

    def clear(self) -> StoreUsage:
        """Remove everything in the folder; return the number of removed states and their size."""
        usage = self.usage()
        with suppress(OSError):
            if is_private_folder(self.folder):
                with locked(self.folder):
                    for path in list(self.folder.iterdir()):
                        if path.name != LOCK_NAME:
                            remove(path)
        return usage

    def usage(self) -> StoreUsage:
        """Return the number of states and their size."""
        sizes = [size for _, size, _ in self._by_last_use()] if is_private_folder(self.folder) else []
        return StoreUsage(len(sizes), sum(sizes))

    def _path(self, key: bytes, tokens: Sequence[int]) -> Path:
        return self.folder / f"{_prefix(key)}{hashlib.sha256(_token_bytes(tokens)).hexdigest()[:32]}{_SUFFIX}"

    def _files(self, key: bytes | None = None) -> list[Path]:
        prefix = "" if key is None else _prefix(key)
        try:
            names = os.listdir(self.folder)
        except OSError:
            return []
        return [self.folder / name for name in names if name.startswith(prefix) and name.endswith(_SUFFIX)]

    def _sharing(self, key: bytes, tokens: Sequence[int], at_least: int) -> list[tuple[list[int], Path]]:
        """Return tokens and file of the states with a common beginning of `at_least` tokens, the longest first."""
        wanted = list(tokens)
        found: list[tuple[int, int, Path, list[int]]] = []
        for path in self._files(key) if is_private_folder(self.folder) else ():
            held = self._tokens_of(path, key)
            if held is not None and (n := common_prefix_length(held, wanted)) >= at_least:
                found.append((n, -len(held), path, held))
        return [(held, path) for _, _, path, held in sorted(found, reverse=True)]

    def _tokens_of(self, path: Path, key: bytes) -> list[int] | None:
        """Return the tokens of a file, which is not verified; a file with an impossible head is removed."""

        def read(file: FileIO) -> list[int] | None:
            held = _read_head(file, key)
            return None if held is None else held.tolist()

        return _read_or_remove(path, read)

    def _load(self, path: Path, key: bytes, tokens: Sequence[int] | None) -> StoredState | None:
        """Return the verified state of a file; a damaged file, or one of other tokens than given, is removed."""

        def read(file: FileIO) -> StoredState | None:
            held = _read_head(file, key)
            if held is None or (tokens is not None and held.tolist() != list(tokens)):
                return None
            content = _verified(file)
            if content is None:
                return None
            with suppress(OSError):  # in a read-only folder the order of last use is not updated
                os.utime(path)
            return StoredState(held.tolist(), content[_HEAD.size + held.nbytes : -_HASH_BYTES])

        return _read_or_remove(path, read)

    def _make_room(self, n_bytes: int) -> None:
        """Remove leftovers, and the least recently used states until `n_bytes` more fit."""
        for left in self.folder.glob(f"{SCRATCH_PREFIX}*"):
            remove(left)
        states = self._by_last_use()
        total = sum(size for _, size, _ in states)
        for n_removed, (_, size, path) in enumerate(states):
            if total + n_bytes <= self.max_bytes and len(states) - n_removed < MAX_FILES:
                break
            remove(path)
            total -= size

    def _by_last_use(self) -> list[tuple[int, int, Path]]:
        """Return time of last use, size and path of each state, oldest first."""
        found: list[tuple[int, int, Path]] = []
        for path in self._files():
            with suppress(OSError):
                status = os.lstat(path)
                found.append((status.st_mtime_ns, status.st_size, path))
        return sorted(found)


Content = TypeVar("Content")


def _read_or_remove(path: Path, read: Callable[[FileIO], Content | None]) -> Content | None:
    """Return what `read` returns for an open private file; remove the file if that is None."""
    try:
        with open_private(path) as file:
            if (content := read(file)) is not None:
                return content
    except FileNotFoundError:
        return None
    except OSError:
        pass
    remove(path)
    return None


def _prefix(key: bytes) -> str:
    return f"{key.hex()[:16]}-"


def _token_bytes(tokens: Sequence[int]) -> bytes:
    return np.asarray(tokens, dtype="<i4").tobytes()


def _read_head(file: FileIO, key: bytes) -> NDArray[np.int32] | None:
    """Return the tokens in a file's head; None if the head does not fit the key or the file's size."""
    head = file.read(_HEAD.size)
    if len(head) != _HEAD.size:
        return None
    magic, found_key, n_tokens, n_state = _HEAD.unpack(head)
    if (magic, found_key) != (_MAGIC, key) or not 0 < n_tokens <= MAX_TOKENS:
        return None
    if os.fstat(file.fileno()).st_size != _HEAD.size + 4 * n_tokens + n_state + _HASH_BYTES:
        return None
    tokens = file.read(4 * n_tokens)
    return np.frombuffer(tokens, dtype="<i4") if len(tokens) == 4 * n_tokens else None


def _verified(file: FileIO) -> NDArray[np.uint8] | None:
    """Return a file's bytes; None if the hash does not fit, or if the file shrinks meanwhile."""
    file.seek(0)
    content = np.empty(os.fstat(file.fileno()).st_size, dtype=np.uint8)
    view, n_read = content.data, 0
    while n_read < len(view):
        n = file.readinto(view[n_read:])
        if not n:
            return None
        n_read += n
    return content if hashlib.sha256(view[:-_HASH_BYTES]).digest() == view[-_HASH_BYTES:].tobytes() else None
