"""The memory tools as a model sees them; `changes.py` and `reading.py` implement them in a child process.

Names and arguments are those of the reference server (modelcontextprotocol/servers, `memory`), nested lists
included, so that prompts and programs written for it work. Every object is closed, and `create_entities` also
accepts new observations of an existing entity, which the reference silently drops.

`remember` is for small models. In 12 requests like "Remember that Felix speaks Dutch" the embedded 135M model put
the fact and its subject into the right arguments of a nested call 0 times (it fills `entityType`). With `remember`
it did so 10 times with 3 tools offered, and 9 times with all 11.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

from mcp.server.lowlevel.server import Server
from pydantic import BaseModel, ConfigDict, Field

from mcp_servers.child import ChildCrash, ChildTimeout, KillableChild
from mcp_servers.failures import StartError, ToolFailure
from mcp_servers.memory.policy import (
    MAX_ITEMS,
    Limits,
    check_texts,
    clean_label,
    clean_name,
    clean_text,
    search_words,
)
from mcp_servers.memory.resources import EntityResources
from mcp_servers.memory.results import Added, Deleted, Graph, History, Matches, Nodes
from mcp_servers.memory.store_file import create_if_absent
from mcp_servers.strict import ADDS, CHANGES, READS, strict_server, strict_tool

NAME = "agentkit-memory"
INSTRUCTIONS = (
    "A memory that stays: entities (people, things, ideas), observations of them and relations between them. "
    "search_nodes finds entities, open_nodes shows all that is known of them."
)
WRITABLE = " Save what should be kept with remember."
READ_ONLY = " Nothing can be changed."
WORKER = "mcp_servers.memory.worker"
# Seconds beyond waiting and working: starting the child, and disk latency.
GRACE_S = 3.0
# Checking a full store of 64 MiB takes 0.7 s on a busy core.
CHECK_TIMEOUT_S = 60.0

Name = Annotated[str, Field(min_length=1, description="Name of an entity.")]
Texts = Annotated[list[str], Field(max_length=MAX_ITEMS, description="Short facts.")]
SomeTexts = Annotated[list[str], Field(min_length=1, max_length=MAX_ITEMS, description="Short facts.")]
Names = Annotated[list[str], Field(min_length=1, max_length=MAX_ITEMS, description="Names of entities.")]
# SQLite's largest integer.
LARGEST = 2**63 - 1
Offset = Annotated[int, Field(ge=0, le=LARGEST, description="From the last answer; 0 at first.")]


class _Argument(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class NewEntity(_Argument):
    """An entity with observations of it."""

    name: Name
    kind: Annotated[str, Field(alias="entityType", min_length=1, description="Like 'person'.")]
    observations: Texts = []

    def cleaned(self) -> dict[str, Any]:
        """Return the arguments in the worker's format."""
        return {
            "name": clean_name(self.name),
            "kind": clean_label(self.kind, "entityType"),
            "texts": [clean_text(text) for text in self.observations],
        }


class RelationArgument(_Argument):
    """A relation between two entities."""

    source: Annotated[str, Field(alias="from", min_length=1, description="Entity where it starts.")]
    relation: Annotated[str, Field(alias="relationType", min_length=1, description="Like 'works at'.")]
    target: Annotated[str, Field(alias="to", min_length=1, description="Entity where it ends.")]

    def cleaned(self) -> dict[str, str]:
        """Return the arguments in the worker's format."""
        return {
            "source": clean_name(self.source),
            "relation": clean_label(self.relation, "relationType"),
            "target": clean_name(self.target),
        }


class NewObservations(_Argument):
    """Observations for an entity."""

    name: Annotated[str, Field(alias="entityName", min_length=1, description="Name of an entity.")]
    texts: Annotated[SomeTexts, Field(alias="contents")]

    def cleaned(self) -> dict[str, Any]:
        """Return the arguments in the worker's format."""
        return {"name": clean_name(self.name), "texts": [clean_text(text) for text in self.texts]}


class OldObservations(_Argument):
    """Observations of an entity."""

    name: Annotated[str, Field(alias="entityName", min_length=1, description="Name of an entity.")]
    texts: Annotated[SomeTexts, Field(alias="observations")]

    def cleaned(self) -> dict[str, Any]:
        """Return the arguments in the worker's format."""
        return {"name": clean_name(self.name), "texts": [clean_text(text) for text in self.texts]}


class Store:
    """The tools of one store."""

    def __init__(self, path: str, limits: Limits, child: KillableChild, *, read_only: bool) -> None:
        """Serve the file at `path` from `child`."""
        self._path = path
        self._limits = limits
        self._child = child
        self._read_only = read_only

    def read_graph(self, after: Offset = 0) -> Graph:
        """List the whole memory, page by page."""
        return Graph(**self.ask("read_graph", after=after))

    def search_nodes(
        self, query: Annotated[str, Field(min_length=1, description="A few words.")], offset: Offset = 0
    ) -> Matches:
        """Search the memory for entities by words in their names, kinds and observations."""
        return Matches(**self.ask("search_nodes", words=search_words(query), offset=offset))

    def open_nodes(self, names: Names, offset: Offset = 0) -> Nodes:
        """Show everything that is known about entities."""
        return Nodes(**self.ask("open_nodes", names=[clean_name(name) for name in names], offset=offset))

    def list_changes(
        self,
        entity: Annotated[str, Field(description="Only changes of this entity; empty: all.")] = "",
        before: Offset = 0,
    ) -> History:
        """List past additions and deletions, latest first."""
        return History(**self.ask("list_changes", name=entity and clean_name(entity), before=before))

    def remember(
        self,
        name: Annotated[str, Field(min_length=1, description="Who or what the fact is about.")],
        fact: Annotated[str, Field(min_length=1, description="One short fact.")],
        kind: Annotated[str, Field(min_length=1, description="Kind of a new entity, like 'person'.")] = "thing",
    ) -> Added:
        """Save a new fact about a person, thing or idea."""
        entity = NewEntity.model_validate({"name": name, "entityType": kind, "observations": [fact]})
        return Added(**self.ask("remember", entities=[entity.cleaned()]))

    def create_entities(
        self, entities: Annotated[list[NewEntity], Field(min_length=1, max_length=MAX_ITEMS)]
    ) -> Added:
        """Add entities, each with its observations."""
        check_texts(sum(len(entity.observations) for entity in entities))
        return Added(**self.ask("create_entities", entities=[entity.cleaned() for entity in entities]))

    def create_relations(
        self, relations: Annotated[list[RelationArgument], Field(min_length=1, max_length=MAX_ITEMS)]
    ) -> Added:
        """Add relations between entities that exist."""
        return Added(**self.ask("create_relations", relations=[relation.cleaned() for relation in relations]))

    def add_observations(
        self, observations: Annotated[list[NewObservations], Field(min_length=1, max_length=MAX_ITEMS)]
    ) -> Added:
        """Add observations to entities that exist."""
        check_texts(sum(len(wanted.texts) for wanted in observations))
        return Added(**self.ask("add_observations", observations=[wanted.cleaned() for wanted in observations]))

    def delete_entities(self, entityNames: Names) -> Deleted:
        """Delete entities with their observations and relations."""
        return Deleted(**self.ask("delete_entities", names=[clean_name(name) for name in entityNames]))

    def delete_observations(
        self, deletions: Annotated[list[OldObservations], Field(min_length=1, max_length=MAX_ITEMS)]
    ) -> Deleted:
        """Delete observations of entities."""
        check_texts(sum(len(wanted.texts) for wanted in deletions))
        return Deleted(**self.ask("delete_observations", deletions=[wanted.cleaned() for wanted in deletions]))

    def delete_relations(
        self, relations: Annotated[list[RelationArgument], Field(min_length=1, max_length=MAX_ITEMS)]
    ) -> Deleted:
        """Delete relations between entities."""
        return Deleted(**self.ask("delete_relations", relations=[relation.cleaned() for relation in relations]))

    def check(self) -> None:
        """Check the whole file.

        Raises:
            ToolFailure: The store is damaged or not a store.
        """
        self._ask(replace(self._limits, timeout_s=CHECK_TIMEOUT_S), "check", {})

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Perform one operation in the child process.

        Raises:
            ToolFailure: The operation failed.
        """
        return self._ask(self._limits, do, arguments)

    def _ask(self, limits: Limits, do: str, arguments: dict[str, Any]) -> dict[str, Any]:
        request = {
            "do": do,
            "path": self._path,
            "read_only": self._read_only,
            "limits": asdict(limits),
            "arguments": arguments,
        }
        try:
            return self._child.call(request, 2 * limits.timeout_s + GRACE_S)
        except ChildTimeout as error:
            raise ToolFailure(
                "This took too long and was stopped; it is saved as a whole or not at all. Look with open_nodes."
            ) from error
        except ChildCrash as error:
            raise ToolFailure("Reading the store failed; it may be damaged. Tell the user.") from error


def build_server(path: str, *, read_only: bool = False, limits: Limits | None = None) -> Server[Any]:
    """Return a server for the store at `path`; it can be passed to `mcp.Client` as it is.

    Raises:
        StartError: The file is not a valid store, or is missing and cannot be created.
    """
    resolved = Path(path).resolve()
    if not read_only:
        create_if_absent(resolved)
    child = KillableChild(WORKER)
    store = Store(str(resolved), limits or Limits(), child, read_only=read_only)
    try:
        store.check()
    except ToolFailure as failure:
        raise StartError(f"{path!r}: {failure}") from failure
    finally:
        child.close()  # a server without clients keeps no child process
    reading = (store.search_nodes, store.open_nodes, store.read_graph, store.list_changes)
    tools = [strict_tool(tool, READS) for tool in reading]
    if not read_only:
        adding = (store.remember, store.create_entities, store.create_relations, store.add_observations)
        deleting = (store.delete_entities, store.delete_observations, store.delete_relations)
        tools += [strict_tool(tool, ADDS) for tool in adding]
        tools += [strict_tool(tool, CHANGES) for tool in deleting]
    instructions = INSTRUCTIONS + (READ_ONLY if read_only else WRITABLE)
    offered = EntityResources(store.read_graph, store.open_nodes)
    return strict_server(
        NAME,
        instructions=instructions,
        tools=tools,
        on_close=child.close,
        resources=offered.resources(),
        prompts=offered.prompts(),
    )
