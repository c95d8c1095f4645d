"""Child process that opens the store: one request, one transaction, one answer.

The file is untrusted input: a damaged full-text index has crashed SQLite before, and reading one checks no
deadline. So a process that can be killed opens it. Killing it, or the whole machine, in the middle of a change
leaves the state before the change.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mcp_servers.child import answer_requests
from mcp_servers.failures import ToolFailure
from mcp_servers.memory import changes, reading, records
from mcp_servers.memory.policy import Limits
from mcp_servers.memory.store_file import transaction

READS: dict[str, Callable[..., dict[str, Any]]] = {
    "read_graph": reading.read_graph,
    "open_nodes": reading.open_nodes,
    "search_nodes": reading.search_nodes,
    "list_changes": reading.list_changes,
    "find_records": records.find_records,
    "list_records": records.list_records,
}
ADDITIONS: dict[str, Callable[..., None]] = {
    "remember": changes.create_entities,
    "create_entities": changes.create_entities,
    "create_relations": changes.create_relations,
    "add_observations": changes.add_observations,
    "add_record": records.add_record,
}
DELETIONS: dict[str, Callable[..., None]] = {
    "delete_entities": changes.delete_entities,
    "delete_observations": changes.delete_observations,
    "delete_relations": changes.delete_relations,
    "delete_records": records.delete_records,
}


def handle(request: dict[str, Any]) -> dict[str, Any]:
    """Answer `{"do": tool, "path": ..., "read_only": ..., "limits": {...}, "arguments": {...}}`.

    Raises:
        ToolFailure: The store or the arguments do not allow the operation; nothing was changed.
    """
    do, path, limits = request["do"], Path(request["path"]), Limits(**request["limits"])
    if do == "check":
        return check(path, limits, request["read_only"])
    if do in READS:
        with transaction(path, limits, write=False, read_only_file=request["read_only"]) as connection:
            return READS[do](connection, limits, **request["arguments"])
    with transaction(path, limits, write=True, deleting=do in DELETIONS) as connection:
        call = changes.Call(connection, do)
        (ADDITIONS | DELETIONS)[do](call, **request["arguments"])
        return call.answer()


def check(path: Path, limits: Limits, read_only: bool) -> dict[str, Any]:
    """Check the whole file: its pages, the CHECKs of every row, the full-text index.

    Raises:
        ToolFailure: The file is another program's, or damaged.
    """
    with transaction(path, limits, write=False, read_only_file=read_only) as connection:
        (finding,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if finding != "ok":
        raise ToolFailure(f"The store is damaged: {finding}. Restore a copy.")
    return {}


def main() -> None:
    """Answer the parent's requests."""
    answer_requests(handle)
