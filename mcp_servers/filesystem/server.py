"""The filesystem tools as a model sees them: names, arguments and descriptions, and nothing else.

A description is read by models as small as 135M parameters: one or two short sentences, plain argument names,
no optional types (0 means "not used"). Rules are in `policy.py`, descriptors in `root.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import mcp_types as types
from mcp.server.lowlevel.server import Server
from pydantic import Field

from mcp_servers.child import KillableChild
from mcp_servers.failures import ToolFailure
from mcp_servers.filesystem import reading, searching, writing
from mcp_servers.filesystem.policy import MAX_DEPTH, Limits, parse_entry, parse_source, parse_target
from mcp_servers.filesystem.resources import FileResources
from mcp_servers.filesystem.results import Change, FileInfo, FoundNames, Listing, TextMatches, TextWindow
from mcp_servers.filesystem.root import NotFound, Root
from mcp_servers.strict import ADDS, CHANGES, READS, ToolResult, strict_server, strict_tool
from mcp_servers.watching import POLL_S

NAME = "agentkit-filesystem"
INSTRUCTIONS = (
    "Files and folders below one root. Paths are relative to the root, like 'notes/todo.md'; '.' is the root. "
    "Links are not followed."
)
READ_ONLY = " Nothing can be changed."
# About 5,000 tokens of prose, so that a page fits a small model's 8,192 with room to answer.
DEFAULT_LINES = 500
MAX_LINES = 10_000
"""Lines that one read returns."""
MAX_OFFSET = 1_000_000_000
DEFAULT_TREE_DEPTH = 3

FilePath = Annotated[str, Field(description="Path of a file, like 'notes/todo.md'.")]
FolderPath = Annotated[str, Field(description="Path of a folder; '.' is the root.")]
AnyPath = Annotated[str, Field(description="Path of a file or folder.")]


class ReadTools:
    """Tools that change nothing."""

    def __init__(self, root: Root, limits: Limits, regex_child: KillableChild) -> None:
        """Serve `root`; regular expressions run in `regex_child`."""
        self._root = root
        self._limits = limits
        self._regex_child = regex_child

    def list_directory(self, path: FolderPath = ".") -> Listing:
        """List the files and folders in a folder."""
        return reading.list_folder(self._root, parse_entry(path), self._limits, depth=1)

    def tree(
        self,
        path: FolderPath = ".",
        depth: Annotated[int, Field(ge=1, le=MAX_DEPTH, description="Levels to show.")] = DEFAULT_TREE_DEPTH,
    ) -> Listing:
        """List a folder and the folders in it."""
        return reading.list_folder(self._root, parse_entry(path), self._limits, depth)

    def read_text_file(
        self,
        path: FilePath,
        offset: Annotated[int, Field(ge=1, le=MAX_OFFSET, description="First line to read.")] = 1,
        limit: Annotated[int, Field(ge=1, le=MAX_LINES, description="Number of lines.")] = DEFAULT_LINES,
        tail: Annotated[int, Field(ge=0, le=MAX_LINES, description="Read the last N lines instead.")] = 0,
    ) -> TextWindow:
        """Read a text file. Says how many lines it has."""
        return reading.read_window(self._root, parse_entry(path), offset, limit, tail, self._limits)

    def file_info(self, path: AnyPath) -> FileInfo:
        """Get the size, number of lines and time of a file, or the number of entries of a folder."""
        return reading.file_info(self._root, parse_entry(path), self._limits)

    def search_files(
        self,
        pattern: Annotated[str, Field(description="File name with * and ?, like '*.md'.")],
        path: FolderPath = ".",
    ) -> FoundNames:
        """Find files and folders by name."""
        return searching.search_names(self._root, parse_entry(path), pattern, self._limits)

    def search_text(
        self,
        text: Annotated[str, Field(description="Text to find.")],
        path: AnyPath = ".",
        regex: Annotated[bool, Field(description="Whether text is a regular expression.")] = False,
        ignore_case: bool = False,
        files: Annotated[str, Field(description="Only files with this name, like '*.py'.")] = "*",
        ignored: Annotated[bool, Field(description="Search what .gitignore leaves out, and .git, too.")] = False,
    ) -> TextMatches:
        """Find lines that contain a text."""
        query = searching.TextQuery(text=text, regex=regex, ignore_case=ignore_case, name=files, ignored=ignored)
        return searching.search_text(self._root, parse_entry(path), query, self._limits, self._regex_child)


class WriteTools:
    """Tools that change files; offered only with `--write`."""

    def __init__(self, root: Root, limits: Limits) -> None:
        """Change files below `root`."""
        self._root = root
        self._limits = limits

    def write_file(
        self,
        path: FilePath,
        text: Annotated[str, Field(description="The whole content.")],
        overwrite: Annotated[bool, Field(description="Replace the file if it exists.")] = False,
        append: Annotated[bool, Field(description="Add the text to the end of the file.")] = False,
    ) -> Change:
        """Create a file with a text, or add to one."""
        if overwrite and append:
            raise ToolFailure("overwrite=true and append=true exclude each other. Set one of them.")
        if append:
            return writing.append_to_file(self._root, parse_target(path), text, self._limits)
        return writing.write_file(self._root, parse_target(path), text, overwrite, self._limits)

    def edit_file(
        self,
        path: FilePath,
        old_text: Annotated[str, Field(description="Exact text in the file.")],
        new_text: Annotated[str, Field(description="Text to put in its place.")],
        replace_all: Annotated[bool, Field(description="Replace every place.")] = False,
    ) -> Change:
        """Replace a text in a file."""
        return writing.edit_file(self._root, parse_target(path), old_text, new_text, replace_all, self._limits)

    def create_directory(self, path: FolderPath) -> Change:
        """Create a folder."""
        return writing.create_folder(self._root, parse_target(path))

    def move(
        self,
        source: Annotated[str, Field(description="Path of the file or folder now.")],
        destination: Annotated[str, Field(description="Its new path, which must not exist.")],
    ) -> Change:
        """Move or rename a file or folder."""
        return writing.move(self._root, parse_source(source), parse_target(destination))

    def delete(self, path: AnyPath) -> Change:
        """Delete a file or folder. It goes to the trash and can be moved back."""
        return writing.delete(self._root, parse_target(path))


def _finding(root: Root, function: Callable[..., ToolResult]) -> Callable[..., ToolResult]:
    """Return the function with failures that name paths like a missing one.

    The search for them belongs here, where a model reads the failure: other callers of `Root` only need to know.
    """

    @wraps(function)
    def found(**arguments: Any) -> ToolResult:
        try:
            return function(**arguments)
        except NotFound as failure:
            raise root.with_paths_alike(failure) from failure

    return found


def build_server(
    root: str, *, write: bool = False, limits: Limits | None = None, poll_s: float = POLL_S
) -> Server[Any]:
    """Return a server for the folder `root`; it can be passed to `mcp.Client` as it is.

    `poll_s` is the time between two looks at the files to whose changes clients have subscribed.

    Raises:
        StartError: The folder cannot be opened.
    """
    opened = Root(root)
    limits = limits or Limits()
    regex_child = KillableChild(searching.REGEX_WORKER)
    read = ReadTools(opened, limits, regex_child)
    offered: list[tuple[Callable[..., ToolResult], types.ToolAnnotations]] = [
        (read.list_directory, READS),
        (read.tree, READS),
        (read.read_text_file, READS),
        (read.file_info, READS),
        (read.search_files, READS),
        (read.search_text, READS),
    ]
    if write:
        change = WriteTools(opened, limits)
        offered += [
            (change.write_file, CHANGES),
            (change.edit_file, CHANGES),
            (change.create_directory, ADDS),
            (change.move, CHANGES),
            (change.delete, CHANGES),
        ]
    tools = [strict_tool(_finding(opened, function), annotations) for function, annotations in offered]
    instructions = INSTRUCTIONS if write else INSTRUCTIONS + READ_ONLY
    return strict_server(
        NAME,
        instructions=instructions,
        tools=tools,
        resources=FileResources(opened, limits).resources(),
        on_close=regex_child.close,
        poll_s=poll_s,
    )
