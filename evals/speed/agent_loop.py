"""CPU time of one step of the agent loop, compared with other SDKs; the model takes no time.

Every SDK runs the same task: N steps, each one call of an async tool `add(a, b)`, then a text answer. The measured
time is the framework's own work; its growth with N shows whether a step becomes more expensive in a longer run.
CPU time (`time.process_time`) is measured, because wall time on a shared machine is not comparable. Each figure is
the median of `--repeats` runs after a warm-up run. Each SDK runs in its own process, all in one environment that
the script creates in `--env` (the peers are not dependencies of this project).

    python -m evals.speed.agent_loop
    python -m evals.speed.agent_loop --only agentkit     # no peers, no environment
"""

# pyright: reportMissingImports=false
# The peers are installed in a separate environment.
from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from evals.speed.peers import peer_python, printed_by
from evals.speed.results import (
    BenchmarkResult,
    Comparison,
    Curves,
    Figure,
    add_result_option,
    write_result,
)

STEPS = (10, 50, 200)
PEERS = ("pydantic-ai-slim==2.68.0", "openai-agents==0.24.0", "smolagents==1.26.0", "langgraph==1.2.24")
OWN_PACKAGES = ("anyio", "docstring-parser", "pydantic", "typing-extensions")
"""Packages that agentkit needs in the peers' environment."""
LIMIT_MS = 0.25
"""Maximum CPU milliseconds per step of agentkit."""
LIMIT_GROWTH = 1.2
"""Maximum cost of a step at N=200 relative to N=10."""

RunOnce = Callable[[int], Awaitable[None]]


async def add(a: int, b: int) -> int:
    """Add two integers.

    Args:
        a: First number.
        b: Second number.
    """
    return a + b


def agentkit_run() -> RunOnce:
    """Return the task for agentkit."""
    from agentkit import Agent, ModelResponse, UsageLimits
    from agentkit.messages import TextPart, ToolCallPart
    from agentkit.testing import FunctionModel

    async def run(n: int) -> None:
        def model(messages: Any, parameters: Any) -> ModelResponse:
            if len(messages) // 2 < n:
                # Different numbers in each step, because the runtime does not repeat a call whose result did not
                # change.
                return ModelResponse((ToolCallPart("add", f'{{"a": 1, "b": {100 + len(messages)}}}'),))
            return ModelResponse((TextPart("done"),))

        agent = Agent(FunctionModel(model), tools=[add], limits=UsageLimits(request_limit=None))
        result = await agent.run("add many times")
        assert (result.output, result.usage.tool_calls) == ("done", n)

    return run


def pydantic_ai_run() -> RunOnce:
    """Return the task for pydantic-ai."""
    from pydantic_ai import Agent, ModelResponse, TextPart, ToolCallPart, UsageLimits
    from pydantic_ai.models.function import FunctionModel

    async def run(n: int) -> None:
        def model(messages: Any, info: Any) -> Any:
            if len(messages) // 2 < n:
                return ModelResponse(parts=[ToolCallPart("add", {"a": 1, "b": 2})])
            return ModelResponse(parts=[TextPart("done")])

        agent = Agent(FunctionModel(model), tools=[add])
        result = await agent.run("add many times", usage_limits=UsageLimits(request_limit=None))
        assert (result.output, result.usage.tool_calls) == ("done", n)

    return run


def openai_agents_run() -> RunOnce:
    """Return the task for openai-agents, tracing off."""
    from agents import Agent, Runner, function_tool, set_tracing_disabled
    from agents.items import ModelResponse
    from agents.models.interface import Model
    from agents.usage import Usage
    from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText

    set_tracing_disabled(True)
    tool = function_tool(add)

    class Fake(Model):
        def __init__(self, n: int) -> None:
            self.n, self.step = n, 0

        async def get_response(self, *args: Any, **kwargs: Any) -> Any:
            self.step += 1
            if self.step <= self.n:
                item: Any = ResponseFunctionToolCall(
                    arguments='{"a": 1, "b": 2}', call_id=f"c{self.step}", name="add", type="function_call"
                )
            else:
                text = ResponseOutputText(annotations=[], text="done", type="output_text", logprobs=[])
                item = ResponseOutputMessage(
                    id="m", content=[text], role="assistant", status="completed", type="message"
                )
            return ModelResponse(output=[item], usage=Usage(), response_id=None)

        def stream_response(self, *args: Any, **kwargs: Any) -> Any:
            raise NotImplementedError

    async def run(n: int) -> None:
        model = Fake(n)
        result = await Runner.run(Agent(name="a", model=model, tools=[tool]), "add many times", max_turns=n + 5)
        assert (result.final_output, model.step) == ("done", n + 1)

    return run


def smolagents_run() -> RunOnce:
    """Return the task for smolagents' ToolCallingAgent, log level off."""
    from smolagents import ToolCallingAgent, tool
    from smolagents.models import (
        ChatMessage,
        ChatMessageToolCall,
        ChatMessageToolCallFunction,
        MessageRole,
        Model,
    )
    from smolagents.monitoring import LogLevel

    @tool
    def add(a: int, b: int) -> int:
        """Add two integers.

        Args:
            a: First number.
            b: Second number.
        """
        return a + b

    class Fake(Model):
        def __init__(self, n: int) -> None:
            super().__init__()
            self.n, self.step = n, 0

        def generate(self, *args: Any, **kwargs: Any) -> Any:
            self.step += 1
            name, arguments = "add", {"a": 1, "b": 2}
            if self.step > self.n:
                name, arguments = "final_answer", {"answer": "done"}
            function = ChatMessageToolCallFunction(name=name, arguments=arguments)
            call = ChatMessageToolCall(id=f"c{self.step}", type="function", function=function)
            return ChatMessage(role=MessageRole.ASSISTANT, content="", tool_calls=[call])

    async def run(n: int) -> None:
        model = Fake(n)
        agent = ToolCallingAgent(tools=[add], model=model, verbosity_level=LogLevel.OFF, max_steps=n + 5)
        assert (agent.run("add many times"), model.step) == ("done", n + 1)

    return run


def langgraph_agent(n: int, checkpointer: Any = None) -> tuple[Any, Any]:
    """Return langgraph's prebuilt ReAct agent for N steps, and its model."""
    import warnings

    from langchain_core.language_models.chat_models import BaseChatModel
    from langchain_core.messages import AIMessage
    from langchain_core.outputs import ChatGeneration, ChatResult
    from langchain_core.tools import tool

    warnings.simplefilter("ignore")
    from langgraph.prebuilt import create_react_agent

    wrapped = tool(add)

    class Fake(BaseChatModel):
        n: int
        step: int = 0

        @property
        def _llm_type(self) -> str:
            return "fake"

        def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
            return self

        def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
            self.step += 1
            if self.step <= self.n:
                call = {"name": "add", "args": {"a": 1, "b": 2}, "id": f"c{self.step}", "type": "tool_call"}
                message = AIMessage(content="", tool_calls=[call])
            else:
                message = AIMessage(content="done")
            return ChatResult(generations=[ChatGeneration(message=message)])

        async def _agenerate(self, *args: Any, **kwargs: Any) -> Any:
            return self._generate(*args, **kwargs)

    model = Fake(n=n)
    return create_react_agent(model, [wrapped], checkpointer=checkpointer), model


def langgraph_run() -> RunOnce:
    """Return the task for langgraph's prebuilt ReAct agent, without a checkpointer."""
    langgraph_agent(1)  # the imports

    async def run(n: int) -> None:
        graph, model = langgraph_agent(n)
        result = await graph.ainvoke({"messages": [("user", "add")]}, {"recursion_limit": 3 * n + 20})
        assert (result["messages"][-1].content, model.step) == ("done", n + 1)

    return run


SDKS: dict[str, Callable[[], RunOnce]] = {
    "agentkit": agentkit_run,
    "pydantic-ai": pydantic_ai_run,
    "openai-agents": openai_agents_run,
    "smolagents": smolagents_run,
    "langgraph": langgraph_run,
}


def measure(name: str, repeats: int) -> dict[str, float]:
    """Return CPU milliseconds per step for each N of `STEPS`, measured in this process."""
    run = SDKS[name]()

    async def one(n: int) -> float:
        start = time.process_time()
        await run(n)
        return (time.process_time() - start) / n * 1e3

    async def all_sizes() -> dict[str, float]:
        await run(STEPS[-1])
        # A short run is repeated more often, so that every figure covers the same number of steps.
        return {str(n): statistics.median([await one(n) for _ in range(repeats * STEPS[-1] // n)]) for n in STEPS}

    return asyncio.run(all_sizes())


def main() -> int:
    """Measure, print the table, and return 1 if a bound is broken, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=sorted(SDKS), help="measure one SDK in the current environment")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--env", type=Path, default=Path(".venv-peers"), help="environment of the peers")
    parser.add_argument("--json", action="store_true", help="print figures as JSON and nothing else")
    add_result_option(parser)
    options = parser.parse_args()
    if options.json:
        print(json.dumps(measure(options.only, options.repeats)))
        return 0
    names = [options.only] if options.only else list(SDKS)
    python = Path(sys.executable)
    if not options.only:
        try:
            python = peer_python(options.env, (*PEERS, *OWN_PACKAGES))
        except subprocess.CalledProcessError as error:
            print(f"the peers cannot be installed (pip ended with {error.returncode}); agentkit alone is measured")
            names = ["agentkit"]
    figures: dict[str, dict[str, float]] = {}
    for name in names:
        arguments = ("--only", name, "--json", "--repeats", str(options.repeats))
        try:
            figures[name] = printed_by(python, "evals.speed.agent_loop", *arguments)
        except RuntimeError as error:
            print(f"{name}: {error}")
    write_result(options.result, to_result(figures, options.repeats))
    return report(figures)


def to_result(figures: dict[str, dict[str, float]], repeats: int) -> BenchmarkResult:
    """Convert the figures to the common result type."""
    ours = figures.get("agentkit", {})
    bounds: tuple[Figure, ...] = ()
    if ours:
        growth = ours[str(STEPS[-1])] / ours[str(STEPS[0])]
        bounds = (
            Figure("CPU time of a step, worst N", max(ours.values()), "ms", bound=LIMIT_MS),
            Figure(f"growth of a step, N={STEPS[-1]} to N={STEPS[0]}", growth, "x", bound=LIMIT_GROWTH),
        )
    last = {name: row[str(STEPS[-1])] for name, row in figures.items()}
    lines = {name: tuple(row[str(n)] for n in STEPS) for name, row in figures.items()}
    title = "CPU time of a step of the agent loop"
    missing = [name for name in SDKS if name not in figures]
    return BenchmarkResult(
        figures=bounds,
        comparisons=(Comparison(f"{title}, N={STEPS[-1]}", "ms", "agentkit", last),),
        curves=(Curves(title, "steps of the run", "CPU time of a step (ms)", tuple(map(float, STEPS)), lines),),
        parameters={"repeats": str(repeats)},
        notes=(f"not measured: {', '.join(missing)}",) if missing else (),
    )


def report(figures: dict[str, dict[str, float]]) -> int:
    """Print the table; return 1 if a bound is broken, else 0."""
    ours = figures.get("agentkit", {})
    print(f"CPU ms a step, Python {sys.version.split()[0]}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(
        f"{'SDK':16}"
        + "".join(f"{'N=' + str(n):>10}" for n in STEPS)
        + f"{'growth':>9}{'x agentkit at N=200':>22}"
    )
    for name, row in figures.items():
        values = [row[str(n)] for n in STEPS]
        ratio = values[-1] / ours[str(STEPS[-1])] if ours else float("nan")
        print(f"{name:16}" + "".join(f"{v:10.3f}" for v in values) + f"{values[-1] / values[0]:9.2f}{ratio:22.1f}")
    if not ours:
        return 1
    worst = max(ours.values())
    growth = ours[str(STEPS[-1])] / ours[str(STEPS[0])]
    good = worst <= LIMIT_MS and growth <= LIMIT_GROWTH
    print(
        f"agentkit: worst {worst:.3f} ms (bound {LIMIT_MS}), growth {growth:.2f} (bound {LIMIT_GROWTH}): "
        f"{'ok' if good else 'BROKEN'}"
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
