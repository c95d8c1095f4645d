"""Record a run once, then replay the model's replies: the application's code runs again without a model."""

import tempfile
from pathlib import Path

from agentkit import Agent
from agentkit.testing import ReplayModel, ScriptedModel, call


def price(product: str) -> str:
    """Return the price of a product."""
    return {"spade": "24.90 euros"}[product]


with tempfile.TemporaryDirectory() as folder:
    # Record: any model; a script stands for it here.
    model = ScriptedModel([call("price", product="spade"), "A spade costs 24.90 euros."])
    recorded = Agent(model, tools=[price], trace=folder).run_sync("What does a spade cost?")
    trace = Path(folder) / f"{recorded.run_id}.jsonl"

    # Replay: the tools run again, and a request that is not the recorded one is an error.
    replayed = Agent(ReplayModel(trace), tools=[price]).run_sync("What does a spade cost?")

print(replayed.output)
assert replayed.output == recorded.output == "A spade costs 24.90 euros."
