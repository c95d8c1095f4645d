"""Pinned tool definitions: a server's tools must keep the definitions that they had at first use.

A server that was trusted once can change its tool definitions later (a rug pull: Invariant Labs, April 2025;
Cursor's MCPoison, CVE-2025-54136). So the first listing of a server is kept (trust on first use, as ssh does with
host keys). A later listing is compared with it before the model reads anything:

    changed   the listing is refused
    added     the tool is left out, with a notice, until it is accepted
    removed   harmless; the pin stays until the server is pinned anew

A pin is the SHA-256 of the canonical JSON of everything that a model or a policy sees of a tool: name, title,
description, both schemas, annotations. The definition is kept beside it, so that a change can be shown. A server
has one file, named after the command line or URL. A server that shows each user different tools also needs a key
from the application, for example the user or tenant.

A folder that cannot be read or written does not stop an agent: the pins then hold for the process, and one warning
says so. A file that was edited or damaged is refused, because that may be an attack.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from agentkit.basics.hidden import strip_data
from agentkit.basics.line_diff import line_diff
from agentkit.basics.near_names import MAX_NAME_CHARS
from agentkit.errors import ToolDefinitionChanged, UserError

if TYPE_CHECKING:
    from mcp_types import Tool as WireTool

logger = logging.getLogger(__name__)

PINS_VARIABLE = "AGENTKIT_PINS_DIR"
_FORMAT_VERSION = 1
_PINNED_FIELDS = ("name", "title", "description", "inputSchema", "outputSchema", "annotations")
_MAX_SHOWN_LINES, _MAX_SHOWN_LINE_CHARS, _MAX_SHOWN_NAMES = 20, 500, 20
"""Limits of the difference shown in an error; `agentkit mcp verify` shows all of it."""
_LINE_CHARS, _MIN_PIECE_CHARS = 74, 24
"""Characters of a line of a definition: with the sign of a diff and an indent it fits a terminal of 80 columns."""
_SENTENCE = re.compile(r"(?<=[.!?] )|(?<=\\n)")
"""Ends of sentences and lines in JSON text."""


class PinnedTool(BaseModel):
    """A tool as it was when it was pinned."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    sha256: str
    definition: dict[str, Any]


class PinFile(BaseModel):
    """The pins of one server."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: Literal[1]
    target: str
    """The command line or URL, with the application's key if there is one (`target_key`)."""
    tools: dict[str, PinnedTool]


@dataclass(frozen=True, slots=True)
class Drift:
    """A tool that differs from its pin."""

    tool_name: str
    kind: Literal["changed", "added", "removed"]
    difference: str
    """Lines of a unified diff of the definitions."""


@dataclass(frozen=True, slots=True)
class PinnedListing:
    """A server's tools after comparison with their pins."""

    tools: tuple[WireTool, ...]
    """The tools that may be offered."""
    added: tuple[WireTool, ...] = ()
    """Allowed tools that have not been accepted yet."""
    storage_notice: str | None = None
    """Reason why the pins hold for this process only; None if they are stored."""


class ToolPins:
    """A folder of pins. One object may be used by several toolsets, threads and event loops."""

    def __init__(self, folder: str | Path | None = None) -> None:
        """Use `folder`; None takes AGENTKIT_PINS_DIR, or the user's state directory."""
        self._folder = Path(folder).expanduser() if folder is not None else None
        self._lock = threading.Lock()
        self._held: dict[str, PinFile] = {}
        """Pins that could not be stored, by target."""
        self._storage_notice: str | None = None

    @property
    def folder(self) -> Path:
        """Folder of the pin files."""
        return self._folder or _default_folder()

    def path(self, target: str) -> Path:
        """Return the file of a server."""
        return self.folder / f"{hashlib.sha256(target.encode()).hexdigest()[:24]}.json"

    def read(self, target: str) -> PinFile | None:
        """Return a server's stored pins, None if it has none.

        Raises:
            UserError: the file is damaged or cannot be read.
        """
        try:
            return self._stored(target)
        except OSError as error:
            raise UserError(
                f"the pins of MCP server {target!r} in {self.path(target)} cannot be read: {error.strerror}."
            ) from error

    def _stored(self, target: str) -> PinFile | None:
        """Return a server's stored pins; raises OSError if the folder or file cannot be read."""
        path = self.path(target)
        try:
            pins = PinFile.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise UserError(
                f"the pins of MCP server {target!r} in {path} cannot be read ({_first_line(error)}); look at the "
                f"server's tools with `agentkit mcp list` and pin them again with `agentkit mcp pin`."
            ) from error
        if pins.target != target or any(pin.sha256 != _digest(pin.definition) for pin in pins.tools.values()):
            raise UserError(f"the pins in {path} were edited; pin the server again with `agentkit mcp pin`.")
        return pins

    def write(self, target: str, wire: Sequence[WireTool]) -> None:
        """Pin a server's tools as they are.

        Raises:
            UserError: the file cannot be written.
        """
        self._write(PinFile(version=_FORMAT_VERSION, target=target, tools=_pinned(wire)))

    def _write(self, pins: PinFile) -> None:
        from agentkit.tracing.private_file import private_file

        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise UserError(f"pins cannot be kept in {self.folder}: {error.strerror}.") from error
        with private_file(self.path(pins.target)) as file:
            file.write(pins.model_dump_json(indent=1).encode())

    def drift(self, target: str, wire: Sequence[WireTool]) -> list[Drift] | None:
        """Return the differences from the stored pins; None if nothing is stored.

        Raises:
            UserError: the file is damaged or cannot be read.
        """
        pins = self.read(target)
        return None if pins is None else _drifts(pins, wire)

    def check(
        self, target: str, wire: Sequence[WireTool], *, server: str, allow: frozenset[str] | None
    ) -> PinnedListing:
        """Pin the tools of a new server; compare those of a known server with their pins.

        Raises:
            ToolDefinitionChanged: the definition of an allowed tool has changed.
            UserError: the stored pins are damaged.
        """
        with self._lock:
            pins = self._known(target)
            if pins is None:
                self._keep(PinFile(version=_FORMAT_VERSION, target=target, tools=_pinned(wire)))
                return PinnedListing(tuple(wire), storage_notice=self._notice_of(target))
            notice = self._notice_of(target)
        drift = [each for each in _drifts(pins, wire) if allow is None or each.tool_name in allow]
        if changed := [each for each in drift if each.kind == "changed"]:
            raise ToolDefinitionChanged(_message(changed, server), tuple(each.tool_name for each in changed))
        new = {each.tool_name for each in drift if each.kind == "added"}
        added = tuple(tool for tool in wire if tool.name in new)
        return PinnedListing(tuple(tool for tool in wire if tool.name not in new), added, notice)

    def accept(self, target: str, added: Sequence[WireTool]) -> str | None:
        """Pin further tools of a server; tools that are pinned keep their definitions.

        Returns the reason why the pins hold for this process only; None if they are stored.

        Raises:
            UserError: the stored pins are damaged.
        """
        with self._lock:
            pins = self._known(target) or PinFile(version=_FORMAT_VERSION, target=target, tools={})
            self._keep(pins.model_copy(update={"tools": {**_pinned(added), **pins.tools}}))
            return self._notice_of(target)

    def _known(self, target: str) -> PinFile | None:
        """Return the stored pins, else those of this process."""
        try:
            stored = self._stored(target)
        except OSError as error:
            self._note(f"{self.folder} cannot be read: {error.strerror}")
            stored = None
        return stored or self._held.get(target)

    def _keep(self, pins: PinFile) -> None:
        """Store pins; if that fails they hold for this process."""
        try:
            self._write(pins)
            self._held.pop(pins.target, None)
        except UserError as error:
            self._held[pins.target] = pins
            self._note(str(error))

    def _note(self, reason: str) -> None:
        """Warn once that pins are not stored."""
        if self._storage_notice is None:
            self._storage_notice = (
                f"pins of MCP tools hold for this process only: {reason.rstrip('.')}. Set {PINS_VARIABLE} to a "
                f"folder that can be written, or pass `pins=ToolPins(folder)`; `pins=None` turns pinning off."
            )
            logger.warning("%s", self._storage_notice)

    def _notice_of(self, target: str) -> str | None:
        return self._storage_notice if target in self._held else None


DEFAULT_PINS = ToolPins()
"""Pins in the user's default folder."""


def target_key(target: Any, own_key: str | None = None) -> str | None:
    """Return the name of a server's pins in all processes; None for a target without a command or URL.

    Headers and environment are left out: they hold secrets, and change while the server stays the same. `own_key`
    comes from the application, for a server that shows each user or tenant different tools.
    """
    from agentkit.mcp.target import HttpTarget

    if isinstance(target, HttpTarget):
        server = target.url
    else:
        command = getattr(target, "command", None)  # our own target, or mcp's StdioServerParameters
        if not isinstance(command, str):
            return None
        server = json.dumps([command, *map(str, target.args)], ensure_ascii=False)
    # A URL, a JSON array, a JSON object: no two servers share a name.
    return server if own_key is None else json.dumps({"server": server, "key": own_key}, ensure_ascii=False)


def show_drift(drift: Sequence[Drift]) -> str:
    """Return all differences in full, safe to print."""
    return "\n".join(f"{each.tool_name!a} {each.kind}:\n{each.difference}" for each in drift)


def _message(found: Sequence[Drift], server: str) -> str:
    names = ", ".join(f"{each.tool_name[:MAX_NAME_CHARS]!a} ({each.kind})" for each in found[:_MAX_SHOWN_NAMES])
    names += f" and {len(found) - _MAX_SHOWN_NAMES} more" if len(found) > _MAX_SHOWN_NAMES else ""
    lines = show_drift(found).splitlines()
    shown = "\n".join(_cut(line) for line in lines[:_MAX_SHOWN_LINES])
    left = f"\n... {len(lines) - _MAX_SHOWN_LINES} more lines" if len(lines) > _MAX_SHOWN_LINES else ""
    return (
        f"the tool definitions of MCP server {server!r} differ from their pins: {names}. No tool was called. "
        f"If you trust the change, pin it with `agentkit mcp pin`.\n{shown}{left}"
    )


def _cut(line: str) -> str:
    return line if len(line) <= _MAX_SHOWN_LINE_CHARS else f"{line[:_MAX_SHOWN_LINE_CHARS]}..."


def _drifts(pins: PinFile, wire: Sequence[WireTool]) -> list[Drift]:
    now = _definitions(wire)
    found = [_drift(name, pins.tools.get(name), now.get(name)) for name in {**pins.tools, **now}]
    return [each for each in found if each is not None]


def _drift(name: str, pinned: PinnedTool | None, now: Mapping[str, Any] | None) -> Drift | None:
    if pinned is None:
        return Drift(name, "added", _difference(None, now))
    if now is None:
        return Drift(name, "removed", _difference(pinned.definition, None))
    if _digest(now) == pinned.sha256:
        return None
    return Drift(name, "changed", _difference(pinned.definition, now))


def _difference(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> str:
    old, new = (_lines(each) if each is not None else [] for each in (before, after))
    lines = line_diff(old, new, old_name="pinned", new_name="now")
    return strip_data("\n".join(lines))[0]


def _lines(definition: Mapping[str, Any]) -> list[str]:
    """Return a definition as lines of JSON, short enough for a terminal: prose has a line for each sentence.

    A line is cut behind a line feed, a sentence or a word, and nothing is left out, so each change is in the
    difference, and a changed sentence does not move the cuts of the next ones.
    """
    document = json.dumps(definition, indent=1, sort_keys=True, ensure_ascii=True)
    lines: list[str] = []
    for line in document.splitlines():
        indent = " " * (len(line) - len(line.lstrip()) + 3)
        sentences = [piece for piece in _SENTENCE.split(line) if piece] if len(line) > _LINE_CHARS else [line]
        for n, sentence in enumerate(sentences):
            lines += _wrapped(sentence, "" if n == 0 else indent, indent)
    return lines


def _wrapped(text: str, first_indent: str, indent: str) -> list[str]:
    """Return pieces of at most `_LINE_CHARS` characters, cut behind spaces if possible, each with its indent."""
    pieces: list[str] = []
    while text:
        before = first_indent if not pieces else indent
        room = max(_LINE_CHARS - len(before), _MIN_PIECE_CHARS)
        at = len(text) if len(text) <= room else (text.rfind(" ", _MIN_PIECE_CHARS, room) + 1 or room)
        pieces.append(before + text[:at])
        text = text[at:]
    return pieces


def _pinned(wire: Sequence[WireTool]) -> dict[str, PinnedTool]:
    return {name: PinnedTool(sha256=_digest(each), definition=each) for name, each in _definitions(wire).items()}


def _definitions(wire: Sequence[WireTool]) -> dict[str, dict[str, Any]]:
    whole = [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in wire]
    return {each["name"]: {key: each[key] for key in _PINNED_FIELDS if key in each} for each in whole}


def _digest(definition: Mapping[str, Any]) -> str:
    canonical = json.dumps(definition, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _default_folder() -> Path:
    import platformdirs

    named = os.environ.get(PINS_VARIABLE)
    return Path(named).expanduser() if named else Path(platformdirs.user_state_dir("agentkit")) / "pins"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
