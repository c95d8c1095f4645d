"""agentkit models inside Inspect: `inspect eval TASK --model agentkit/local` runs any task on a local model.

Registered by an entry point, so Inspect finds it wherever this package is installed.
"""

from __future__ import annotations

import math
from typing import Any

from inspect_ai.model import ChatMessage, GenerateConfig, ModelAPI, ModelOutput, modelapi
from inspect_ai.tool import ToolChoice, ToolInfo

from agentkit.models.base import Model, ModelRequestParameters, ModelSettings, OutputSchema
from agentkit.models.resolve import resolve_model
from agentkit.tools.definition import ToolDefinition
from evals.harness.inspect_messages import from_inspect, to_output

_NOTHING_SET = GenerateConfig()
BYTES_PER_TOKEN = 3.0
"""A low estimate (English text has about 4), so that a conversation is compacted too early rather than too
late."""


@modelapi("agentkit")
def agentkit_models() -> type[ModelAPI]:
    """Return the provider class; model names after `agentkit/` are agentkit model strings."""
    return AgentkitAPI


class AgentkitAPI(ModelAPI):
    """Answers Inspect's generate calls with an agentkit model."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = _NOTHING_SET,
        **model_args: Any,
    ) -> None:
        """Resolve the model; weights load at the first request."""
        super().__init__(model_name, base_url, api_key, [], config)
        self._model: Model = resolve_model(model_name)

    def max_connections(self) -> int:
        """Return 1: a model in this process answers one request at a time."""
        return 1

    async def count_text_tokens(self, text: str) -> int:
        """Estimate the number of tokens for Inspect's compaction.

        Inspect's default would download a vocabulary.
        """
        return math.ceil(len(text.encode()) / BYTES_PER_TOKEN)

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """Generate the next message of a conversation."""
        offered = [tool for tool in tools if isinstance(tool_choice, str) or tool.name == tool_choice.name]
        wanted = tool_choice if isinstance(tool_choice, str) else "any"
        parameters = ModelRequestParameters(
            tools=tuple(_definition(tool) for tool in offered),
            tool_choice="required" if wanted == "any" else "none" if wanted == "none" else "auto",
            parallel_tool_calls=config.parallel_tool_calls is not False,
            output=_output(config),
            settings=ModelSettings(
                temperature=config.temperature,
                top_p=config.top_p,
                top_k=config.top_k,
                max_tokens=config.max_tokens,
                seed=config.seed,
                stop=tuple(config.stop_seqs or ()),
            ),
        )
        async with self._model as model:
            return to_output(await model.request(from_inspect(input), parameters))


def _definition(tool: ToolInfo) -> ToolDefinition:
    return ToolDefinition(
        tool.name, tool.description, tool.parameters.model_dump(exclude_none=True, by_alias=True)
    )


def _output(config: GenerateConfig) -> OutputSchema | None:
    if config.response_schema is None:
        return None
    schema = config.response_schema.json_schema.model_dump(exclude_none=True, by_alias=True)
    return OutputSchema(config.response_schema.name, schema)
