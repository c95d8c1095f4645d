"""Models for tests: one that calls every tool, one that is a function, one that follows a script.

They are part of the product: an application's tests need no server and no weights. Inside
`block_model_requests()` only they accept requests.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from agentkit.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from agentkit.models.base import (
    Model,
    ModelDelta,
    ModelProfile,
    ModelRequestParameters,
    OnDelta,
    TextDelta,
    ToolCallDelta,
)
from agentkit.testing.schema_values import smallest_value
from agentkit.usage import RequestUsage

ModelFunction = Callable[
    [Sequence[ModelMessage], ModelRequestParameters], ModelResponse | Awaitable[ModelResponse]
]
ScriptItem = ModelResponse | ToolCallPart | Sequence[ToolCallPart] | str | Exception


class NamedModel(Model):
    """Base of the test doubles: a name and a profile, given at construction."""

    def __init__(self, name: str, profile: ModelProfile = ModelProfile()) -> None:
        """Store both."""
        self._name = name
        self._profile = profile

    @property
    def name(self) -> str:
        """The name given at construction."""
        return self._name

    @property
    def is_free(self) -> bool:
        """True: no server is asked."""
        return True

    @property
    def profile(self) -> ModelProfile:
        """The profile given at construction."""
        return self._profile


class TestModel(NamedModel):
    """Calls each tool once with the smallest valid arguments, then answers with the smallest valid output."""

    __test__ = False  # not a test class for pytest

    def __init__(
        self, *, call_tools: Sequence[str] | None = None, output: str | None = None, name: str = "test"
    ) -> None:
        """Make a model that calls `call_tools` (None: all that it is shown) and answers `output`.

        The default text answer is the JSON of the tools' results.
        """
        super().__init__(name)
        self._call_tools = call_tools
        self._output = output

    async def request(
        self,
        messages: Sequence[ModelMessage],
        parameters: ModelRequestParameters,
        *,
        on_delta: OnDelta | None = None,
    ) -> ModelResponse:
        """Answer from the schemas alone."""
        called = {call.tool_name for m in messages if isinstance(m, ModelResponse) for call in m.tool_calls}
        wanted = [
            tool
            for tool in parameters.callable_tools
            if tool.name not in called and (self._call_tools is None or tool.name in self._call_tools)
        ]
        if wanted:
            calls = tuple(
                ToolCallPart(tool.name, json.dumps(smallest_value(tool.parameters_json_schema))) for tool in wanted
            )
            return told_deltas(_response(calls, self._name, messages), on_delta)
        text = self._output
        if text is None and parameters.output is not None:
            text = json.dumps(smallest_value(parameters.output.json_schema))
        elif text is None:
            text = _returned_values(messages) or "success (no tool calls)"
        return told_deltas(_response((TextPart(text),), self._name, messages), on_delta)


class FunctionModel(NamedModel):
    """A model that is a function of the conversation."""

    def __init__(
        self, function: ModelFunction, *, name: str = "function", profile: ModelProfile = ModelProfile()
    ) -> None:
        """Make a model of `function`, which may be a coroutine function."""
        super().__init__(name, profile)
        self._function = function

    async def request(
        self,
        messages: Sequence[ModelMessage],
        parameters: ModelRequestParameters,
        *,
        on_delta: OnDelta | None = None,
    ) -> ModelResponse:
        """Call the function."""
        response = self._function(messages, parameters)
        if inspect.isawaitable(response):
            response = await response
        return told_deltas(response, on_delta)


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """A request that a `ScriptedModel` received."""

    messages: tuple[ModelMessage, ...]
    parameters: ModelRequestParameters


class ScriptedModel(NamedModel):
    """Returns prepared responses in order and records the requests."""

    def __init__(
        self, script: Sequence[ScriptItem], *, name: str = "scripted", profile: ModelProfile = ModelProfile()
    ) -> None:
        """Make a model of `script`: a string is a text answer, tool calls are a response, an error is raised."""
        super().__init__(name, profile)
        self._script = list(script)
        self.calls: list[RecordedRequest] = []

    async def request(
        self,
        messages: Sequence[ModelMessage],
        parameters: ModelRequestParameters,
        *,
        on_delta: OnDelta | None = None,
    ) -> ModelResponse:
        """Return the next response.

        Raises:
            AssertionError: the script is at its end.
        """
        if len(self.calls) >= len(self._script):
            raise AssertionError(
                f"ScriptedModel {self._name!r} was asked {len(self.calls) + 1} times but has only "
                f"{len(self._script)} responses; the last message was {messages[-1]!r}."
            )
        item = self._script[len(self.calls)]
        self.calls.append(RecordedRequest(tuple(messages), parameters))
        if isinstance(item, Exception):
            raise item
        return told_deltas(self._as_response(item, messages), on_delta)

    def assert_complete(self) -> None:
        """Check that the whole script was used.

        Raises:
            AssertionError: responses are left over.
        """
        left = len(self._script) - len(self.calls)
        if left:
            raise AssertionError(
                f"ScriptedModel {self._name!r}: {left} of {len(self._script)} responses not used."
            )

    def _as_response(
        self, item: ModelResponse | ToolCallPart | Sequence[ToolCallPart] | str, messages: Sequence[ModelMessage]
    ) -> ModelResponse:
        if isinstance(item, ModelResponse):
            return item
        if isinstance(item, str):
            return _response((TextPart(item),), self._name, messages)
        calls = (item,) if isinstance(item, ToolCallPart) else tuple(item)
        return _response(calls, self._name, messages)


def call(tool_name: str, /, **arguments: object) -> ToolCallPart:
    """Return a tool call for a script."""
    return ToolCallPart(tool_name, json.dumps(arguments))


def _response(
    parts: tuple[TextPart | ToolCallPart, ...], name: str, messages: Sequence[ModelMessage]
) -> ModelResponse:
    # A word is about a token: enough for tests of limits, and O(new) since only the last message is counted.
    last = messages[-1]
    sent = sum(len(p.text.split()) for p in last.parts) if isinstance(last, ModelRequest) else 0
    written = sum(len((p.content if isinstance(p, TextPart) else p.arguments).split()) for p in parts)
    return ModelResponse(parts, RequestUsage(input_tokens=sent, output_tokens=written), name, "stop")


def told_deltas(response: ModelResponse, on_delta: OnDelta | None) -> ModelResponse:
    """Pass a whole response to a listener as deltas, and return it."""
    if on_delta is not None:
        for index, part in enumerate(response.parts):
            delta: ModelDelta | None = None
            if isinstance(part, TextPart):
                delta = TextDelta(part.content)
            elif isinstance(part, ToolCallPart):
                delta = ToolCallDelta(index, part.tool_name, part.arguments)
            if delta is not None:
                on_delta(delta)
    return response


def _returned_values(messages: Sequence[ModelMessage]) -> str:
    values: Mapping[str, object] = {
        part.tool_name: part.data if part.data is not None else part.content
        for message in messages
        if isinstance(message, ModelRequest)
        for part in message.parts
        if isinstance(part, ToolReturnPart)
    }
    return json.dumps(values) if values else ""
