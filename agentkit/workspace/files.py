"""File tools of a workspace: the functions of the filesystem server under the names and texts of this toolset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import Field

from agentkit.basics.hidden import strip_data
from agentkit.errors import ToolFailed
from agentkit.tools.tool import ToolOutput
from mcp_servers.child import KillableChild
from mcp_servers.failures import ToolFailure
from mcp_servers.filesystem import reading, searching, writing
from mcp_servers.filesystem.policy import MAX_DEPTH, Limits, PathParts, parse_entry, parse_target
from mcp_servers.filesystem.root import NotFound, Root
from mcp_servers.tool_result import ToolResult

MAX_LINES = 10_000
MAX_OFFSET = 1_000_000_000
DEFAULT_LINES = 500
"""Lines of one reading: about 5,000 tokens of prose."""

_OTHER_NAMES = (
    ("`list_directory`", "`list_files`"),
    ("Use `file_info` for its size.", "`list_files` shows its size."),
    ("; search_text looks into the files", "; search_files with a text looks into the files"),
)
"""Names in the server's texts, and what the tools of a workspace are called."""


class Files:
    """Files below an open folder."""

    def __init__(self, root: Root, kept: tuple[str, ...]) -> None:
        """Serve a folder; the paths `kept` in it, relative, are not changed."""
        self._root, self._limits = root, Limits()
        self._kept = tuple(tuple(path.split("/")) for path in kept)
        self._regex_child = KillableChild(searching.REGEX_WORKER)

    def read_file(
        self,
        path: Annotated[str, Field(description="Path of a file, like 'notes/todo.md'.")],
        offset: Annotated[int, Field(ge=1, le=MAX_OFFSET, description="First line to read.")] = 1,
        limit: Annotated[int, Field(ge=1, le=MAX_LINES, description="Number of lines.")] = DEFAULT_LINES,
    ) -> ToolOutput:
        """Read a text file, or some lines of it."""
        return self._told(
            lambda: reading.read_window(self._root, parse_entry(path), offset, limit, 0, self._limits)
        )

    def list_files(
        self,
        path: Annotated[str, Field(description="Path of a folder; '.' is the whole folder.")] = ".",
        depth: Annotated[int, Field(ge=1, le=MAX_DEPTH, description="Levels to show.")] = 1,
    ) -> ToolOutput:
        """List the files and folders in a folder."""
        return self._told(lambda: reading.list_folder(self._root, parse_entry(path), self._limits, depth))

    def search_files(
        self,
        text: Annotated[str, Field(description="Text to find in files; empty to find files by name.")] = "",
        path: Annotated[str, Field(description="Path of a file or folder to search.")] = ".",
        files: Annotated[str, Field(description="Only files with this name, like '*.py'.")] = "*",
        regex: Annotated[bool, Field(description="Whether text is a regular expression.")] = False,
        ignore_case: bool = False,
        ignored: Annotated[bool, Field(description="Search what .gitignore leaves out, and .git, too.")] = False,
    ) -> ToolOutput:
        """Find lines that contain a text, or files by name."""

        def search() -> ToolResult:
            if not text:
                return searching.search_names(self._root, parse_entry(path), files, self._limits)
            query = searching.TextQuery(
                text=text, regex=regex, ignore_case=ignore_case, name=files, ignored=ignored
            )
            return searching.search_text(self._root, parse_entry(path), query, self._limits, self._regex_child)

        return self._told(search)

    def write_file(
        self,
        path: Annotated[str, Field(description="Path of a file; missing folders are created.")],
        text: Annotated[str, Field(description="The whole content.")],
        overwrite: Annotated[bool, Field(description="Replace the file if it exists.")] = False,
        append: Annotated[bool, Field(description="Add the text to the end of the file.")] = False,
    ) -> ToolOutput:
        """Create a file with a text, or add to one."""

        def write() -> ToolResult:
            if overwrite and append:
                raise ToolFailure("overwrite=true and append=true exclude each other. Set one of them.")
            parts = self._target(path)
            if len(parts) > 1:
                writing.create_folder(self._root, parts[:-1])
            if append:
                return writing.append_to_file(self._root, parts, text, self._limits)
            return writing.write_file(self._root, parts, text, overwrite, self._limits)

        return self._told(write)

    def edit_file(
        self,
        path: Annotated[str, Field(description="Path of a file.")],
        old_text: Annotated[str, Field(description="Exact text in the file.")],
        new_text: Annotated[str, Field(description="Text to put in its place.")],
        replace_all: Annotated[bool, Field(description="Replace every place.")] = False,
    ) -> ToolOutput:
        """Replace a text in a file."""
        return self._told(
            lambda: writing.edit_file(
                self._root, self._target(path), old_text, new_text, replace_all, self._limits
            )
        )

    def close(self) -> None:
        """End the process that runs regular expressions; the next search with one starts another."""
        self._regex_child.close()

    def _target(self, path: str) -> PathParts:
        parts = parse_target(path)
        if kept := next((kept for kept in self._kept if parts[: len(kept)] == kept), None):
            raise ToolFailure(
                f"{'/'.join(kept)!r} is the Python that runs the agent. It can be read, not changed."
            )
        return parts

    def _told(self, function: Callable[[], ToolResult]) -> ToolOutput:
        """Return a result for the model, without hidden characters.

        Raises:
            ToolFailed: The call failed; the text says what to do differently.
        """
        try:
            result = function()
        except NotFound as failure:
            raise ToolFailed(_own_names(str(self._root.with_paths_alike(failure)))) from failure
        except ToolFailure as failure:
            raise ToolFailed(_own_names(str(failure))) from failure
        text = result.as_text()
        if isinstance(result, searching.FoundNames):
            text = _own_names(text)
        shown, n_hidden = strip_data(text)
        note = f"\n[{n_hidden:,} hidden characters removed]" if n_hidden else ""
        return ToolOutput(shown + note, result.model_dump(mode="json"))


def _own_names(text: str) -> str:
    """Return a text of the server with the names of this toolset."""
    for theirs, ours in _OTHER_NAMES:
        text = text.replace(theirs, ours)
    return text
