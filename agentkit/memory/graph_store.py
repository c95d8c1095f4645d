"""Memories in the file of the MCP server `memory`, which both may use at the same time.

A user's memories are the observations of one entity, with the user's name. The shared scope is the rest of the
graph: each observation that the server's clients wrote is a memory, with the name of its entity before it. The
server has no users: its clients see all memories.

The file is opened by the server's own child process, with its limits and checks (`mcp_servers.memory.worker`).
The history of the file is append-only, so forgotten text stays in it. A record that this class did not write has
an unknown origin, and is tainted.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

from agentkit.errors import UserError
from agentkit.memory.ranking import query_words
from agentkit.memory.store import (
    MemoryMatch,
    MemoryRecord,
    MemoryStore,
    MemoryStoreError,
    checked_label,
    checked_user,
    clean_text,
)
from mcp_servers.child import ChildCrash, ChildTimeout, KillableChild
from mcp_servers.failures import StartError, ToolFailure
from mcp_servers.memory.policy import MAX_NAME_CHARS, MAX_QUERY_WORDS, Limits
from mcp_servers.memory.records import SCOPE_KIND
from mcp_servers.memory.schema import APPLICATION_ID
from mcp_servers.memory.store_file import (
    APPLICATION_ID_AT,
    HEADER_BYTES,
    MAGIC,
    create_if_absent,
)

WORKER = "mcp_servers.memory.worker"
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyz0123456789.,_@+-")
GRACE_S = 3.0
"""Seconds beyond waiting and working: starting the child process, and latency of the disk."""
SHARED_ENTITY = "agentkit"
"""Entity of the shared scope that holds the memories of agents without a user."""
SHARED_KIND = "agent"
MAX_FILTERED = 1_000
"""Memories that are read to select tainted or trusted ones: the mark is in the history, not in an index."""
SERVER_ORIGIN = "the memory server"
"""Origin of a record that the server's clients wrote."""


def is_graph_file(path: str | Path) -> bool:
    """Return whether a file is a store of the MCP server `memory`."""
    try:
        with Path(path).expanduser().open("rb") as file:
            header = file.read(HEADER_BYTES)
    except OSError:
        return False
    id_bytes = header[APPLICATION_ID_AT : APPLICATION_ID_AT + 4]
    return header.startswith(MAGIC) and int.from_bytes(id_bytes, "big") == APPLICATION_ID


class GraphMemoryStore(MemoryStore):
    """Stores memories in the knowledge graph of the MCP server `memory`."""

    def __init__(self, path: str | Path, *, limits: Limits | None = None) -> None:
        """Set the file, which is created on first use if it does not exist.

        Args:
            path: File of the server, as for `agentkit-mcp memory FILE`.
            limits: Limits of the file and of one operation; None: those of the server.
        """
        self._path = Path(path).expanduser().resolve()
        self._limits = limits or Limits()
        self._child = KillableChild(WORKER)
        self._lock = threading.Lock()
        self._is_checked = False

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    def close(self) -> None:
        """Stop the child process; the next use starts one."""
        self._child.close()

    async def add(
        self,
        user: str | None,
        text: str,
        *,
        kind: str = "fact",
        run_id: str | None = None,
        tainted: bool = False,
        origin: str = "application",
    ) -> MemoryRecord:
        """Store a memory and return it; see `MemoryStore.add`. A known text keeps its mark."""
        text, scope = clean_text(text), _scope(user)
        note: dict[str, Any] = {
            "kind": checked_label("kind", kind),
            "run": None if run_id is None else checked_label("run_id", run_id),
            "tainted": tainted,
            "origin": checked_label("origin", origin),
        }
        name, entity_kind = (scope, SCOPE_KIND) if scope else (SHARED_ENTITY, SHARED_KIND)
        await self._ask("add_record", name=name, kind=entity_kind, text=text, note=json.dumps(note))
        found = await self._found("list_records", user, limit=1, offset=0, entity=name, text=text)
        if not found:
            raise MemoryStoreError(f"memory file {str(self._path)!r}: the memory was deleted while it was added.")
        return found[0]

    async def get(self, user: str | None, id: str) -> MemoryRecord | None:
        """Return a memory of the user; see `MemoryStore.get`."""
        if (number := _number(id)) is None:
            return None
        found = await self._found("list_records", user, limit=1, offset=0, id=number)
        return found[0] if found else None

    async def search(
        self, user: str | None, query: str, *, limit: int = 10, tainted: bool | None = None
    ) -> Sequence[MemoryMatch]:
        """Return the user's memories that share words with a text; see `MemoryStore.search`."""
        words = query_words(query)[:MAX_QUERY_WORDS]
        n_read = max(0, limit) if tainted is None else MAX_FILTERED
        found = await self._found("find_records", user, words=words, limit=n_read)
        kept = [record for record in found if tainted is None or record.tainted is tainted][: max(0, limit)]
        return [MemoryMatch(record, 1 / (1 + rank)) for rank, record in enumerate(kept)]

    async def list(
        self, user: str | None, *, limit: int = 100, offset: int = 0, tainted: bool | None = None
    ) -> Sequence[MemoryRecord]:
        """Return the user's memories, newest first; see `MemoryStore.list`.

        With `tainted`, only the newest `MAX_FILTERED` memories are considered.
        """
        limit, offset = max(0, limit), max(0, offset)
        if tainted is None:
            return await self._found("list_records", user, limit=limit, offset=offset)
        found = await self._found("list_records", user, limit=MAX_FILTERED, offset=0)
        return [record for record in found if record.tainted is tainted][offset : offset + limit]

    async def forget(self, user: str | None, id: str) -> bool:
        """Delete a memory of the user; the history of the file keeps its text. See `MemoryStore.forget`."""
        if (number := _number(id)) is None:
            return False
        deleted = await self._ask("delete_records", scope=_scope(user), ids=[number], everything=False)
        return deleted["observations"] > 0

    async def forget_user(self, user: str | None) -> int:
        """Delete all memories of the user; the history of the file keeps their text.

        Those of the shared scope are the whole graph but for the users' memories.
        """
        deleted = await self._ask("delete_records", scope=_scope(user), ids=[], everything=True)
        return deleted["observations"]

    async def _found(self, do: str, user: str | None, **arguments: Any) -> list[MemoryRecord]:
        answer = await self._ask(do, scope=_scope(user), **arguments)
        return [_record(row, user) for row in answer["records"]]

    async def _ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Perform one operation in the child process.

        Raises:
            UserError: the operation exceeds a limit of the file, such as observations of an entity.
            MemoryStoreError: the file cannot be used.
        """
        from anyio.to_thread import run_sync

        return await run_sync(partial(self._answer, do, arguments))

    def _answer(self, do: str, arguments: dict[str, Any]) -> dict[str, Any]:
        request = {
            "do": do,
            "path": str(self._path),
            "read_only": False,
            "limits": asdict(self._limits),
            "arguments": arguments,
        }
        try:
            with self._lock:
                if not self._is_checked:
                    create_if_absent(self._path)
                    self._is_checked = True
            return self._child.call(request, 2 * self._limits.timeout_s + GRACE_S)
        except (StartError, ToolFailure) as failure:
            raise MemoryStoreError(f"memory file {str(self._path)!r}: {failure}") from failure
        except (ChildTimeout, ChildCrash) as error:
            raise MemoryStoreError(
                f"memory file {str(self._path)!r}: the process that reads it ended without an answer. A change is "
                f"stored as a whole or not at all; `agentkit-mcp memory` checks the file when it starts."
            ) from error


def _scope(user: str | None) -> str:
    """Return the entity of a user; empty for the shared scope.

    The file compares names without case and in one Unicode form, and users may differ in these alone. So every
    character that this could change is written as its bytes.

    Raises:
        UserError: the name cannot be that of an entity.
    """
    name = checked_user(user)
    if name is None:
        return ""
    plain = (char if char in _PLAIN else "".join(f"%{byte:02x}" for byte in char.encode()) for char in name)
    entity = f"user {''.join(plain)}"
    if len(entity) > MAX_NAME_CHARS:
        raise UserError(
            f"user={name[:60]!r} becomes the entity {entity[:60]!r}... of {len(entity)} characters; an entity's "
            f"name has at most {MAX_NAME_CHARS}. Give a shorter id in a-z and 0-9."
        )
    return entity


def _number(id: str) -> int | None:
    """Return the row of a record's id; None if it is no id of this store."""
    digits = id.removeprefix("m")
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 19 else None


def _record(row: dict[str, Any], user: str | None) -> MemoryRecord:
    note = _note_of(row["note"])
    is_own = row["kind"] in (SCOPE_KIND, SHARED_KIND)
    return MemoryRecord(
        id=f"m{row['id']}",
        user=user,
        text=row["text"] if is_own else f"{row['name']}: {row['text']}",
        kind=str(note.get("kind") or row["kind"]),
        created=_time_of(row["at"]),
        run_id=note.get("run"),
        tainted=bool(note.get("tainted", True)),
        origin=str(note.get("origin") or SERVER_ORIGIN),
        recalled=None,
    )


def _note_of(text: str) -> dict[str, Any]:
    try:
        note: Any = json.loads(text) if text else {}
    except ValueError:
        return {}
    return cast("dict[str, Any]", note) if isinstance(note, dict) else {}


def _time_of(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0
