"""Results of the search tools: fields for programs, short plain text for the model."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from mcp_servers.filesystem.policy import shown
from mcp_servers.search.policy import Status
from mcp_servers.tool_result import ToolResult


class Freshness(BaseModel):
    """Age and completeness of the index."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    refreshed: str = Field(description="When the last complete refresh ended, ISO 8601, UTC; empty if none has.")
    age_s: int = Field(description="Seconds since then; 0 if none has ended.")
    is_running: bool = Field(description="Whether a refresh runs now.")
    done_files: int = Field(description="Files that the running refresh has read.")
    total_files: int = Field(description="Files that it has to read; 0 while it looks for them.")
    failure: str = Field(description="Why the last refresh failed; empty if it did not.")
    incomplete_files: int = Field(description="Files of which not all text is indexed, binary ones not counted.")
    embedding_done: int = Field(default=0, description="Passages embedded by the running pass of this server.")
    embedding_total: int = Field(default=0, description="Passages that it has to embed; 0 if none runs.")
    embedding_failure: str = Field(default="", description="Why the last pass failed; empty if it did not.")

    def as_line(self) -> str:
        """Return the state of the index in one line."""
        if self.is_running:
            progress = (
                f"{self.done_files} of {self.total_files} files read" if self.total_files else "just started"
            )
            complete = "the answer may be incomplete" if not self.refreshed else "changes may be missing"
            line = f"Index: being refreshed ({progress}); {complete}."
        elif self.refreshed:
            line = f"Index: refreshed {_ago(self.age_s)}."
        else:
            line = "Index: not built yet."
        if self.failure:
            line += f" The last refresh failed: {self.failure.rstrip('.')}."
        if self.embedding_total:
            line += f" {self.embedding_done} of {self.embedding_total} passages are embedded so far."
        if self.embedding_failure:
            line += f" Embedding failed: {self.embedding_failure.rstrip('.')}."
        if self.incomplete_files:
            line += f" {_files(self.incomplete_files)} not or partly indexed; see index_status."
        return line


class SnippetLine(BaseModel):
    """A line of a hit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    line: int = Field(description="Number of the line in the file, or in the page of a PDF.")
    text: str


class SearchHit(BaseModel):
    """A matching passage."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(description="Relative to the folder.")
    page: int = Field(description="Page of a PDF; 0 for other files.")
    first_line: int = Field(description="First line of the passage; 0 if only the file's name is indexed.")
    last_line: int
    heading: str = Field(description="Headings above the passage, outermost first; of code, what it defines.")
    score: float = Field(description="Higher is better, comparable within one answer only.")
    lines: list[SnippetLine]
    note: str = Field(description="What is special: changed or deleted since, or only the name is indexed.")

    def as_text(self) -> str:
        """`path:first-last`, then the lines."""
        page = f" page {self.page}" if self.page else ""
        place = f":{self.first_line}-{self.last_line}" if self.first_line else ""
        head = f"{shown(self.path)}{page}{place} (score {self.score:.2f})"
        head += f" {self.heading}" if self.heading else ""
        lines = [f"  {line.line}: {line.text}" for line in self.lines]
        return "\n".join([head, *([f"  ({self.note})"] if self.note else []), *lines])


class SearchResult(ToolResult):
    """Matching passages, best first."""

    hits: list[SearchHit]
    total_passages: int = Field(description="Passages that match; of each file 3 are listed, of a single one all.")
    total_files: int
    has_all_words: bool = Field(description="False if no passage has all words; these have some of them.")
    passages_by_meaning: int = Field(
        default=0, description="Passages that were ranked by meaning, too; 0 for a search by words alone."
    )
    left_out_words: int = Field(description="Words of the query beyond the first 32, which were not used.")
    page: int
    has_more: bool = Field(description="Whether there is a next page.")
    index: Freshness

    def as_text(self) -> str:
        """The hits, and the age of the index."""
        lines = [self._summary(), *(hit.as_text() for hit in self.hits)]
        if self.has_more:
            lines.append(f"(more with page={self.page + 1})")
        return "\n".join([*lines, self.index.as_line()])

    def _summary(self) -> str:
        if not self.total_passages:
            return "Nothing found. Try other or fewer words."
        count = "1 passage" if self.total_passages == 1 else f"{self.total_passages} passages"
        words = "has" if self.total_passages == 1 else "have"
        found = f"{count} in {_files(self.total_files)} {words}"
        if self.passages_by_meaning:
            text = f"The best {count} of {_files(self.total_files)}, by words and by meaning."
        elif self.has_all_words:
            text = f"{found} all words."
        else:
            text = f"No passage has all words. {found} some of them."
        if self.total_passages > self.total_files > 1:
            text += " At most 3 of a file are listed; more with path=FILE."
        if not self.hits:
            text += f" Page {self.page} is past the end."
        elif self.page > 1:
            text += f" Page {self.page}:"
        if self.left_out_words:
            text += f" ({self.left_out_words} words beyond the first 32 were not used.)"
        return text


class PassageText(ToolResult):
    """Lines of a file's current content."""

    path: str
    page: int = Field(description="Page of a PDF; 0 for other files.")
    n_pages: int = Field(description="Pages of the PDF; 0 for other files.")
    text: str
    first_line: int = Field(description="Number of the first line in text, from 1; 0 if there is none.")
    last_line: int
    total_lines: int = Field(description="Lines of the file, or of the page.")
    line_was_cut: bool = Field(description="Whether text is the beginning of one line that is too long.")

    def as_text(self) -> str:
        """A header with the line numbers, then the text."""
        page = f" page {self.page} of {self.n_pages}" if self.page else ""
        header = f"{shown(self.path)}{page}: {self.total_lines} lines"
        if self.last_line and (self.first_line, self.last_line) != (1, self.total_lines):
            header += f", here {self.first_line} to {self.last_line}"
        if self.line_was_cut:
            header += "; the line is too long and was cut"
        if self.last_line < self.total_lines:
            header += f"; go on with first_line={self.last_line + 1}"
        elif self.page < self.n_pages:
            header += f"; go on with page={self.page + 1}"
        return f"{header}\n{self.text}"


class KindCount(BaseModel):
    """Number of files with an extension."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str = Field(description="The extension; empty if there is none.")
    files: int


class LeftOut(BaseModel):
    """Entries of the folder that are not in the index, for one reason."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reason: str
    entries: int


class Problem(BaseModel):
    """A file whose text is not completely indexed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    status: Status
    problem: str


class IndexStatus(ToolResult):
    """Contents and gaps of the index."""

    index: Freshness
    files: int
    passages: int
    embedded_passages: int = Field(default=0, description="Passages with a vector, for search by meaning.")
    embedding_model: str = Field(default="", description="Model of the vectors; empty if there are none.")
    text_bytes: int
    binary_files: int = Field(description="Files of which only the name is indexed, because they are no text.")
    kinds: list[KindCount] = Field(description="The most frequent extensions.")
    left_out: list[LeftOut]
    problems: list[Problem]
    page: int = Field(description="Page of the problems.")
    has_more: bool = Field(description="Whether there are more problems.")

    def as_text(self) -> str:
        """Return one fact per line."""
        lines = [
            self.index.as_line(),
            f"{_files(self.files)}, {self.passages} passages, {self.text_bytes} bytes of text",
            *self._embeddings(),
            f"{self.binary_files} binary files, of which only the name is indexed",
            "kinds: "
            + (", ".join(f"{shown(kind.kind) or '(none)'} {kind.files}" for kind in self.kinds) or "none"),
        ]
        lines += [f"left out: {left.entries} {left.reason}" for left in self.left_out]
        lines += [f"{shown(each.path)}: {each.status}: {each.problem}" for each in self.problems]
        if self.has_more:
            lines.append(f"(more with page={self.page + 1})")
        return "\n".join(lines)

    def _embeddings(self) -> list[str]:
        if not self.embedding_model:
            return []
        return [f"{self.embedded_passages} passages have vectors of {shown(self.embedding_model)}"]


class RefreshResult(ToolResult):
    """Result of a refresh."""

    is_done: bool = Field(description="False if it goes on in the background.")
    read_files: int = Field(description="New and changed files.")
    removed_files: int = Field(description="Files that are deleted, or left out now.")
    index: Freshness

    def as_text(self) -> str:
        """The changes, and the age of the index."""
        if not self.is_done:
            return f"The refresh goes on in the background. {self.index.as_line()}"
        done = f"New or changed files read: {self.read_files}. Files taken out of the index: {self.removed_files}."
        return f"{done} {self.index.as_line()}"


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def _ago(seconds: int) -> str:
    """Return an age in the largest fitting unit, which is precise enough for a model."""
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit} ago"
    return f"{seconds} s ago"
