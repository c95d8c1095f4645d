"""Prompt and first token of an agent with 1,000 tools in a window of 4,000 tokens, with the local model.

Each request opens a new conversation. The head of the prompt is in the cache, as it is in an agent that runs; the
added tools and the request are evaluated. The time to the first token is that of the whole way: search, rendering,
grammar and model. Beside it: the same with words alone, and all tools in the prompt.

    python -m evals.tool_search.prompt_cost [--model local:small] [--requests 40] [--cache FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agentkit import Agent, ModelSettings, ToolSearch
from agentkit.messages import ModelResponse
from agentkit.models.base import Model
from agentkit.models.local.model import LocalModel
from agentkit.models.resolve import resolve_model
from evals.tool_search.tool_data import Request, as_toolsets, read_requests, read_tools
from modelstack.inference.minilm import TextEmbedder, minilm
from modelstack.toolcalls.convention import ToolSpec
from modelstack.toolcalls.prompt import tools_prompt

WINDOW, MAX_PROMPT_TOKENS, MAX_FIRST_TOKEN_S = 4_000, 1_200, 0.3
"""Window of the promise, and the promise."""
N_WARM = 2
"""Requests before those that are measured: they load the model, make the index and evaluate the prompt's head."""
MAX_TOKENS = 24


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of a request."""

    prompt_tokens: int
    search_s: float
    first_token_s: float


async def measured(agent: Agent[None, str], request: Request) -> Cost:
    """Return the cost of the first model turn of a request."""
    begun = time.perf_counter()
    async with agent.iter(request.text) as run:
        await run.advance()
        searched = time.perf_counter()
        await run.advance()
        ended = time.perf_counter()
        response = run.state.last_response
    assert isinstance(response, ModelResponse) and response.decoding is not None
    return Cost(response.usage.input_tokens, searched - begun, ended - begun - response.decoding.decode_s)


async def measure(
    model: Model, embedder: TextEmbedder | None, requests: Sequence[Request], cache: Path
) -> list[Cost]:
    """Return the costs of requests, in order."""
    search = ToolSearch(*as_toolsets(read_tools()), embedder=embedder, cache=cache)
    agent = Agent(model, toolsets=[search], settings=ModelSettings(max_tokens=MAX_TOKENS))
    async with agent:
        costs = [await measured(agent, request) for request in requests]
    return costs[N_WARM:]


def line_of(title: str, costs: Sequence[Cost]) -> str:
    """Return a line of the table."""
    tokens = sorted(cost.prompt_tokens for cost in costs)
    first = sorted(cost.first_token_s for cost in costs)
    search = statistics.median(cost.search_s for cost in costs)
    return (
        f"{title:22} {statistics.median(tokens):>6.0f} / {tokens[-1]:<6} {search:>8.3f} "
        f"{statistics.median(first):>8.3f} / {first[int(0.9 * (len(first) - 1))]:.3f}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the costs with both searches, and the tokens of all definitions."""
    parser = argparse.ArgumentParser(prog="python -m evals.tool_search.prompt_cost", description=__doc__)
    parser.add_argument("--model", default="local:small")
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--cache", type=Path, help="file in which the embeddings of the tools are kept")
    options = parser.parse_args(arguments)
    requests = read_requests()[: options.requests + N_WARM]
    model = resolve_model(options.model)
    if not isinstance(model, LocalModel):
        parser.error(f"--model {options.model} runs elsewhere; its first token is that of a server")
    print(f"{options.model}, {len(requests) - N_WARM} requests, window of {WINDOW:,} tokens")
    print(f"{'':22} prompt tokens    search   first token, s")
    print(f"{'':22} median / most    s        median / p90")
    with tempfile.TemporaryDirectory() as folder:
        for title, embedder in (("words and embeddings", minilm()), ("words", None)):
            cache = options.cache or Path(folder) / "embeddings.sqlite"
            costs = asyncio.run(measure(model, embedder, requests, cache))
            print(line_of(title, costs), flush=True)
    specs = [ToolSpec(row["name"], row["description"], row["parameters"]) for row in read_tools()]
    n_all = len(model.load().vocabulary.encode(tools_prompt(specs)))
    print(f"all tools in the prompt: {n_all:,} tokens as signatures, {n_all / WINDOW:.0f} windows")
    print(f"promise: at most {MAX_PROMPT_TOKENS:,} tokens and {MAX_FIRST_TOKEN_S} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
