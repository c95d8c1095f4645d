"""Serve an agent over HTTP, follow a run to a call that waits, approve it, and read on from the last event.

`agentkit serve serve_an_agent.py:make_agent` serves it on a port. Needs the extra `serve`.
"""

import json
import tempfile
from collections.abc import Sequence
from typing import Any

from starlette.testclient import TestClient

from agentkit import Agent, ModelMessage, ModelResponse, TextPart, tool
from agentkit.models.base import ModelRequestParameters
from agentkit.serving import app
from agentkit.testing import FunctionModel, call


def decide(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
    """Stand for a model: pay, then say so."""
    has_paid = any(isinstance(message, ModelResponse) for message in messages)
    return ModelResponse((TextPart("The invoice is paid.") if has_paid else call("pay", invoice=7),))


def make_agent() -> Agent:
    """Return an agent that asks before it pays."""

    @tool(requires_approval=True)
    def pay(invoice: int) -> str:
        """Pay an invoice."""
        return f"paid {invoice}"

    return Agent(FunctionModel(decide), tools=[pay], name="accountant")


def main() -> None:
    """Be a client of the agent; the test client stands for a server and its address."""
    with tempfile.TemporaryDirectory() as folder:
        served = app(make_agent(), journal=f"{folder}/runs.db")
        with TestClient(served) as client:
            run_id = client.post("/runs", json={"prompt": "Pay invoice 7."}).json()["run_id"]
            told = events(client, run_id, after=0)
            [asked] = client.get(f"/runs/{run_id}").json()["pending"]
            print(f"{asked['tool_name']} {asked['arguments']}: {asked['reason']}")
            decision = {"decision": "approve", "tool_call_id": asked["tool_call_id"], "digest": asked["digest"]}
            client.post(f"/runs/{run_id}/decisions", json={"decisions": [decision]}).raise_for_status()
            told += events(client, run_id, after=told[-1]["number"])
    print(told[-1]["output"])
    assert [event["number"] for event in told] == list(range(1, len(told) + 1)), "lost or doubled"


def events(client: TestClient, run_id: str, after: int) -> list[dict[str, Any]]:
    """Read the events of a run behind a number, until it ends or waits."""
    text = client.get(f"/runs/{run_id}/events", headers={"Last-Event-ID": str(after)}).text
    return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]


if __name__ == "__main__":
    main()
