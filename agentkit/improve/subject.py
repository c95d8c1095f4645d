"""The agent that is improved: the facts that decide its rollouts, and its copies for them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from agentkit.agent import Agent
from agentkit.context import RunContext
from agentkit.improve.pieces import Pieces, description_sha256
from agentkit.improve.staging import Staging
from agentkit.improve.tasks import Task
from agentkit.models.base import Model
from agentkit.tools.definition import ToolDefinition
from agentkit.tools.tool import Tool
from agentkit.tools.toolset import Toolset

DepsT = TypeVar("DepsT")
OutputT = TypeVar("OutputT")


@dataclass(frozen=True, slots=True)
class AgentFacts:
    """Facts about an agent that decide its rollouts."""

    name: str | None
    model: str
    """Name of the model, with its adapter."""
    instructions: str | None
    """Instructions as declared; "" without any, None if they are a function."""
    tools: tuple[ToolDefinition, ...]
    trusted_tools: frozenset[str]
    """Names of the tools whose results are trusted."""
    settings: str
    """Settings and limits as text."""

    def shown(self) -> dict[str, Any]:
        """Return the facts as JSON, for a record."""
        return {
            "name": self.name,
            "model": self.model,
            "instructions": self.instructions,
            "tools": [each.name for each in self.tools],
            "tools_sha256": description_sha256(
                repr([(t.name, t.description, t.parameters_json_schema) for t in self.tools])
            ),
            "settings": self.settings,
        }

    @property
    def identity(self) -> str:
        """Hash of the facts."""
        return description_sha256(repr(self.shown()))


def model_identity(model: Model) -> str:
    """Return the name of a model, with name and hash of its adapter."""
    return model.name if model.adapter is None else f"{model.name} + {model.adapter}"


async def agent_facts(agent: Agent[Any, Any], toolsets: Sequence[Toolset] | None = None) -> AgentFacts:
    """Return the facts of an agent, after listing its tools.

    Args:
        agent: The agent.
        toolsets: Toolsets in place of the agent's; None keeps those.
    """
    declared = agent._declared  # pyright: ignore[reportPrivateUsage]
    own = declared.current_toolsets()
    sources = own if toolsets is None else (declared.functions, *toolsets)
    tools: list[Tool] = []
    async with AsyncExitStack() as stack:
        for source in sources:
            await stack.enter_async_context(source)
            tools += await source.list_tools(RunContext(None))
    instructions = declared.instructions
    return AgentFacts(
        name=declared.name,
        model=model_identity(declared.current_model()),
        instructions=None if callable(instructions) else instructions or "",
        tools=tuple(tool.definition for tool in tools),
        trusted_tools=frozenset(tool.name for tool in tools if not tool.is_untrusted),
        settings=repr((declared.settings, declared.limits, declared.retries, declared.code_mode is not None)),
    )


def rollout_agent(agent: Agent[DepsT, OutputT], pieces: Pieces, model: Model | None) -> Agent[DepsT, OutputT]:
    """Return an agent with pieces for a rollout: without the agent's journal, traces and listeners.

    Args:
        agent: The agent.
        pieces: The candidate.
        model: The model that the candidate names, so that it is loaded once; None: the agent's own.
    """
    other = agent.improved(pieces)
    declared = other._declared  # pyright: ignore[reportPrivateUsage]
    other._declared = replace(  # pyright: ignore[reportPrivateUsage]
        declared,
        model=model or declared.model,
        checkpointer=None,
        trace=None,
        telemetry=None,
        on_event=None,
    )
    return other


async def staged_facts(staging: Staging, task: Task) -> AgentFacts:
    """Return the facts of the agent in the surroundings of a task."""
    async with staging(task) as stage:
        return await agent_facts(stage.agent, stage.toolsets)
