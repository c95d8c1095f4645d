"""Measures one model in several call conventions: calls made, calls correct, and prompt tokens.

python -m evals.tool_use.own_convention.measuring MODEL.gguf [auto ours ...] [--threads N]
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from agentkit.messages import ModelRequest, UserPromptPart
from agentkit.models.base import ModelRequestParameters, ModelSettings
from agentkit.models.local.model import LocalModel
from evals.tool_use.own_convention.requests import REQUESTS, TOOLS, Request, is_right

MAX_TOKENS = 96


@dataclass(frozen=True, slots=True)
class Row:
    """Results of one model in one convention."""

    convention: str
    why: str
    n_called: int
    n_right: int
    n_prompt_tokens: float
    """Mean number of prompt tokens over the requests."""

    def __str__(self) -> str:
        """Format the row as one line of a table."""
        return (
            f"{self.convention:14} called {self.n_called:2} of {len(REQUESTS)}, right {self.n_right:2}, "
            f"{self.n_prompt_tokens:.0f} prompt tokens  ({self.why})"
        )


async def measured(model: LocalModel, requests: Sequence[Request] = REQUESTS) -> Row:
    """Send all requests to a model with greedy decoding; the model may also answer in text."""
    n_called = n_right = n_prompt = 0
    for request in requests:
        parameters = ModelRequestParameters(tools=TOOLS, settings=ModelSettings(max_tokens=MAX_TOKENS))
        response = await model.request([ModelRequest((UserPromptPart(request.text),))], parameters)
        calls = response.tool_calls
        n_called += bool(calls)
        n_right += len(calls) == 1 and is_right(request, calls[0].tool_name, calls[0].arguments_dict())
        n_prompt += response.usage.input_tokens
    name, why = model.convention
    return Row(name, why, n_called, n_right, n_prompt / len(requests))


def main() -> None:
    """Print one line per convention."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("conventions", nargs="*", default=["auto", "ours"])
    parser.add_argument("--threads", type=int, default=None)
    arguments = parser.parse_args()
    for convention in arguments.conventions:
        model = LocalModel(
            arguments.model,
            convention=convention,
            n_threads=arguments.threads,
            n_threads_prefill=arguments.threads,
        )
        print(asyncio.run(measured(model)), flush=True)
        model.close()


if __name__ == "__main__":
    main()
