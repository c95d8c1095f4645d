"""Measure an agent on cases of your own: a case is data, a scorer is a function, and a score has an interval.

`python score_your_own_cases.py local` measures the model in this process instead of a stand-in.
"""

import asyncio
import sys

from agentkit import Agent, ModelResponse, TextPart, ToolReturnPart
from agentkit.testing import FunctionModel, call
from evals.case import Case, Run, Score
from evals.harness.solving import run_agent
from evals.statistics import mean_interval

PRICES = {"spade": "24.90", "rake": "18.90", "seed box": "15.90", "bird house": "27.50"}
CASES = [Case(id=name, prompt=f"What does a {name} cost?", target=price) for name, price in PRICES.items()]


def price(product: str) -> str:
    """Return the price of a product in euros."""
    return PRICES.get(product, "there is no such product")


def score(case: Case, run: Run) -> Score:
    """Return 1 if the answer names the price, and the price was looked up."""
    if not run.calls:
        return Score(0.0, "the price was not looked up")
    if case.target not in str(run.output):
        return Score(0.0, f"expected {case.target}, the answer is {run.output!r}")
    return Score(1.0)


def stand_in(messages, parameters) -> ModelResponse:
    """Stand for a model that looks up the last word of the question, so it finds no name of two words."""
    last = messages[-1].parts[-1]
    if isinstance(last, ToolReturnPart):
        return ModelResponse((TextPart(f"It costs {last.content} euros."),))
    return ModelResponse((call("price", product=last.content.split()[-2]),))


agent = Agent(sys.argv[1] if len(sys.argv) > 1 else FunctionModel(stand_in), tools=[price])


async def scores() -> dict[str, Score]:
    """Run the agent on every case."""
    return {case.id: score(case, await run_agent(case, agent)) for case in CASES}


scored = asyncio.run(scores())
for name, each in scored.items():
    print(f"{name:12} {each.value:.0f} {each.explanation}")
print("share of right answers with its 95 % interval:", mean_interval([each.value for each in scored.values()]))

if len(sys.argv) == 1:
    assert [name for name, each in scored.items() if each.value == 1] == ["spade", "rake"]
