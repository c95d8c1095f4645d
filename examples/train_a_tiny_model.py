"""Train a language model from scratch in seconds, write it as a GGUF file, and use it in an agent.

On the command line: `modelstack train RECIPE.toml`, then `modelstack export gguf RUN/model orders.gguf`.
"""

import json
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from rich.console import Console

from agentkit import Agent, ModelSettings
from modelstack.architecture.checkpoint import load_checkpoint
from modelstack.architecture.gguf.export import export_gguf
from modelstack.recipe_file import checked_recipe
from modelstack.tokenizer.gguf_tokenizer import gguf_fields
from modelstack.tokenizer.tokenizer_folder import load_tokenizer
from modelstack.train.metrics import read_metrics
from modelstack.train.run.launch import launch
from modelstack.train.run.recipe import RunRecipe, resolve

ORDERS = """
SELECT customers.name || ' of ' || city || ' ordered ' || quantity || ' ' || products.name || ' on ' || day || '.'
FROM orders JOIN customers ON customers.id = customer_id JOIN products ON products.id = product_id
"""

with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    with closing(sqlite3.connect(Path(__file__).parent / "shop.db")) as shop:
        lines = [json.dumps({"text": sentence}) + "\n" for (sentence,) in shop.execute(ORDERS)]
    (folder / "orders.jsonl").write_text("".join(lines))

    recipe = {
        "name": "orders",
        "steps": 60,
        "rows": 4,
        "device": "cpu",
        "threads": 1,  # a model of this size gains nothing from more
        "data": {"text": [str(folder / "orders.jsonl")], "row_tokens": 64, "held_out": 0.1},
        "tokenizer": {"learn": {"vocab_size": 384}},
        "model": {"preset": "nano-2m", "config": {"num_hidden_layers": 2}},
        "optimizer": {"name": "adamw", "lr": 1e-2},
        "schedule": {"warmup_steps": 4, "decay_steps": 15},
    }
    launch(resolve(checked_recipe(RunRecipe, recipe)), folder / "run", None, Console())

    model = load_checkpoint(folder / "run/model")
    tokenizer = gguf_fields(load_tokenizer(folder / "run/model"))
    gguf = export_gguf(model.config, model.state_dict(), tokenizer, folder / "orders.gguf").path
    agent = Agent(f"local:{gguf}", settings=ModelSettings(max_tokens=20))
    print(agent.run_sync("Ada").output)

    first, *_, last = (step.losses["total"] for step in read_metrics(folder / "run/metrics.jsonl").steps)
    print(f"loss in nats per token: {first} in the first step, {last} in the last one")
    assert first and last and last < first / 2
