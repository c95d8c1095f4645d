"""The folder of an improvement: numbered versions of the pieces, and the history of decisions about them.

`improvement.json` names the accepted version; `versions/N.json` holds what was tried, with its figures. Files are
written to a temporary name, synced and renamed, and verified by their hash when they are read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from agentkit.errors import UserError
from agentkit.improve.gate import Verdict
from agentkit.improve.pieces import Pieces

INDEX, VERSIONS, ROLLOUTS, PROPOSALS, LOCK = (
    "improvement.json", "versions", "rollouts.jsonl", "proposals.jsonl", ".lock",
)  # fmt: skip
MAX_FILE_BYTES = 16 * 1024 * 1024
AS_DECLARED = 0
"""Number of the version without any change."""

Action = Literal["shipped", "refused", "waiting", "accepted", "rolled back", "nothing better"]
"""Decision about a version.

- "shipped": the gate let it pass, and it is accepted.
- "refused": the gate did not let it pass.
- "waiting": the gate let it pass; a model or a trace gave some of its texts, and a person must review it.
- "accepted": a person accepted a waiting version.
- "rolled back": an earlier version is accepted again.
- "nothing better": the search found no candidate that is better on the selection tasks.
"""


class Candidate(BaseModel, frozen=True, extra="forbid"):
    """A candidate of the search, in the order in which they were found."""

    operator: str
    """Operator that made it; "start" for the present version."""
    parent: int | None
    sha256: str
    selection: float
    """Mean score on the selection tasks."""


class Spent(BaseModel, frozen=True, extra="forbid"):
    """Budget that was used, journalled rollouts included."""

    rollouts: int
    tokens: int
    cost_usd: str
    """US dollars, as an exact number."""
    limit_reached: str | None
    """Limit that ended the search; None if it ended by itself."""


class Version(BaseModel, frozen=True, extra="forbid"):
    """Result of one improvement."""

    number: int = Field(ge=1)
    base: int = Field(ge=0)
    """Version that was accepted when it was made; the gate compared with it."""
    pieces: Pieces
    verdict: Verdict | None
    """Result of the gate; None if there was no candidate for it."""
    candidates: tuple[Candidate, ...]
    spent: Spent
    configuration: dict[str, Any]
    """Everything that decides the result, resolved: options, agent, hashes of the tasks by part."""
    configuration_sha256: str
    held_back_sha256: str
    """Hash of the held-back tasks."""
    created: str


class Entry(BaseModel, frozen=True, extra="forbid"):
    """A decision."""

    action: Action
    version: int
    at: str
    sha256: str
    """SHA-256 of the version's file; "" for the agent as it is declared."""


class Index(BaseModel, frozen=True, extra="forbid"):
    """Content of `improvement.json`."""

    format: Literal[1] = 1
    accepted: int = AS_DECLARED
    """Number of the accepted version; 0: the agent as it is declared."""
    history: tuple[Entry, ...] = ()

    def sha256_of(self, number: int) -> str:
        """Return the hash of a version's file."""
        return next(entry.sha256 for entry in reversed(self.history) if entry.version == number and entry.sha256)

    @property
    def before(self) -> int:
        """Version that was accepted before the present one."""
        was = [AS_DECLARED]
        for entry in self.history:
            if entry.action in ("shipped", "accepted"):
                was.append(entry.version)
            elif entry.action == "rolled back":
                # The versions that were left are no longer ones to return to.
                was = was[: was.index(entry.version)] if entry.version in was else was
                was.append(entry.version)
        return was[-2] if len(was) > 1 else AS_DECLARED


class ImprovementFolder:
    """Reads and writes the folder of an improvement."""

    def __init__(self, path: Path) -> None:
        """Name the folder; nothing is read or written."""
        self.path = path

    @property
    def rollouts(self) -> Path:
        """Journal of the rollouts."""
        return self.path / ROLLOUTS

    @property
    def proposals(self) -> Path:
        """Journal of the replies of the reflection model."""
        return self.path / PROPOSALS

    @property
    def lock(self) -> Path:
        """File that is locked while the folder is written."""
        return self.path / LOCK

    def index(self) -> Index:
        """Return the index; an empty one if there is none yet.

        Raises:
            UserError: it is damaged.
        """
        file = self.path / INDEX
        return _parsed(Index, _content(file)) if file.is_file() else Index()

    def version(self, number: int) -> Version:
        """Return a version after verifying its hash.

        Raises:
            UserError: there is no such version, or its file was changed.
        """
        index = self.index()
        known = sorted({entry.version for entry in index.history if entry.sha256})
        if number not in known:
            raise UserError(f"{self.path} has no version {number}; it has {known or 'none'}.")
        file = self._file(number)
        content = _content(file)
        if hashlib.sha256(content).hexdigest() != index.sha256_of(number):
            raise UserError(
                f"{file} was changed since it was written: restore it, or roll back to another version."
            )
        return _parsed(Version, content)

    def pieces(self, number: int) -> Pieces:
        """Return the pieces of a version; version 0 has none.

        Raises:
            UserError: as `version`.
        """
        return Pieces() if number == AS_DECLARED else self.version(number).pieces

    def add(self, version: Version, action: Action) -> Index:
        """Write a version and the decision about it; return the new index."""
        (self.path / VERSIONS).mkdir(parents=True, exist_ok=True)
        content = version.model_dump_json(indent=1).encode() + b"\n"
        _write(self._file(version.number), content)
        accepted = version.number if action == "shipped" else self.index().accepted
        return self._decide(action, version.number, hashlib.sha256(content).hexdigest(), accepted)

    def accept(self, number: int | None = None) -> Index:
        """Accept the waiting version, or the one that is named.

        Raises:
            UserError: no version waits, or the named one was refused or compared with another base.
        """
        index = self.index()
        last = {entry.version: entry.action for entry in index.history}
        waiting = [version for version, action in last.items() if action == "waiting"]
        chosen = number if number is not None else waiting[-1] if waiting else None
        if chosen not in waiting:
            none = "no version waits" if number is None else f"version {number} does not wait"
            raise UserError(f"{self.path}: {none} for a review; `agentkit improve show {self.path}` shows them.")
        version = self.version(chosen)
        if version.base != index.accepted:
            raise UserError(
                f"version {chosen} was compared with version {version.base}, and version {index.accepted} is "
                f"accepted now: improve again."
            )
        return self._decide("accepted", chosen, index.sha256_of(chosen), chosen)

    def roll_back(self, to: int | None = None) -> Index:
        """Accept an earlier version again: the one before the present one, or the one that is named.

        Raises:
            UserError: there is nothing to roll back, or the named version was never accepted.
        """
        index = self.index()
        ever = {entry.version for entry in index.history if entry.action in ("shipped", "accepted")} | {
            AS_DECLARED
        }
        if index.accepted == AS_DECLARED and to is None:
            raise UserError(f"{self.path}: the agent is as declared, there is nothing to roll back.")
        chosen = index.before if to is None else to
        if chosen not in ever or chosen == index.accepted:
            raise UserError(
                f"version {chosen} cannot be rolled back to: it is accepted now, or never was; accepted before: "
                f"{sorted(ever - {index.accepted})}."
            )
        if chosen != AS_DECLARED:
            self.version(chosen)
        sha256 = index.sha256_of(chosen) if chosen != AS_DECLARED else ""
        return self._decide("rolled back", chosen, sha256, chosen)

    def _decide(self, action: Action, number: int, sha256: str, accepted: int) -> Index:
        index = self.index()
        entry = Entry(action=action, version=number, at=now(), sha256=sha256)
        changed = Index(accepted=accepted, history=(*index.history, entry))
        _write(self.path / INDEX, changed.model_dump_json(indent=1).encode() + b"\n")
        return changed

    def _file(self, number: int) -> Path:
        return self.path / VERSIONS / f"{number:04}.json"


def accepted_pieces(folder: Path) -> Pieces:
    """Return the accepted pieces of a folder.

    Raises:
        UserError: there is no improvement, or it is damaged.
    """
    if not (folder / INDEX).is_file():
        raise UserError(
            f"{str(folder)!r} has no {INDEX}: give the folder that `agentkit improve run --out FOLDER` wrote."
        )
    opened = ImprovementFolder(folder)
    return opened.pieces(opened.index().accepted)


def attempts_on(versions: Sequence[Version], held_back_sha256: str) -> int:
    """Return the number of gates that were held on a set of held-back tasks."""
    return sum(each.verdict is not None and each.held_back_sha256 == held_back_sha256 for each in versions)


def now() -> str:
    """Return the present time as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


Stored = TypeVar("Stored", bound=BaseModel)


def _parsed(kind: type[Stored], content: bytes) -> Stored:
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"])) or "the file"
        raise UserError(f"the improvement is damaged: {where}: {fault['msg']}.") from error


def _content(file: Path) -> bytes:
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise UserError(f"{file} is larger than {MAX_FILE_BYTES} bytes, which no improvement is.")
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from error


def _write(file: Path, content: bytes) -> None:
    from modelstack.files import replacing

    with replacing(file) as temporary:
        temporary.write_bytes(content)
