"""Wrong arguments of `Agent` and its run methods: the error has the value, the rule and the fix."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from agentkit import Agent, FunctionToolset, MCPToolset, Middleware, RunContext, UsageLimits, UserError
from agentkit.testing import ScriptedModel, TestModel
from agentkit.tools.function import function_tool


def add(a: int, b: int) -> int:
    """Add two integers."""
    return a + b


def declared(**arguments: Any) -> Agent[None, str]:
    return Agent(**{"model": ScriptedModel(["done"]), **arguments})


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("model", None, 'model=None: model takes a Model or its name; write model="local".'),
        ("model", TestModel, "write model=TestModel()."),
        ("tools", add, "tools takes a list of functions and `Tool` objects; write tools=[add]."),
        ("tools", "add", "tools='add': tools takes a list of functions"),
        ("tools", ["add"], "'add' is not a tool: a tool is a function or a `Tool`, like tools=[add]."),
        ("tools", [FunctionToolset()], "is a toolset, not a tool; give it with toolsets=[...]."),
        ("toolsets", FunctionToolset(), "toolsets takes a list of toolsets; write toolsets=[MCPToolset."),
        ("toolsets", [add], "give functions with tools=[...]."),
        ("toolsets", [[FunctionToolset()]], "unpack the inner list: toolsets=[*servers]."),
        ("output_type", 3, "output_type=3 is not a type; give a type (`str`, `int`, a pydantic model)"),
        ("output_type", "str", "output_type='str' is not a type"),
        ("output_type", None, "output_type=None is not a type"),
        ("output_type", {"type": "object"}, "output_type={'type': 'object'} is not a type"),
        ("instructions", ["a"], "instructions=['a']: instructions takes a text or a function"),
        ("name", 3, "name=3: name takes a text"),
        ("limits", 5, "limits=5: limits takes a UsageLimits; write limits=UsageLimits(request_limit=5)."),
        ("limits", {"request_limit": 3}, "write limits=UsageLimits(**{'request_limit': 3})."),
        ("settings", {"seed": 1}, "settings takes a ModelSettings; write settings=ModelSettings(**{'seed': 1})."),
        ("retries", "2", "retries='2': retries takes a whole number; write retries=2."),
        ("retries", True, "retries=True: retries takes a whole number"),
        ("tool_timeout_s", "5", "tool_timeout_s takes a number of seconds"),
        ("parallel_tool_calls", "no", "parallel_tool_calls takes True or False"),
        ("code_mode", True, "code_mode takes a CodeMode; write code_mode=CodeMode()."),
        ("planner", True, "planner takes a Planner; write planner=ModelPlanner()."),
        ("compaction", 8000, "compaction takes a Compaction; write compaction=SlidingWindow(8_000, 4_000)."),
        ("history_processors", add, "history_processors takes a list of functions"),
        ("middleware", Middleware(), "middleware takes a list of `Middleware` objects"),
        ("middleware", [add], "middleware takes a list of `Middleware` objects, and <function add"),
        ("prepare_tools", ["add"], "prepare_tools takes a function"),
        ("handoffs", ["other"], "handoffs=['other']: a run can be handed over to an Agent or a Handoff only."),
        ("guardrails", add, "guardrails takes a list of guardrails"),
        ("trace", True, 'trace takes a folder; write trace="traces".'),
        ("telemetry", True, "telemetry takes a Telemetry; write telemetry=Telemetry()."),
        ("checkpointer", True, 'checkpointer takes a Checkpointer or a path; write checkpointer="runs.db".'),
        ("on_event", "print", "on_event takes a function"),
    ],
)
def test_a_wrong_argument_of_an_agent_names_value_rule_and_fix(argument: str, value: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        declared(**{argument: value})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("prompt", 3, "prompt=3: prompt takes a text, or a list of texts and files"),
        ("limits", 5, "write limits=UsageLimits(request_limit=5)."),
        ("settings", {"seed": 1}, "settings takes a ModelSettings"),
        ("session", "abc", 'session takes a Session; write session=SQLiteSession("chats.db", "chat-1").'),
        ("message_history", "hello", "message_history takes a list of messages"),
        ("message_history", [{"role": "user"}], "read stored messages with messages_from_json(...)."),
        ("metadata", 1, "metadata takes a mapping of texts"),
    ],
)
def test_a_wrong_option_of_a_run_names_value_rule_and_fix(option: str, value: Any, message: str) -> None:
    given: dict[str, Any] = {"prompt": "x", option: value}
    with pytest.raises(UserError) as caught:
        declared().run_sync(**given)
    assert message in str(caught.value)


def test_options_of_a_run_may_be_none() -> None:
    given: Any = {"limits": None, "settings": None, "session": None, "metadata": None}
    assert declared().run_sync("x", **given).output == "done"


def test_an_override_has_the_same_rules() -> None:
    given: Any = 3
    message = 'model takes a Model or its name; write model="local"'
    with pytest.raises(UserError, match=message), declared().override(model=given):
        pass


def test_a_limit_is_a_whole_number() -> None:
    given: Any = "5"
    with pytest.raises(UserError, match=r"UsageLimits\(request_limit='5'\): the limit must be a whole number"):
        UsageLimits(request_limit=given)


def test_a_parameter_without_annotation_is_an_error_that_shows_the_fix() -> None:
    def search(text: str, limit=5):  # pyright: ignore[reportMissingParameterType]
        return text, limit

    with pytest.raises(UserError) as caught:
        declared(tools=[search])
    assert str(caught.value) == (
        "tool 'search': parameter 'limit' has no annotation, so the model is not told its type; "
        "write limit: int, or limit: Any to accept every JSON value."
    )


def test_a_context_without_annotation_is_not_a_parameter_for_the_model() -> None:
    def search(ctx, text: str):  # pyright: ignore[reportMissingParameterType]
        return ctx, text

    with pytest.raises(UserError, match="a parameter for the run's context is annotated: ctx: RunContext"):
        function_tool(search)


def test_any_accepts_every_json_value_on_purpose() -> None:
    def keep(context: RunContext[None], value: Any) -> str:
        return repr(value)

    made = function_tool(keep)
    assert made.definition.parameters_json_schema["properties"] == {"value": {}}
    assert made.validate('{"value": [1, "a"]}') == {"value": [1, "a"]}


def test_a_partial_function_has_the_annotations_of_its_function() -> None:
    made = function_tool(functools.partial(add, b=2), name="add_two")
    assert made.definition.parameters_json_schema["properties"]["a"] == {"type": "integer"}


def test_a_lambda_is_no_tool_and_the_error_says_where_it_is() -> None:
    with pytest.raises(UserError) as caught:
        declared(tools=[lambda: 1])
    assert "a lambda has no name that a model could call" in str(caught.value)
    assert f"({__file__}:" in str(caught.value)
    assert function_tool(lambda: 1, name="one").name == "one"


def test_an_mcp_server_given_as_a_tool_is_a_toolset() -> None:
    with pytest.raises(UserError, match="is a toolset, not a tool"):
        declared(tools=[MCPToolset.stdio("python", "-m", "mcp_servers.time")])
