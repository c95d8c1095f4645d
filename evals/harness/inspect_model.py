"""An Inspect model as an agentkit model: `inspect:PROVIDER/NAME` evaluates any model that Inspect can reach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from inspect_ai.model import GenerateConfig, ResponseSchema, get_model
from inspect_ai.tool import ToolInfo, ToolParams
from inspect_ai.util import JSONSchema

from agentkit.errors import ModelError
from agentkit.messages import ModelMessage, ModelResponse
from agentkit.models.base import (
    Model,
    ModelProfile,
    ModelRequestParameters,
    ModelSettings,
    OnDelta,
    OutputSchema,
    check_model_requests_allowed,
)
from evals.harness.inspect_messages import from_output, to_inspect


class InspectModel(Model):
    """Sends requests to an Inspect model; Inspect counts the tokens and applies its own limits and retries."""

    def __init__(self, name: str) -> None:
        """Store Inspect's name of the model, for example `mockllm/model`."""
        self._name = name

    @property
    def name(self) -> str:
        """The model string, as in `agentkit eval --model`."""
        return f"inspect:{self._name}"

    @property
    def profile(self) -> ModelProfile:
        """Structured output is requested from providers that support it; decoding is not constrained here."""
        return ModelProfile(native_output=True)

    async def request(
        self,
        messages: Sequence[ModelMessage],
        parameters: ModelRequestParameters,
        *,
        on_delta: OnDelta | None = None,
    ) -> ModelResponse:
        """Generate one message without streaming.

        Raises:
            ModelError: the provider failed.
        """
        check_model_requests_allowed(self)
        tools = [_tool(t.name, t.description, t.parameters_json_schema) for t in parameters.callable_tools]
        choice = {"auto": "auto", "required": "any", "none": "none"}[parameters.tool_choice]
        try:
            output = await get_model(self._name).generate(
                to_inspect(messages),
                tools=tools,
                tool_choice=choice if tools else "none",  # type: ignore[arg-type]
                config=_config(parameters.settings, parameters.output, parameters.parallel_tool_calls),
            )
            return from_output(output, self.name)
        except Exception as error:  # providers raise exceptions of their own SDKs
            raise ModelError(f"{self.name}: {type(error).__name__}: {error}") from error


def _tool(name: str, description: str, schema: Any) -> ToolInfo:
    known = {key: value for key, value in schema.items() if key in ToolParams.model_fields}
    return ToolInfo(name=name, description=description, parameters=ToolParams.model_validate(known))


def _config(settings: ModelSettings, output: OutputSchema | None, parallel: bool) -> GenerateConfig:
    schema = None
    if output is not None:
        schema = ResponseSchema(name=output.name, json_schema=JSONSchema.model_validate(dict(output.json_schema)))
    return GenerateConfig(
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        max_tokens=settings.max_tokens,
        seed=settings.seed,
        stop_seqs=list(settings.stop) or None,
        parallel_tool_calls=parallel,
        response_schema=schema,
    )
