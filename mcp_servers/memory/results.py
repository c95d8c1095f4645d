"""Results of the memory tools: fields for programs, short plain text for the model.

`entities` and `relations` have the format of the reference server, so that its client programs can read them.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from mcp_servers.memory.policy import shown
from mcp_servers.strict import ToolResult


class _Part(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_by_name=True, validate_by_alias=True, serialize_by_alias=True
    )


class Entity(_Part):
    """A person, thing or idea."""

    name: str
    kind: str = Field(alias="entityType")
    observations: list[str]
    more: int = Field(description="Observations and relations that are not shown here.")

    def as_lines(self) -> list[str]:
        """The name and kind, then one observation a line."""
        lines = [f"{shown(self.name)} ({shown(self.kind)})", *(f"- {shown(text)}" for text in self.observations)]
        return [*lines, f"({self.more} more; open_nodes shows them)"] if self.more else lines


class Relation(_Part):
    """A directed relation between two entities."""

    source: str = Field(alias="from")
    relation: str = Field(alias="relationType")
    target: str = Field(alias="to")

    def as_line(self) -> str:
        """`from -> relation -> to`."""
        return f"{shown(self.source)} -> {shown(self.relation)} -> {shown(self.target)}"


class Graph(ToolResult):
    """A page of the whole store."""

    entities: list[Entity]
    relations: list[Relation] = Field(description="That start at these entities.")
    total_entities: int
    total_observations: int
    total_relations: int
    next_after: int = Field(description="`after` for the next page; 0 if this is the last.")

    def as_text(self) -> str:
        """The counts, then entities, then relations."""
        counts = _counted(self.total_entities, self.total_observations, self.total_relations)
        go_on = f"(more entities; go on with after={self.next_after})" if self.next_after else ""
        return _joined([counts or "nothing is known yet", *_graph_lines(self.entities, self.relations), go_on])


class Nodes(ToolResult):
    """Entities with all their observations and relations."""

    entities: list[Entity]
    relations: list[Relation] = Field(description="That start or end at these entities.")
    missing: list[str] = Field(description="Names that there are not, the first 20.")
    more_missing: int
    next_offset: int = Field(description="`offset` for the next page; 0 if this is the last.")

    def as_text(self) -> str:
        """Entities, then relations, then missing names."""
        missing = _list_of("not found: ", self.missing, self.more_missing)
        go_on = f"(more; go on with offset={self.next_offset})" if self.next_offset else ""
        return _joined([*_graph_lines(self.entities, self.relations), missing, go_on])


class Match(_Part):
    """An entity that a search found."""

    name: str
    kind: str = Field(alias="entityType")
    snippet: str = Field(description="Of its observations, matches in brackets.")

    def as_line(self) -> str:
        """Name, kind and snippet."""
        return f"{shown(self.name)} ({shown(self.kind)})" + (f": {shown(self.snippet)}" if self.snippet else "")


class Matches(ToolResult):
    """Entities that a search found, the best first."""

    matches: list[Match]
    total: int
    every_word: bool = Field(description="Whether they have all words; else each has some.")
    next_offset: int = Field(description="`offset` for the next page; 0 if this is the last.")

    def as_text(self) -> str:
        """Return one match per line."""
        if not self.total:
            return "nothing found"
        note = "" if self.every_word else "(none has all the words; these have some)"
        go_on = f"({self.total} in all; go on with offset={self.next_offset})" if self.next_offset else ""
        return (
            _joined([note, *(match.as_line() for match in self.matches), go_on]) or f"no more; {self.total} found"
        )


class Change(ToolResult):
    """Numbers of changed items of a call."""

    entities: int
    observations: int
    relations: int
    unchanged: list[str]
    more_unchanged: int = Field(description="How many are not named in unchanged.")

    def _text(self, done: str, unchanged: str) -> str:
        changed = _counted(self.entities, self.observations, self.relations)
        return _joined(
            [f"{done} {changed or 'nothing'}", _list_of(unchanged, self.unchanged, self.more_unchanged)]
        )


class Added(Change):
    """Additions of a call, and items that existed already."""

    unchanged: list[str] = Field(description="What was there already, the first 20.")

    def as_text(self) -> str:
        """The counts, then the items that existed already."""
        return self._text("added", "there already: ")


class Deleted(Change):
    """Deletions of a call, and items that did not exist."""

    unchanged: list[str] = Field(description="What was not found, the first 20.")

    def as_text(self) -> str:
        """The counts, then the items not found."""
        return self._text("deleted", "not found: ")


class HistoryEntry(_Part):
    """An addition or deletion."""

    id: int
    call: int = Field(description="The same for everything that one call changed.")
    at: str = Field(description="UTC, ISO 8601.")
    tool: str
    change: str = Field(description="added or deleted.")
    what: str = Field(description="entity, observation or relation.")
    name: str = Field(description="The entity; of a relation, where it starts.")
    content: str = Field(description="The kind, the text, or the relation.")
    target: str = Field(description="Where a relation ends; else empty.")

    def as_line(self) -> str:
        """Number, time, tool (its name implies added or deleted) and content."""
        head = f"{self.id} {shown(self.at)} {shown(self.tool)}: {shown(self.what)} "
        if self.what == "relation":
            return head + f"{shown(self.name)} -> {shown(self.content)} -> {shown(self.target)}"
        between = f" ({shown(self.content)})" if self.what == "entity" else f": {shown(self.content)}"
        return head + shown(self.name) + between


class History(ToolResult):
    """Additions and deletions, latest first."""

    changes: list[HistoryEntry]
    next_before: int = Field(description="`before` for the next page; 0 if this is the last.")

    def as_text(self) -> str:
        """Return one change per line."""
        go_on = f"(earlier changes: go on with before={self.next_before})" if self.next_before else ""
        return _joined([*(change.as_line() for change in self.changes), go_on]) or "no changes"


def _graph_lines(entities: Sequence[Entity], relations: Sequence[Relation]) -> list[str]:
    return [line for entity in entities for line in entity.as_lines()] + [
        relation.as_line() for relation in relations
    ]


def _list_of(label: str, items: Sequence[str], more: int) -> str:
    return label + "; ".join(items) + (f"; and {more} more" if more else "") if items else ""


def _joined(lines: Sequence[str]) -> str:
    return "\n".join(line for line in lines if line)


def _counted(entities: int, observations: int, relations: int) -> str:
    counts = (("entity", "entities", entities), ("observation", "observations", observations))
    counts += (("relation", "relations", relations),)
    return ", ".join(f"{count} {one if count == 1 else many}" for one, many, count in counts if count)
