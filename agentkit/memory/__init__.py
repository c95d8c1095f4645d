"""Memory over conversations: the toolset, its stores, and the rules that write memories."""

from agentkit.memory.graph_store import GraphMemoryStore
from agentkit.memory.rules import ExtractedFacts, MemoryRule, explicit_statements
from agentkit.memory.sqlite_store import SQLiteMemoryStore
from agentkit.memory.store import MemoryMatch, MemoryRecord, MemoryStore, MemoryStoreError
from agentkit.memory.toolset import Memory

__all__ = [
    "ExtractedFacts",
    "GraphMemoryStore",
    "Memory",
    "MemoryMatch",
    "MemoryRecord",
    "MemoryRule",
    "MemoryStore",
    "MemoryStoreError",
    "SQLiteMemoryStore",
    "explicit_statements",
]
