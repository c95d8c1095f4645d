"""Pinned tool definitions: what a server said of its tools when it was first used is what it must go on saying.

A server that was trusted once can change what its tools say later (a rug pull: Invariant Labs, April 2025;
Cursor's MCPoison, CVE-2025-54136). So the first listing of a server is kept (trust on first use, as ssh does with
host keys), and a later one that changes a definition, or adds one, is refused before the model reads it. A tool
that is gone is no danger and is only forgotten by a new pin.

A pin is the SHA-256 of the canonical JSON of everything that a model or a policy sees of a tool: name, title,
description, both schemas, annotations. The definition is kept beside it, so that a change can be shown. One file a
server, named after what is connected to: a command line or a URL.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from agentkit.errors import ToolDefinitionChanged, UserError
from agentkit.hidden import strip_data
from agentkit.near_names import MAX_NAME_CHARS, difference

if TYPE_CHECKING:
    from mcp_types import Tool as WireTool

PINS_VARIABLE = "AGENTKIT_PINS_DIR"
_FORMAT_VERSION = 1
_PINNED_FIELDS = ("name", "title", "description", "inputSchema", "outputSchema", "annotations")
_MAX_SHOWN_LINES, _MAX_SHOWN_LINE_CHARS, _MAX_SHOWN_NAMES = 20, 500, 20
"""Of the difference in an error; `agentkit mcp verify` shows all of it."""


class PinnedTool(BaseModel):
    """One tool as it was when it was pinned."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    sha256: str
    definition: dict[str, Any]


class PinFile(BaseModel):
    """The pins of one server."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: Literal[1]
    target: str
    """The command line or URL."""
    tools: dict[str, PinnedTool]


@dataclass(frozen=True, slots=True)
class Drift:
    """One tool that is not as it was pinned."""

    tool_name: str
    kind: Literal["changed", "added", "removed"]
    difference: str
    """Lines of a unified diff of the definitions."""


class ToolPins:
    """A folder of pins."""

    def __init__(self, folder: str | Path | None = None) -> None:
        """Use `folder`; None takes AGENTKIT_PINS_DIR, or the user's state directory."""
        self._folder = Path(folder).expanduser() if folder is not None else None

    @property
    def folder(self) -> Path:
        """Where the files are."""
        return self._folder or _default_folder()

    def path(self, target: str) -> Path:
        """Return the file of a server."""
        return self.folder / f"{hashlib.sha256(target.encode()).hexdigest()[:24]}.json"

    def read(self, target: str) -> PinFile | None:
        """Return a server's pins, None if it has none.

        Raises:
            UserError: the file is damaged.
        """
        path = self.path(target)
        try:
            pins = PinFile.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
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
        from agentkit.tracing.private_file import private_file

        tools = {
            name: PinnedTool(sha256=_digest(each), definition=each) for name, each in _definitions(wire).items()
        }
        pins = PinFile(version=_FORMAT_VERSION, target=target, tools=tools)
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise UserError(f"pins cannot be kept in {self.folder}: {error.strerror}.") from error
        with private_file(self.path(target)) as file:
            file.write(pins.model_dump_json(indent=1).encode())

    def drift(self, target: str, wire: Sequence[WireTool]) -> list[Drift] | None:
        """Return what is not as it was pinned, None if nothing is pinned.

        Raises:
            UserError: the file is damaged.
        """
        pins = self.read(target)
        if pins is None:
            return None
        now = _definitions(wire)
        found = [_drift(name, pins.tools.get(name), now.get(name)) for name in {**pins.tools, **now}]
        return [each for each in found if each is not None]

    def check(self, target: str, wire: Sequence[WireTool], *, server: str, allow: frozenset[str] | None) -> None:
        """Pin the tools of a server that is new; compare those of one that is known.

        Raises:
            ToolDefinitionChanged: a definition that is in use has changed, or is new.
            UserError: the pins cannot be read or written.
        """
        drift = self.drift(target, wire)
        if drift is None:
            self.write(target, wire)
            return
        found = [each for each in drift if each.kind != "removed" and (allow is None or each.tool_name in allow)]
        if found:
            raise ToolDefinitionChanged(_message(found, server), tuple(each.tool_name for each in found))


DEFAULT_PINS = ToolPins()
"""The user's own."""


def target_key(target: Any) -> str | None:
    """Return what names a server across processes, None for one that only this process has.

    Headers and environment are left out: they hold secrets, and change while the server stays the same.
    """
    from agentkit.mcp.target import HttpTarget

    if isinstance(target, HttpTarget):
        return target.url
    command = getattr(target, "command", None)  # our own target, or mcp's StdioServerParameters
    if not isinstance(command, str):
        return None
    return json.dumps([command, *map(str, target.args)], ensure_ascii=False)


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
        f"MCP server {server!r} defines tools otherwise than when it was pinned: {names}. Nothing was started. "
        f"If the change is right, pin it with `agentkit mcp pin`.\n{shown}{left}"
    )


def _cut(line: str) -> str:
    return line if len(line) <= _MAX_SHOWN_LINE_CHARS else f"{line[:_MAX_SHOWN_LINE_CHARS]}..."


def _drift(name: str, pinned: PinnedTool | None, now: Mapping[str, Any] | None) -> Drift | None:
    if pinned is None:
        return Drift(name, "added", _difference(None, now))
    if now is None:
        return Drift(name, "removed", _difference(pinned.definition, None))
    if _digest(now) == pinned.sha256:
        return None
    return Drift(name, "changed", _difference(pinned.definition, now))


def _difference(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> str:
    old, new = (
        json.dumps(each, indent=1, sort_keys=True, ensure_ascii=True).splitlines() if each is not None else []
        for each in (before, after)
    )
    lines = difference(old, new, old_name="pinned", new_name="now")
    return strip_data("\n".join(lines))[0]


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
