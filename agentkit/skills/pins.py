"""Pinned skills: a skill must keep the files that it had at first use, or that a person accepted.

A skill is instructions and programs of somebody else. The idea and the words are those of `agentkit.mcp.pins`:

    recorded   the files of the first use are kept (trust on first use); the skill stays untrusted
    accepted   a person has pinned the skill with `agentkit skills pin`; its text is trusted as instructions are
    changed    the files differ from the pin: the skill is refused by name until a person accepts it

A pin is the SHA-256 of each file, with its path and its executable flag, and the text of SKILL.md, so that a
change can be shown. A skill has one file, named after its folder's path.

A folder of pins that cannot be read or written does not stop an agent: the pins then hold for the process, and one
warning says so. A file that was edited or damaged is refused, because that may be an attack.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from agentkit.basics.line_diff import line_diff
from agentkit.errors import UserError
from agentkit.skills.files import SkillRefused, digest_of
from agentkit.skills.skill import SkillReading

logger = logging.getLogger(__name__)

PinState = Literal["recorded", "accepted"]
_MAX_SHOWN_LINES = 40
_MAX_SHOWN_CHARS = 200
"""Limits of the difference in a log; `agentkit skills check` shows all of it."""


class SkillPin(BaseModel):
    """The files of a skill as they were at first use or when they were accepted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: Literal[1] = 1
    folder: str
    """Resolved path of the skill's folder."""
    is_accepted: bool
    """True if a person has pinned the skill; False at first use."""
    sha256: str
    files: dict[str, str]
    """SHA-256 by path, with `+x` behind that of an executable file."""
    text: str
    """SKILL.md, without hidden characters."""


class SkillChanged(SkillRefused):
    """A skill differs from its pin. The message is for models, too; the difference is for people."""

    def __init__(self, difference: str) -> None:
        """Store the difference, which quotes the changed skill."""
        super().__init__("its files differ from their pin; a person can accept them with `agentkit skills pin`.")
        self.difference = difference


class SkillPins:
    """A folder of pins. One object may be used by several toolsets, threads and event loops."""

    def __init__(self, folder: str | Path | None = None) -> None:
        """Use `folder`; None takes `skills` below the folder of tool pins, AGENTKIT_PINS_DIR."""
        self._folder = Path(folder).expanduser() if folder is not None else None
        self._lock = threading.Lock()
        self._held: dict[str, SkillPin] = {}
        """Pins that could not be stored, by skill folder."""
        self._has_warned = False

    @property
    def folder(self) -> Path:
        """Folder of the pin files."""
        if self._folder is not None:
            return self._folder
        from agentkit.mcp.pins import ToolPins

        return ToolPins().folder / "skills"

    def path(self, skill_folder: Path) -> Path:
        """Return the pin file of a skill."""
        return self.folder / f"{hashlib.sha256(_key(skill_folder).encode()).hexdigest()[:24]}.json"

    def read(self, skill_folder: Path) -> SkillPin | None:
        """Return the pin of a skill; None if it has none.

        Raises:
            UserError: the file is damaged, was edited, or cannot be read.
        """
        try:
            return self._stored(skill_folder)
        except OSError as error:
            raise UserError(f"the pin {self.path(skill_folder)} cannot be read: {error.strerror}.") from error

    def _stored(self, skill_folder: Path) -> SkillPin | None:
        """Return the stored pin of a skill; raises OSError if the file cannot be read."""
        path = self.path(skill_folder)
        again = "look at the skill with `agentkit skills check` and pin it again with `agentkit skills pin`"
        try:
            pin = SkillPin.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise UserError(f"the pin {path} is damaged; {again}.") from error
        if pin.folder != _key(skill_folder) or pin.sha256 != digest_of(pin.files):
            raise UserError(f"the pin {path} was edited; {again}.")
        return pin

    def write(self, reading: SkillReading) -> None:
        """Accept a skill with the files that it has now.

        Raises:
            UserError: the skill is refused, or the file cannot be written.
        """
        if reading.skill is None:
            raise UserError(f"{reading.folder} cannot be pinned: {reading.refusal}")
        with self._lock:
            self._write(_pin_of(reading, is_accepted=True))
            self._held.pop(_key(reading.folder), None)

    def check(self, reading: SkillReading) -> PinState:
        """Record a skill at its first use; compare a known skill with its pin.

        Raises:
            SkillChanged: the files differ from the pin.
            SkillRefused: the pin is damaged.
        """
        with self._lock:
            try:
                pin = self._known(reading.folder)
            except UserError as error:
                raise SkillRefused(
                    "its pin cannot be used; a person can look with `agentkit skills check`."
                ) from error
            if pin is None:
                self._keep(_pin_of(reading, is_accepted=False))
                return "recorded"
        if pin.sha256 != reading.files.sha256:
            lines = [line[:_MAX_SHOWN_CHARS] for line in difference(pin, reading)]
            more = [f"... {len(lines) - _MAX_SHOWN_LINES} more lines"] if len(lines) > _MAX_SHOWN_LINES else []
            raise SkillChanged("\n".join([*lines[:_MAX_SHOWN_LINES], *more]))
        return "accepted" if pin.is_accepted else "recorded"

    def _known(self, skill_folder: Path) -> SkillPin | None:
        """Return the stored pin, else that of this process."""
        try:
            stored = self._stored(skill_folder)
        except OSError as error:
            self._warn(f"{self.folder} cannot be read: {error.strerror}.")
            stored = None
        return stored or self._held.get(_key(skill_folder))

    def _keep(self, pin: SkillPin) -> None:
        """Store a pin; if that fails it holds for this process."""
        try:
            self._write(pin)
        except UserError as error:
            self._held[pin.folder] = pin
            self._warn(str(error))

    def _warn(self, reason: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning("pins of skills hold for this process only: %s", reason)

    def _write(self, pin: SkillPin) -> None:
        from agentkit.tracing.private_file import private_file

        folder = self.folder
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise UserError(f"pins of skills cannot be kept in {folder}: {error.strerror}.") from error
        with private_file(self.path(Path(pin.folder))) as file:
            file.write(pin.model_dump_json(indent=1).encode())


DEFAULT_SKILL_PINS = SkillPins()
"""Pins in the user's default folder."""


def difference(pin: SkillPin, reading: SkillReading) -> list[str]:
    """Return the changed files and the changed lines of SKILL.md, safe to print; empty if nothing changed."""
    now = reading.files.digests
    lines = [
        f"{'added' if path not in pin.files else 'removed' if path not in now else 'changed'}: {path!a}"
        for path in sorted({*pin.files, *now})
        if pin.files.get(path) != now.get(path)
    ]
    return lines + line_diff(pin.text.split("\n"), reading.text.split("\n"), old_name="pinned", new_name="now")


def _pin_of(reading: SkillReading, *, is_accepted: bool) -> SkillPin:
    return SkillPin(
        folder=_key(reading.folder),
        is_accepted=is_accepted,
        sha256=reading.files.sha256,
        files=dict(reading.files.digests),
        text=reading.text,
    )


def _key(skill_folder: Path) -> str:
    """Return the name of a skill in all processes."""
    return str(skill_folder.expanduser().resolve())
