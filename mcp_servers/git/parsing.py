"""Parsers for git's machine formats: status porcelain v2, log records, numstat, blame porcelain, references."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from mcp_servers.hidden import decoded

MAX_FIELD_BYTES = 20_000
"""Bytes read of a name, subject or line: far more than is shown, since a subject may be as long as a file."""
_CHANGES = {
    "M": "modified", "T": "type changed", "A": "added", "D": "deleted", "R": "renamed", "C": "copied",
}  # fmt: skip
LOG_FIELDS = ("%H", "%P", "%an", "%ae", "%aI", "%D", "%s")
LOG_FORMAT = "--format=tformat:" + "%x00".join(LOG_FIELDS)
REFERENCE_FORMAT = "--format=" + "%00".join(
    ("%(refname)", "%(objectname)", "%(upstream:short)", "%(HEAD)", "%(committerdate:iso-strict)",
     "%(contents:subject)")
)  # fmt: skip


@dataclass
class StatusFacts:
    """Parsed output of `git status --porcelain=v2 --branch -z`."""

    branch: str = ""
    """Name of the current branch; empty if HEAD is detached."""
    commit: str = ""
    """Object name of HEAD; empty before the first commit."""
    upstream: str = ""
    ahead: int = 0
    behind: int = 0
    staged: list[tuple[str, str, str]] = field(default_factory=list)
    """Staged changes as (path, change, path before)."""
    unstaged: list[tuple[str, str, str]] = field(default_factory=list)
    untracked: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)


def parse_status(output: bytes) -> StatusFacts:
    """Parse the status; an incomplete last record is dropped."""
    facts = StatusFacts()
    records = iter(output.split(b"\0")[:-1])
    for record in records:
        kind, _, rest = _text(record).partition(" ")
        if kind == "#":
            _take_header(facts, rest)
        elif kind == "1":
            states, path = rest[:2], rest.split(" ", 7)[-1]
            _take_change(facts, states, path, "")
        elif kind == "2":
            states, path = rest[:2], rest.split(" ", 8)[-1]
            _take_change(facts, states, path, _text(next(records, b"")))
        elif kind == "u":
            facts.conflicts.append(rest.split(" ", 9)[-1])
        elif kind == "?":
            facts.untracked.append(rest)
    return facts


def _take_header(facts: StatusFacts, rest: str) -> None:
    name, _, value = rest.partition(" ")
    if name == "branch.oid":
        facts.commit = "" if value == "(initial)" else value
    elif name == "branch.head":
        facts.branch = "" if value == "(detached)" else value
    elif name == "branch.upstream":
        facts.upstream = value
    elif name == "branch.ab":
        ahead, behind = value.split()
        facts.ahead, facts.behind = int(ahead), -int(behind)


def _take_change(facts: StatusFacts, states: str, path: str, before: str) -> None:
    for state, changes in zip(states, (facts.staged, facts.unstaged), strict=True):
        if state != ".":
            changes.append((path, _CHANGES.get(state, state), before if state in "RC" else ""))


def parse_log(output: bytes) -> Iterator[dict[str, str]]:
    """Yield the commits of a log in `LOG_FORMAT` with `-z`."""
    fields = output.split(b"\0")
    names = ("commit", "parents", "author", "email", "date", "refs", "subject")
    for start in range(0, len(fields) - len(names) + 1, len(names)):
        record = fields[start : start + len(names)]
        yield {name: _text(field) for name, field in zip(names, record, strict=True)}


def parse_numstat(output: bytes) -> Iterator[tuple[str, str, int, int, bool]]:
    """Yield (path, path before, lines added, lines deleted, is binary) of `--numstat -z`."""
    records = iter(output.split(b"\0")[:-1])
    for record in records:
        parts = record.split(b"\t", 2)
        if len(parts) < 3:
            continue
        added, deleted, path = parts
        before = b""
        if not path:  # a rename: both paths follow
            before, path = next(records, b""), next(records, b"")
        is_binary = added == b"-"
        n_added, n_deleted = (0, 0) if is_binary else (int(added), int(deleted))
        yield _text(path), _text(before), n_added, n_deleted, is_binary


def parse_references(output: bytes) -> Iterator[dict[str, str]]:
    """Yield the references of a list in `REFERENCE_FORMAT`."""
    names = ("name", "commit", "upstream", "head", "date", "subject")
    for line in output.split(b"\n"):
        fields = line.split(b"\0")
        if len(fields) == len(names):
            yield {name: _text(field) for name, field in zip(names, fields, strict=True)}


def parse_blame(output: bytes) -> Iterator[dict[str, str]]:
    """Yield the lines of `git blame --line-porcelain`: commit, author, author-time, summary, line, text."""
    known: dict[str, str] = {}
    for raw in output.split(b"\n"):
        if raw.startswith(b"\t"):
            yield {**known, "text": _text(raw[1:])}
            known = {}
            continue
        key, _, value = _text(raw).partition(" ")
        if not known:
            known = {"commit": key, "line": value.split(" ")[1] if value.count(" ") else ""}
        else:
            known[key] = value


def _text(data: bytes) -> str:
    """Return a field without hidden characters, cut to `MAX_FIELD_BYTES`."""
    return decoded(data[:MAX_FIELD_BYTES])
