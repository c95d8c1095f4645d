"""Improve an agent's prompt on tasks of your own: a search, then a gate on tasks that the search never saw.

On the command line: `agentkit improve run app.py:agent --tasks tasks.jsonl --out better`.
"""

import re
import tempfile
from pathlib import Path

import anyio

from agentkit import Agent, ModelResponse, TextPart, ToolReturnPart
from agentkit.improve import BudgetLimits, Call, Checks, GateOptions, ImproveOptions, Task, Wanted, improve
from agentkit.improve.folder import ImprovementFolder
from agentkit.testing import FunctionModel, call

PRICES = {f"model {number}": 1_000 + 7 * number for number in range(40)}


def price(shelf: str, product: str) -> str:
    """Return the price of a product on a shelf."""
    return str(PRICES[product]) if shelf == "garden-2" else "there is no such shelf"


def stand_in(messages, parameters) -> ModelResponse:
    """Stand for a model that does not know the shelf, and learns it from the examples of its prompt."""
    system, last = messages[0].parts[0], messages[-1].parts[-1]
    if isinstance(last, ToolReturnPart):
        return ModelResponse((TextPart(f"The price is {last.content}."),))
    shown = re.search(r'shelf="([\w-]+)"', system.content)
    [product] = re.findall(r"model \d+", last.content)
    return ModelResponse((call("price", shelf=shown.group(1) if shown else "garden", product=product),))


agent = Agent(FunctionModel(stand_in), tools=[price], instructions="You sell garden tools.")
tasks = [
    Task(
        id=product,
        prompt=f"What does {product} cost?",
        checks=Checks(answer_number=euros),
        solution=(Call(name="price", arguments={"shelf": "garden-2", "product": product}),),
    )
    for product, euros in PRICES.items()
]
with tempfile.TemporaryDirectory() as name:
    options = ImproveOptions(budget=BudgetLimits(rollouts=100), gate=GateOptions(max_cost_increase=1.0))
    version = anyio.run(improve, Wanted(agent, tasks), Path(name), options)
    verdict = version.verdict
    assert verdict is not None  # None: the search found nothing better
    print(f"held-back tasks right: {verdict.current:.2f}, then {verdict.candidate:.2f} of {verdict.n}")
    print(f"gain {verdict.gain:+.2f} ({verdict.low:+.2f} to {verdict.high:+.2f}), ships: {verdict.ships}")
    better = agent.improved(name)
    print(better.run_sync("What does model 33 cost?").output)
    assert verdict.ships and better.run_sync("What does model 7 cost?").output == "The price is 1049."

    ImprovementFolder(Path(name)).roll_back()
    assert (
        agent.improved(name).run_sync("What does model 7 cost?").output == "The price is there is no such shelf."
    )
