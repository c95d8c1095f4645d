"""Results of the git tools: fields for programs, git's own format for the model."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, Field

from mcp_servers.git.parsing import StatusFacts
from mcp_servers.hidden import on_one_line
from mcp_servers.strict import ToolResult

SHORT = 10
"""Digits of a commit's name shown to the model; in practice unique in any repository."""


class ChangedPath(BaseModel):
    """A file and its kind of change."""

    path: str
    change: str
    path_before: str = Field(description="Of a renamed file; else empty.")

    def __str__(self) -> str:
        """Change and path."""
        return f"{self.change}: " + (f"{self.path_before} -> {self.path}" if self.path_before else self.path)


class Status(ToolResult):
    """Index and working tree."""

    branch: str = Field(description="Empty where HEAD is detached.")
    commit: str = Field(description="Empty before the first commit.")
    upstream: str
    ahead: int
    behind: int
    staged: list[ChangedPath]
    unstaged: list[ChangedPath]
    untracked: list[str]
    conflicts: list[str]
    is_cut: bool = Field(description="Whether there are more files than are listed.")

    @classmethod
    def of(cls, facts: StatusFacts, max_entries: int, *, is_cut: bool) -> Status:
        """Build a status with at most `max_entries` items of each list."""
        lists: tuple[Sequence[object], ...] = (facts.staged, facts.unstaged, facts.untracked, facts.conflicts)
        return cls(
            branch=facts.branch,
            commit=facts.commit,
            upstream=facts.upstream,
            ahead=facts.ahead,
            behind=facts.behind,
            staged=[_changed(*each) for each in facts.staged[:max_entries]],
            unstaged=[_changed(*each) for each in facts.unstaged[:max_entries]],
            untracked=facts.untracked[:max_entries],
            conflicts=facts.conflicts[:max_entries],
            is_cut=is_cut or any(len(each) > max_entries for each in lists),
        )

    def as_text(self) -> str:
        """The branch, then the files grouped by state."""
        lines = [
            f"On branch {on_one_line(self.branch)}" if self.branch else f"HEAD detached at {self.commit[:SHORT]}"
        ]
        if not self.commit:
            lines.append("No commits yet")
        if self.upstream:
            lines.append(f"Upstream {on_one_line(self.upstream)}: {self.ahead} ahead, {self.behind} behind")
        for title, entries in (
            ("Conflicts", self.conflicts),
            ("Staged", self.staged),
            ("Not staged", self.unstaged),
            ("Untracked", self.untracked),
        ):
            if entries:
                lines += [f"{title}:", *(f"  {on_one_line(str(entry))}" for entry in entries)]
        if not (self.conflicts or self.staged or self.unstaged or self.untracked):
            lines.append("Nothing to commit, working tree clean")
        return "\n".join([*lines, *(["(there are more files)"] if self.is_cut else [])])


def _changed(path: str, change: str, before: str) -> ChangedPath:
    return ChangedPath(path=path, change=change, path_before=before)


class Commit(BaseModel):
    """A commit of a log."""

    commit: str
    parents: str
    author: str
    email: str
    date: str
    refs: str = Field(description="Branches and tags that point to it.")
    subject: str

    def head(self) -> str:
        """Return one line about the commit."""
        refs = f" ({self.refs})" if self.refs else ""
        return f"{self.commit[:SHORT]} {self.date} " + on_one_line(f"{self.author}{refs}: {self.subject}")


class Log(ToolResult):
    """Commits, newest first."""

    commits: list[Commit]
    page: int
    has_more: bool

    def as_text(self) -> str:
        """A line for each commit."""
        lines = [commit.head() for commit in self.commits] or ["No commits."]
        return "\n".join([*lines, *([f"(more on page {self.page + 1})"] if self.has_more else [])])


class FileChange(BaseModel):
    """Numbers of changed lines of one file."""

    path: str
    path_before: str
    added: int
    deleted: int
    is_binary: bool


class Diff(ToolResult):
    """A comparison."""

    files: list[FileChange]
    n_files: int
    patch: str
    page: int
    pages: int
    is_cut: bool = Field(description="Whether there is more than all pages show.")

    def as_text(self) -> str:
        """The patch, preceded by the list of files if it does not fit on one page."""
        if not self.n_files:
            return "No changes."
        if self.pages == 1:
            return self.patch
        lines = [f"{self.n_files} files, page {self.page} of {self.pages} of the patch."]
        if self.page == 1:
            lines += [f"  {on_one_line(each.path)}: +{each.added} -{each.deleted}" for each in self.files]
            lines.append("Ask for one path, or for the next page.")
        if self.is_cut and self.page == self.pages:
            lines.append("(the patch goes on, ask for one path)")
        return "\n".join([*lines, self.patch])


class CommitDetails(Diff):
    """A commit with its patch against its first parent."""

    commit: str
    parents: str
    author: str
    email: str
    date: str
    refs: str
    subject: str
    message: str

    def as_text(self) -> str:
        """Header, message and patch."""
        refs = f" ({on_one_line(self.refs)})" if self.refs else ""
        message = "\n".join(f"    {line}" for line in self.message.rstrip().splitlines())
        merge = "\nMerge of " + ", ".join(p[:SHORT] for p in self.parents.split()) if " " in self.parents else ""
        author = on_one_line(f"{self.author} <{self.email}>")
        head = f"commit {self.commit}{refs}\nAuthor: {author}\nDate: {self.date}{merge}"
        return f"{head}\n\n{message}\n\n{super().as_text()}"


class FileAtRevision(ToolResult):
    """A file at a commit."""

    path: str
    size: int = Field(description="Bytes.")
    is_binary: bool
    is_link: bool = Field(description="The text is then what the link points to.")
    text: str
    page: int
    pages: int

    def as_text(self) -> str:
        """The text."""
        if self.is_binary:
            return f"{self.path} is a binary file of {self.size} bytes."
        if self.is_link:
            return f"{self.path} is a link to {on_one_line(self.text)}"
        if self.pages == 1:
            return self.text or f"{self.path} is empty."
        return f"({self.path}, page {self.page} of {self.pages})\n{self.text}"


class FolderAtRevision(ToolResult):
    """A folder at a commit."""

    path: str
    entries: list[str] = Field(description="Folders end in a slash.")
    n_entries: int

    def as_text(self) -> str:
        """An entry on each line."""
        left = self.n_entries - len(self.entries)
        entries = map(on_one_line, self.entries)
        return "\n".join([*entries, *([f"(and {left} more)"] if left else [])]) or f"{self.path} is empty."


class BlamedLine(BaseModel):
    """A line and the commit that wrote it."""

    line: int
    commit: str
    author: str
    date: str
    summary: str
    text: str


class Blame(ToolResult):
    """Lines of a file."""

    path: str
    lines: list[BlamedLine]

    def as_text(self) -> str:
        """Commit, day, author, number and text of each line."""
        return "\n".join(
            f"{each.commit[:SHORT]} {each.date[:10]} {on_one_line(each.author)} {each.line}: "
            + " ".join(each.text.splitlines())
            for each in self.lines
        )


class Branch(BaseModel):
    """A branch and its newest commit."""

    name: str
    commit: str
    upstream: str
    is_current: bool
    date: str
    subject: str


class Branches(ToolResult):
    """Branches, the one with the newest commit first."""

    branches: list[Branch]
    n_branches: int

    def as_text(self) -> str:
        """A line for each branch; the current one has a star."""
        lines = [
            f"{'*' if each.is_current else ' '} {on_one_line(each.name)} {each.commit[:SHORT]} {each.date[:10]} "
            + on_one_line(each.subject)
            for each in self.branches
        ]
        left = self.n_branches - len(lines)
        return "\n".join([*lines, *([f"(and {left} more)"] if left else [])]) or "No branches yet."


class Staged(ToolResult):
    """State of the index after a change to it."""

    changed: list[str] = Field(description="Files that were staged or unstaged.")
    skipped: list[str] = Field(description="Repositories inside this one, which are never staged.")
    status: Status

    def as_text(self) -> str:
        """The changed files, then the status."""
        changed = ", ".join(map(on_one_line, self.changed))
        lines = [changed or "Nothing changed in the index."]
        if self.skipped:
            lines.append(f"Skipped, repositories of their own: {', '.join(map(on_one_line, self.skipped))}")
        return "\n".join([*lines, self.status.as_text()])


class Committed(ToolResult):
    """A new commit."""

    commit: str
    branch: str
    files: list[FileChange]

    def as_text(self) -> str:
        """The commit's name and its files."""
        names = "\n".join(f"  {on_one_line(each.path)}: +{each.added} -{each.deleted}" for each in self.files[:50])
        return f"Committed {self.commit[:SHORT]} on {on_one_line(self.branch) or 'a detached HEAD'}:\n{names}"


class Moved(ToolResult):
    """Position of HEAD after a switch."""

    branch: str
    commit: str

    def as_text(self) -> str:
        """Branch and commit."""
        return f"On branch {on_one_line(self.branch)} at {self.commit[:SHORT] or 'no commit yet'}"
