"""Conformance checks for implementations of `Model` and `Toolset`; see `conformance`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from agentkit.context import RunContext
from agentkit.errors import ModelRetry
from agentkit.messages import ModelRequest, ModelResponse, UserPromptPart
from agentkit.models.base import Model, ModelDelta, ModelRequestParameters, ModelSettings, TextDelta
from agentkit.tools.definition import ToolDefinition
from agentkit.tools.toolset import Toolset

T = TypeVar("T")
Make = Callable[[], T | Awaitable[T]]

_LOOK = ToolDefinition(
    "look",
    "Look at a place.",
    {
        "type": "object",
        "properties": {"place": {"type": "string"}},
        "required": ["place"],
        "additionalProperties": False,
    },
)


async def check_model(make: Make[Model]) -> None:
    """Check a model against its protocol; `make` returns a usable one. About ten requests are sent.

    Raises:
        AssertionError: a requirement is not met.
    """
    for check in _MODEL_CHECKS:
        made = make()
        await check(await made if inspect.isawaitable(made) else made)


async def check_toolset(make: Make[Toolset]) -> None:
    """Check a toolset against its protocol; `make` returns one with at least one tool, not entered yet.

    No tool is called.

    Raises:
        AssertionError: a requirement is not met.
    """
    for check in _TOOLSET_CHECKS:
        made = make()
        await check(await made if inspect.isawaitable(made) else made)


def _asked(text: str = "Say hello.") -> tuple[ModelRequest]:
    return (ModelRequest((UserPromptPart(text),)),)


_SHORT = ModelRequestParameters(settings=ModelSettings(max_tokens=32))


async def _it_answers_and_says_what_it_used(model: Model) -> None:
    assert model.name, "a model has a name"
    async with model:
        response = await model.request(_asked(), _SHORT)
    assert isinstance(response, ModelResponse), f"{response!r} is no response"  # pyright: ignore[reportUnnecessaryIsInstance]
    assert response.parts or response.abstained, "a response has parts, or abstains"
    assert not response.tool_calls, "without tools no tool is called"
    assert response.usage.input_tokens >= 0 and response.usage.output_tokens >= 0


async def _what_it_tells_adds_up_to_what_it_gives(model: Model) -> None:
    told: list[ModelDelta] = []
    async with model:
        response = await model.request(_asked(), _SHORT, on_delta=told.append)
    text = "".join(delta.text for delta in told if isinstance(delta, TextDelta))
    assert text in ("", response.text), f"the deltas say {text!r}, the response {response.text!r}"


async def _it_calls_only_what_it_may(model: Model) -> None:
    other = ToolDefinition("hidden", "Do not call this.")
    parameters = ModelRequestParameters(
        tools=(_LOOK, other),
        allowed_tools=frozenset({"look"}),
        tool_choice="required",
        settings=ModelSettings(max_tokens=64),
    )
    async with model:
        response = await model.request(_asked("Look at the harbour."), parameters)
    names = {call.tool_name for call in response.tool_calls}
    if model.profile.grammar:
        assert names <= {"look"}, f"with a grammar only what is allowed can be called, not {names}"
        assert all(isinstance(json.loads(call.arguments), dict) for call in response.tool_calls)
    ids = [call.tool_call_id for call in response.tool_calls]
    assert all(ids) and len(set(ids)) == len(ids), f"each call has an id of its own: {ids}"


async def _it_serves_several_and_may_be_entered_twice(model: Model) -> None:
    import anyio

    responses: list[ModelResponse] = []

    async def ask() -> None:
        async with model:
            responses.append(await model.request(_asked(), _SHORT))

    async with model:
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(ask)
        responses.append(await model.request(_asked(), _SHORT))
    assert len(responses) == 3


async def _a_cancelled_request_leaves_it_usable(model: Model) -> None:
    import anyio

    async with model:
        with anyio.move_on_after(0.0):
            await model.request(_asked(), _SHORT)
        assert await model.request(_asked(), _SHORT)


async def _its_tools_can_be_told_and_told_apart(toolset: Toolset) -> None:
    context: RunContext[Any] = RunContext(deps=None)
    async with toolset:
        tools = await toolset.list_tools(context)
        assert tools, "the toolset has a tool"
        names = [tool.name for tool in tools]
        assert len(set(names)) == len(names), f"two tools have one name: {names}"
        for tool in tools:
            schema = json.loads(json.dumps(tool.definition.parameters_json_schema))
            assert schema.get("type", "object") == "object", f"the arguments of {tool.name!r} are an object"
    assert toolset.id, "a toolset has an id"


async def _its_list_stays_while_its_revision_does(toolset: Toolset) -> None:
    context: RunContext[Any] = RunContext(deps=None)
    async with toolset:
        first = await toolset.list_tools(context)
        revision = toolset.revision
        second = await toolset.list_tools(context)
        if toolset.revision == revision:
            assert [t.definition for t in first] == [t.definition for t in second], "the list changed unannounced"
        assert toolset.revision >= revision, "a revision never goes back"


async def _it_may_be_entered_by_several(toolset: Toolset) -> None:
    context: RunContext[Any] = RunContext(deps=None)
    async with toolset:
        async with toolset:
            await toolset.list_tools(context)
        assert await toolset.list_tools(context), "one that leaves closes it for another"
    async with toolset:
        assert await toolset.list_tools(context), "it cannot be entered again"


async def _wrong_arguments_go_back_to_the_model(toolset: Toolset) -> None:
    context: RunContext[Any] = RunContext(deps=None)
    async with toolset:
        for tool in await toolset.list_tools(context):
            for wrong in ("not json", "[1]", '"text"', "{"):
                try:
                    tool.validate(wrong)
                except ModelRetry as signal:
                    assert str(signal), "a model must be told what is wrong"
                else:
                    raise AssertionError(f"tool {tool.name!r} took the arguments {wrong!r}")


_MODEL_CHECKS = (
    _it_answers_and_says_what_it_used,
    _what_it_tells_adds_up_to_what_it_gives,
    _it_calls_only_what_it_may,
    _it_serves_several_and_may_be_entered_twice,
    _a_cancelled_request_leaves_it_usable,
)
_TOOLSET_CHECKS = (
    _its_tools_can_be_told_and_told_apart,
    _its_list_stays_while_its_revision_does,
    _it_may_be_entered_by_several,
    _wrong_arguments_go_back_to_the_model,
)
