"""Servers of the comparison of served agents: each serves the same agent on a port of this machine.

A server runs in its own process, by the interpreter of its environment, which holds one peer and nothing of this
project: all imports except the standard library's are inside the functions. All run on uvicorn with asyncio's loop
and httptools, this project's with its own limits, without access logs. The agent's model follows a script: one
call of `add`, then an answer in `PIECES`. The port and the version are printed as JSON when the server accepts
requests.

    python -P evals/speed/serving_agents_worker.py agentkit-memory
"""

# pyright: reportMissingImports=false
# The peers are installed in separate environments.
from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentkit import Agent

PROMPT = "What is the sum of 40 and 2?"
INSTRUCTION = "Add with the tool."
TOOL, ARGUMENTS, RESULT = "add", {"a": 40, "b": 2}, 42
PIECES = ("The ", "sum ", "is ", "42.")
"""Pieces in which the model's answer arrives."""
ADK_APP = "adder"


async def add(a: int, b: int) -> int:
    """Add two integers.

    Args:
        a: First number.
        b: Second number.
    """
    return a + b


def agentkit_agent() -> Agent[None, str]:
    """Return this project's agent."""
    from agentkit import Agent, ModelResponse
    from agentkit.messages import ModelMessage, TextPart, ToolCallPart, ToolReturnPart
    from agentkit.models.base import ModelRequestParameters, OnDelta, TextDelta, ToolCallDelta
    from agentkit.testing.models import NamedModel

    arguments = json.dumps(ARGUMENTS)

    class Scripted(NamedModel):
        async def request(
            self,
            messages: Sequence[ModelMessage],
            parameters: ModelRequestParameters,
            *,
            on_delta: OnDelta | None = None,
        ) -> ModelResponse:
            has_result = isinstance(messages[-1].parts[-1], ToolReturnPart)
            if on_delta is not None:
                for piece in PIECES if has_result else ():
                    on_delta(TextDelta(piece))
                if not has_result:
                    on_delta(ToolCallDelta(0, TOOL, arguments))
            return ModelResponse((TextPart("".join(PIECES)) if has_result else ToolCallPart(TOOL, arguments),))

    return Agent(Scripted("scripted"), tools=[add], instructions=INSTRUCTION)


def agentkit_durable(folder: Path) -> Any:
    """Return this project's application with its journal in a SQLite file, in a process as of `agentkit serve`."""
    from agentkit.serving import app
    from agentkit.serving.garbage import collect_seldom

    made = app(agentkit_agent(), journal=folder / "runs.db")
    collect_seldom()
    return made


def agentkit_memory(folder: Path) -> Any:
    """Return this project's application with journal and sessions in memory."""
    from agentkit.persistence import InMemoryCheckpointer, InMemorySession
    from agentkit.serving import app
    from agentkit.serving.garbage import collect_seldom

    sessions: dict[str, InMemorySession] = {}
    made = app(
        agentkit_agent(),
        journal=InMemoryCheckpointer(),
        session_of=lambda name: sessions.setdefault(name, InMemorySession(name)),
    )
    collect_seldom()
    return made


def pydantic_ai(folder: Path) -> Any:
    """Return a Starlette application whose route is answered by pydantic-ai's AG-UI adapter."""
    from pydantic_ai import Agent
    from pydantic_ai.messages import ToolReturnPart
    from pydantic_ai.models.function import DeltaToolCall, FunctionModel
    from pydantic_ai.ui.ag_ui import AGUIAdapter
    from starlette.applications import Starlette
    from starlette.routing import Route

    async def scripted(messages: list[Any], info: Any) -> AsyncIterator[Any]:
        if not isinstance(messages[-1].parts[-1], ToolReturnPart):
            yield {0: DeltaToolCall(TOOL, json.dumps(ARGUMENTS))}
            return
        for piece in PIECES:
            yield piece

    model = FunctionModel(stream_function=scripted, model_name="scripted")
    agent: Any = Agent(model, tools=[add], instructions=INSTRUCTION)

    async def answer(request: Any) -> Any:
        return await AGUIAdapter.dispatch_request(request, agent=agent)

    return Starlette(routes=[Route("/ag-ui", answer, methods=["POST"])])


def google_adk(folder: Path) -> Any:
    """Return the application of `adk api_server`, with sessions in memory that a request creates."""
    from google.adk.agents import LlmAgent
    from google.adk.cli.fast_api import get_fast_api_app
    from google.adk.cli.utils.base_agent_loader import BaseAgentLoader
    from google.adk.models import BaseLlm, LlmResponse
    from google.genai import types

    def said(part: Any, *, partial: bool | None = None) -> Any:
        return LlmResponse(content=types.Content(role="model", parts=[part]), partial=partial)

    class Scripted(BaseLlm):
        async def generate_content_async(self, llm_request: Any, stream: bool = False) -> AsyncIterator[Any]:
            if llm_request.contents[-1].parts[-1].function_response is None:
                yield said(types.Part(function_call=types.FunctionCall(name=TOOL, args=ARGUMENTS)))
                return
            for piece in PIECES:
                yield said(types.Part(text=piece), partial=True)
            yield said(types.Part(text="".join(PIECES)), partial=False)

    agent = LlmAgent(name=ADK_APP, model=Scripted(model="scripted"), tools=[add], instruction=INSTRUCTION)

    class Loader(BaseAgentLoader):
        def load_agent(self, agent_name: str) -> Any:
            return agent

        def list_agents(self) -> list[str]:
            return [ADK_APP]

    return get_fast_api_app(
        agents_dir=str(folder),
        agent_loader=Loader(),
        session_service_uri="memory://",
        artifact_service_uri="memory://",
        use_local_storage=False,
        auto_create_session=True,
        web=False,
    )


OURS = "agentkit-modelstack"
SERVERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "agentkit-durable": (OURS, agentkit_durable),
    "agentkit-memory": (OURS, agentkit_memory),
    "pydantic-ai": ("pydantic-ai-slim", pydantic_ai),
    "google-adk": ("google-adk", google_adk),
}
"""Package and application by the name of a server."""


def settings_of(package: str) -> dict[str, Any]:
    """Return uvicorn's settings: those of `agentkit serve`, or its own choice of a parser, httptools."""
    if package != OURS:
        return {"log_level": "warning", "access_log": False}
    from mcp_servers.uvicorn_settings import uvicorn_settings

    return uvicorn_settings()


async def serve(name: str, folder: Path) -> None:
    """Serve an application until the process is killed."""
    import uvicorn

    package, build = SERVERS[name]
    server = uvicorn.Server(uvicorn.Config(build(folder), loop="asyncio", **settings_of(package)))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        serving = asyncio.create_task(server.serve([listener]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        if server.started:
            print(json.dumps({"port": listener.getsockname()[1], "version": version(package)}), flush=True)
        await serving


def main() -> int:
    """Serve; return 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server", choices=list(SERVERS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(serve(options.server, Path(folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
