"""Trace a run without its secrets: keys and passwords of known forms are replaced before a line is written."""

import tempfile
from pathlib import Path

from agentkit import Agent
from agentkit.testing import ScriptedModel, call

TOKEN = "ghp_" + "a1B2c3D4e5" * 4  # the form of an access token, so that the redaction knows it


def read_settings() -> str:
    """Read the settings."""
    return f"host: db.internal\ntoken: {TOKEN}"


with tempfile.TemporaryDirectory() as folder:
    model = ScriptedModel([call("read_settings"), "The host is db.internal."])
    agent = Agent(model, tools=[read_settings], trace=folder)
    result = agent.run_sync("Which host do we use?")
    trace = (Path(folder) / f"{result.run_id}.jsonl").read_text(encoding="utf-8")

print([line[:70] for line in trace.splitlines() if "[secret]" in line])
assert "db.internal" in trace
assert "[secret]" in trace
assert TOKEN not in trace
