"""Folder of a run: its files, its lock, and the check whether a run may resume in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from modelstack.errors import UserError
from modelstack.files import replacing

try:
    import fcntl
except ImportError:  # not available on Windows: two processes in one folder are not detected
    fcntl = None

Places = set[tuple[str, ...]]
"""Paths of keys, outermost key first."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths in the folder of one run."""

    path: Path

    @property
    def recipe(self) -> Path:
        """The resolved recipe and its hash."""
        return self.path / "recipe.json"

    @property
    def tokenizer(self) -> Path:
        """Folder of the tokenizer."""
        return self.path / "tokenizer"

    @property
    def shards(self) -> Path:
        """Training text as tokens."""
        return self.path / "shards"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints, and saved bad batches."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """Metrics, with a line for each step."""
        return self.path / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        """Sample texts of the model during training."""
        return self.path / "samples.md"

    @property
    def model(self) -> Path:
        """The trained model, in the format of transformers."""
        return self.path / "model"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Lock the folder: two processes that train in it would overwrite each other's checkpoints.

        The system releases the lock when the process ends for any reason.

        Raises:
            UserError: Another process uses the folder.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("a") as lock:
            if fcntl is not None:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    raise UserError(f"{self.path}: another process works in it; wait for it or stop it.") from None
            yield


def claim(file: Path, resolved: BaseModel, fingerprint: str, *, free: Places, layout: Places) -> tuple[str, ...]:
    """Record the settings of a new run, or compare them with those at its start.

    Args:
        file: File in the run's folder.
        resolved: All settings that the run depends on.
        fingerprint: Their hash.
        free: Settings that may change when a run is resumed.
        layout: Settings that may also change, with an effect on rounding only.

    Returns:
        The changed settings of `layout`.

    Raises:
        UserError: Another setting changed.
    """
    now = json.loads(resolved.model_dump_json())
    changed: list[tuple[str, ...]] = []
    if file.exists():
        began = json.loads(file.read_text(encoding="utf-8"))["resolved"]
        changed = [path for path in _differences(began, now) if not _under(path, free)]
        fixed = [path for path in changed if not _under(path, layout)]
        if fixed:
            path = fixed[0]
            raise UserError(
                f"{file.parent} holds a run with {'.'.join(path)} = {_value(began, path)!r}, the recipe says "
                f"{_value(now, path)!r}; a run keeps it to its end. Give another --out, or remove the folder"
            )
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary:
        content = {"fingerprint": fingerprint, "resolved": now}
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return tuple(".".join(path) for path in changed)


def _differences(a: Any, b: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted(a.keys() | b.keys())
        return [found for key in keys for found in _differences(a.get(key), b.get(key), (*path, key))]
    return [] if a == b else [path]


def _under(path: tuple[str, ...], places: Places) -> bool:
    return any(path[: len(place)] == place for place in places)


def _value(content: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        content = content.get(key) if isinstance(content, dict) else None
    return content
