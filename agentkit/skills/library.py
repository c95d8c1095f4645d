"""The skills in folders: listed once, then read and compared with their pins at each use.

A listing stays as it is, so the catalogue in the instructions stays equal during a conversation. A use reads all
files of the skill anew: what is shown or run is what was compared. Between the listing and a use, the skill may
have changed, and a person may have accepted the change.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from agentkit.errors import UserError
from agentkit.skills.files import SkillRefused
from agentkit.skills.pins import SkillChanged, SkillPins
from agentkit.skills.skill import SKILL_FILE, Skill, SkillReading, read_skill

logger = logging.getLogger(__name__)

MAX_SKILLS = 1_000
MAX_ENTRIES = 10_000
"""Limits of all folders together: skills, and entries that are looked at to find them."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The skills as they were when the folders were listed."""

    skills: Mapping[str, Skill]
    """Skills by name, in the order of the folders, then of names."""
    refused: Mapping[str, str]
    """Reasons by the name of a folder; by its path if another skill has the name."""
    paths: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, "tuple[str, ...]"])
    """Paths of the files of each skill."""


class SkillLibrary:
    """Skills in folders, with the rules that decide whether they are trusted."""

    def __init__(self, folders: Sequence[Path], *, pins: SkillPins | None, is_trusted: bool) -> None:
        """Use the skills in `folders`; `pins` compares them unless `is_trusted`."""
        self._folders = folders
        self._pins = None if is_trusted else pins
        self._is_trusted = is_trusted
        self._lock = threading.Lock()
        self._listing: Listing | None = None
        self._trusted: frozenset[str] = frozenset()
        """Names of skills that were trusted at their last reading."""

    @property
    def listing(self) -> Listing:
        """The listing; the first access makes it, which blocks.

        Raises:
            UserError: a folder cannot be read, there are too many skills, or PyYAML is not installed.
        """
        with self._lock:
            if self._listing is None:
                self._listing = self._list()
            return self._listing

    def reload(self) -> None:
        """List the folders anew.

        Raises:
            UserError: see `listing`.
        """
        with self._lock:
            self._listing = self._list()

    def is_trusted(self, name: str) -> bool:
        """Whether a skill was trusted when it was last read."""
        return name in self._trusted

    def read(self, name: str) -> SkillReading:
        """Read a listed skill and compare it with its pin; blocks.

        Raises:
            SkillRefused: there is no such skill, or it cannot be used as it is now.
        """
        listing = self.listing
        if name in listing.refused and name not in listing.skills:
            raise SkillRefused(f"the skill {name!r} cannot be used: {listing.refused[name]}")
        reading = read_skill(listing.skills[name].folder)
        with self._lock:
            try:
                is_trusted = self._check(reading)
            except SkillRefused as error:
                self._trusted -= {name}
                _log(reading.folder, error)
                raise SkillRefused(f"the skill {name!r} cannot be used: {error}") from error
            self._trusted = self._trusted | {name} if is_trusted else self._trusted - {name}
        return reading

    def _check(self, reading: SkillReading) -> bool:
        """Return whether a skill is trusted.

        Raises:
            SkillRefused: it breaks a rule, or differs from its pin.
        """
        if reading.skill is None:
            raise SkillRefused(reading.refusal)
        if self._is_trusted or self._pins is None:
            return self._is_trusted
        return self._pins.check(reading) == "accepted"

    def _list(self) -> Listing:
        skills: dict[str, Skill] = {}
        refused: dict[str, str] = {}
        paths: dict[str, tuple[str, ...]] = {}
        trusted: set[str] = set()
        for folder in skill_folders(self._folders):
            name = folder.name
            if name in skills:
                refused[str(folder)] = (
                    f"{str(skills[name].folder)!r} has the same name and comes first; rename one."
                )
                logger.warning("the skill in %a is not offered: %s", str(folder), refused[str(folder)])
                continue
            reading = read_skill(folder)
            try:
                if self._check(reading):
                    trusted.add(name)
            except SkillRefused as error:
                refused[name] = str(error)
                _log(folder, error)
                continue
            assert reading.skill is not None  # `_check` refuses others
            skills[name] = reading.skill
            paths[name] = tuple(reading.files.by_path)
        self._trusted = frozenset(trusted)
        return Listing(MappingProxyType(skills), MappingProxyType(refused), MappingProxyType(paths))


def absolute_path(folder: str | Path) -> Path:
    """Return an absolute path, whose last part is the name of a folder also for "." and ".."; links stay."""
    return Path(os.path.abspath(Path(folder).expanduser()))


def skill_folders(folders: Sequence[Path]) -> list[Path]:
    """Return the folders of skills: a given folder itself, or the folders in it that have a SKILL.md.

    Raises:
        UserError: a folder cannot be read, or there are too many.
    """
    found: list[Path] = []
    n_entries = 0
    for folder in folders:
        if _has_skill_file(folder):
            found.append(folder)
            continue
        try:
            entries: list[Path] = []
            for entry in folder.iterdir():
                n_entries += 1
                if n_entries > MAX_ENTRIES:
                    raise UserError(f"the folders of skills have more than {MAX_ENTRIES:,} entries; give fewer.")
                entries.append(entry)
        except OSError as error:
            raise UserError(f"the folder of skills {str(folder)!r} cannot be read: {error.strerror}.") from error
        found += (entry for entry in sorted(entries) if entry.is_dir() and _has_skill_file(entry))
    if len(found) > MAX_SKILLS:
        raise UserError(f"there are {len(found):,} skills; the limit is {MAX_SKILLS:,}. Give fewer folders.")
    return found


def _has_skill_file(folder: Path) -> bool:
    """Whether a folder has a SKILL.md, also one in small letters, which is refused by name."""
    return any((folder / name).exists() for name in (SKILL_FILE, SKILL_FILE.lower()))


def _log(folder: Path, error: SkillRefused) -> None:
    shown = f"\n{error.difference}" if isinstance(error, SkillChanged) else f" {error.__cause__ or ''}".rstrip()
    logger.warning("the skill in %a is not offered: %s%s", str(folder), error, shown)
