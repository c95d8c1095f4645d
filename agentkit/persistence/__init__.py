"""Persistent runs and conversations: journals, sessions, and their stored form."""

from agentkit.persistence.checkpointer import Checkpointer, EventCheckpointer, RunJournal, RunSummary, StoredRun
from agentkit.persistence.in_memory_checkpointer import InMemoryCheckpointer
from agentkit.persistence.postgres_checkpointer import PostgresCheckpointer
from agentkit.persistence.postgres_session import PostgresSession
from agentkit.persistence.session import InMemorySession, Session, SessionHistory
from agentkit.persistence.sqlite_checkpointer import SQLiteCheckpointer
from agentkit.persistence.sqlite_session import SQLiteSession
from agentkit.persistence.stored_state import state_from_json, state_to_json

__all__ = [
    "Checkpointer",
    "EventCheckpointer",
    "InMemoryCheckpointer",
    "InMemorySession",
    "PostgresCheckpointer",
    "PostgresSession",
    "RunJournal",
    "RunSummary",
    "SQLiteCheckpointer",
    "SQLiteSession",
    "Session",
    "SessionHistory",
    "StoredRun",
    "state_from_json",
    "state_to_json",
]
