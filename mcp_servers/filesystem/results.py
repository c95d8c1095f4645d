"""Results of the filesystem tools: fields for programs, short plain text for the model."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from mcp_servers.filesystem.policy import shown
from mcp_servers.filesystem.root import Kind
from mcp_servers.tool_result import ToolResult


class Entry(BaseModel):
    """A file or folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(description="Relative to the root.")
    kind: Kind
    size_bytes: int = Field(description="0 unless it is a file.")


class Listing(ToolResult):
    """Entries of a folder, or of a tree."""

    path: str
    entries: list[Entry]
    truncated: bool = Field(description="Whether entries are missing because a limit was reached.")

    def as_text(self) -> str:
        """Return one entry per line; folders end in a slash."""
        lines = [_entry_line(entry) for entry in self.entries] or ["(empty)"]
        if self.truncated:
            lines.append("(more entries not shown; look into one folder, or use search_files)")
        return "\n".join(lines)


class FoundNames(Listing):
    """Entries with a matching name."""

    def as_text(self) -> str:
        """Return one entry per line; without entries, a hint to search the contents instead."""
        if self.entries or self.truncated:
            return super().as_text()
        return "no file or folder has such a name; search_text looks into the files"


class TextWindow(ToolResult):
    """Lines of a text file."""

    path: str
    text: str
    first_line: int = Field(description="Number of the first line in text; lines count from 1.")
    last_line: int = Field(description="Number of the last line in text; 0 if text is empty.")
    total_lines: int
    truncated: bool = Field(description="Whether the file has lines after last_line, or a line was cut.")

    def as_text(self) -> str:
        """A header with the line numbers, then the text."""
        header = f"{shown(self.path)}: {self.total_lines} lines"
        if (self.first_line, self.last_line) != (1, self.total_lines) and self.last_line:
            header += f", here {self.first_line} to {self.last_line}"
        if self.truncated and self.last_line < self.total_lines:
            header += f"; go on with offset={self.last_line + 1}"
        elif self.truncated:
            header += "; the line is too long and was cut"
        return f"{header}\n{self.text}"


class FileInfo(ToolResult):
    """Facts about one file or folder."""

    path: str
    kind: Kind
    size_bytes: int
    modified: str = Field(description="Time of the last change, ISO 8601, UTC.")
    lines: int | None = Field(description="Number of lines; null if it is not a text file.")
    entries: int | None = Field(description="Number of entries; null if it is not a folder.")

    def as_text(self) -> str:
        """Return one fact per line."""
        facts = [shown(self.path), f"kind: {self.kind}", f"size: {self.size_bytes} bytes"]
        facts += [f"lines: {self.lines}"] if self.lines is not None else []
        facts += [f"entries: {self.entries}"] if self.entries is not None else []
        return "\n".join([*facts, f"modified: {self.modified}"])


class TextMatch(BaseModel):
    """A matching line."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    line: int
    text: str = Field(description="The line; one of more than 200 characters is cut and ends in \u2026.")


class TextMatches(ToolResult):
    """Lines that match, in path order."""

    matches: list[TextMatch]
    searched_files: int
    skipped_files: int = Field(description="Binary or large files that were not searched.")
    ignored_entries: int = Field(
        description="Files and folders that .gitignore or .ignore files left out; git's own among them."
    )
    unusable_ignore_files: int = Field(
        description="Of those files, links, too large ones and such that are no text."
    )
    truncated: bool
    case_ignored: bool = Field(
        default=False, description="Nothing matched as it is written: these lines match in another case."
    )
    named: list[str] = Field(
        default_factory=list[str],
        description="Where no line matches: some files and folders whose name contains the text.",
    )

    def as_text(self) -> str:
        """`path:line: text`, as grep prints it, then counts and notes."""
        lines = [f"{shown(match.path)}:{match.line}: {match.text}" for match in self.matches]
        lines = lines or [f"no match in {self.searched_files} files"]
        if self.named:
            lines.append(f"(in names: {', '.join(map(shown, self.named))})")
        if len(self.matches) > 1 and not self.truncated:
            lines.append(f"({len(self.matches)} lines)")
        if self.case_ignored:
            lines.append("(in another case than asked for)")
        if self.ignored_entries:
            lines.append(
                f"({self.ignored_entries} files or folders left out by .gitignore or as git's own; "
                "ignored=true searches them too)"
            )
        if self.unusable_ignore_files:
            lines.append(f"({self.unusable_ignore_files} .gitignore files could not be used)")
        if self.truncated:
            lines.append("(stopped at a limit; search a smaller folder or a rarer text)")
        return "\n".join(lines)


class Change(ToolResult):
    """Result of a tool that changes files."""

    path: str
    change: str
    diff: str = Field(default="", description="Unified diff of an edit, cut to 100 lines.")

    def as_text(self) -> str:
        """The change in words, then the diff."""
        return f"{self.change}: {shown(self.path)}" + (f"\n{self.diff}" if self.diff else "")


def _entry_line(entry: Entry) -> str:
    name = shown(entry.path)
    if entry.kind == "folder":
        return f"{name}/"
    return f"{name} ({entry.size_bytes} bytes)" if entry.kind == "file" else f"{name} ({entry.kind})"
