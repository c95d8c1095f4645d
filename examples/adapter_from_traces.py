"""Train an adapter for a small model on the good replies that a larger model gave in traced runs.

On the command line: `agentkit trace export-dataset`, then `modelstack sft RECIPE.toml`.
"""

import tempfile
from pathlib import Path

from rich.console import Console

from agentkit import Agent
from agentkit.models.catalog.entries import local_path
from agentkit.testing import ScriptedModel, call
from agentkit.tracing.export import export_examples
from modelstack.recipe_file import checked_recipe
from modelstack.sft.recipe import SftRecipe
from modelstack.sft.run import fine_tune

PRODUCTS = {
    "training": ("spade", "rake", "lantern", "seed box", "hose", "bucket", "trowel", "bird house"),
    "validation": ("ladder", "wheelbarrow"),
}


def price(product: str) -> str:
    """Return the price of a product in euros."""
    return f"{3 * len(product)}.90"


base = local_path("smollm2-135m")
with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    for part, products in PRODUCTS.items():
        for product in products:  # scripts stand for the larger model
            larger = ScriptedModel([call("price", product=product), f"It costs {price(product)} euros."])
            Agent(larger, tools=[price], trace=folder / part).run_sync(f"What does a {product} cost?")
        export_examples(folder / part, folder / f"{part}.jsonl", license_id="CC0-1.0")

    recipe = {
        "name": "prices",
        "base": str(base),
        "steps": 6,
        "rows": 1,
        "micro_batches": 1,
        "threads": 1,
        "data": {
            "training": [str(folder / "training.jsonl")],
            "validation": [str(folder / "validation.jsonl")],
            "row_tokens": 256,
            "render": {"abstain": False},  # as the agent below, whose prompt says nothing of abstaining
        },
    }
    stage = fine_tune(checked_recipe(SftRecipe, recipe), folder / "prices", Console())
    assert stage is not None  # None: the training was asked to stop
    [before], [after] = stage.record.evaluation.before, stage.record.evaluation.after
    print(f"loss on the held-back examples: {before.value:.2f}, then {after.value:.2f} nats per token")
    assert after.value < before.value

    agent = Agent(f"local:{base}?lora={folder / 'prices/adapter.gguf'}", tools=[price])
    print(agent.run_sync("What does a ladder cost?").output_or_none)
