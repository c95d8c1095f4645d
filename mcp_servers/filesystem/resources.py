"""Files below the root as resources, under the rules of the tools (`policy.py`), opened by `root.py`."""

from __future__ import annotations

import os
import time
from collections.abc import Hashable, Iterable
from urllib.parse import quote

import mcp_types as types
from mcp.shared.uri_template import UriTemplate

from mcp_servers.completion import MAX_CANDIDATES, Given
from mcp_servers.failures import ToolFailure
from mcp_servers.filesystem.ignoring import IgnoreFiles
from mcp_servers.filesystem.policy import Limits, PathParts, joined, parse_entry, printable_bytes, shown
from mcp_servers.filesystem.reading import Walk, is_binary
from mcp_servers.filesystem.root import Root, kind_of, lstat, names_in
from mcp_servers.media_types import media_type
from mcp_servers.resources import MAX_LISTED, MAX_RESOURCE_BYTES, Body, Resources, Template

FILE_TEMPLATE = "file:///{+path}"
"""URI of a file; its path is relative to the served root, so it says nothing about the machine."""


class FileResources:
    """The files below a root."""

    def __init__(self, root: Root, limits: Limits) -> None:
        """Serve the files below `root`."""
        self._root = root
        self._limits = limits
        self._template = UriTemplate.parse(FILE_TEMPLATE)

    def resources(self) -> Resources:
        """Return the definition for `strict_server`."""
        template = Template(
            FILE_TEMPLATE,
            "file",
            "A file below the root, by its path; text, or bytes if it is not UTF-8.",
            self.read,
            completers={"path": self.paths},
        )
        return Resources((template,), self.listed, state=self.state)

    def listed(self) -> list[types.Resource]:
        """List the first files, without those that a search leaves out."""
        found: list[types.Resource] = []
        walk = Walk(self._limits, ignore_files=IgnoreFiles())
        deadline = time.monotonic() + self._limits.search_timeout_s
        with self._root.folder(()) as folder:
            for entry in walk.below(folder, ()):
                if len(found) == MAX_LISTED or time.monotonic() > deadline:
                    break
                if entry.kind == "file" and not entry.is_ignored and _is_utf8(entry.parts):
                    found.append(_resource(entry.parts, entry.size_bytes))
        return found

    def read(self, path: str) -> Body:
        """Read a whole file.

        Raises:
            ToolFailure: The path is refused, there is no such file, or it is too large.
        """
        parts = parse_entry(path)
        with self._root.file(parts) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_RESOURCE_BYTES:
                raise ToolFailure(
                    f"{shown(joined(parts))!r} has {size:,} bytes; at most {MAX_RESOURCE_BYTES:,} can be read as "
                    "a resource. The tool read_text_file reads a part of it."
                )
            is_text = not is_binary(file)
            file.seek(0)
            data = file.read(MAX_RESOURCE_BYTES + 1)
        if is_text:
            try:
                return Body(data.decode("utf-8"), media_type(parts[-1], is_text=True))
            except UnicodeDecodeError:
                pass
        return Body(data, media_type(parts[-1], is_text=False))

    def state(self, uri: str) -> Hashable:
        """Return a value that changes when the file does; None if it does not exist.

        Raises:
            ToolFailure: The path is refused.
        """
        variables = self._template.match(uri)
        if variables is None:
            return None
        parts = parse_entry(str(variables["path"]))
        with self._root.folder(parts[:-1]) as parent:
            status = lstat(parent, parts[-1] if parts else ".")
        return None if status is None else (status.st_ino, status.st_mtime_ns, status.st_size)

    def paths(self, value: str, given: Given) -> Iterable[str]:
        """Return the paths in the folder that `value` names so far; folders end in a slash.

        Raises:
            ToolFailure: There is no such folder.
        """
        above = value.rpartition("/")[0]
        parts = parse_entry(above) if above else ()
        with self._root.folder(parts) as folder:
            names = names_in(folder, parts, MAX_CANDIDATES)
            statuses = [(name, lstat(folder, name)) for name in names if _is_utf8((name,))]
        prefix = f"{above}/" if above else ""
        return [
            f"{prefix}{name}{'/' if kind_of(status) == 'folder' else ''}"
            for name, status in statuses
            if status is not None and kind_of(status) in ("file", "folder")
        ]


def _resource(parts: PathParts, size_bytes: int) -> types.Resource:
    path = joined(parts)
    return types.Resource(uri=f"file:///{quote(path, safe='/')}", name=shown(path), size=size_bytes)


def _is_utf8(parts: PathParts) -> bool:
    return all(printable_bytes(part) == part for part in parts)
