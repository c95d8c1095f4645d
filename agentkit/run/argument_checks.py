"""Types of the arguments of `Agent` and its run methods, checked where they are given.

Type checkers find these mistakes, but not everyone runs one, and without a check they fail deep inside a run. The
message has the value, the rule and the fix. A class is imported only when a value is given for it, so that an
agent without a planner does not load planning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib import import_module
from os import PathLike
from typing import Any, cast

from agentkit.errors import UserError

_OBJECTS = {
    "model": ("agentkit.models.base", "Model", 'model="local"'),
    "limits": ("agentkit.limits", "UsageLimits", "limits=UsageLimits(request_limit=5)"),
    "settings": ("agentkit.models.base", "ModelSettings", "settings=ModelSettings(temperature=0.0)"),
    "file_limits": ("agentkit.files", "FileLimits", "file_limits=FileLimits(max_bytes=1_000_000)"),
    "code_mode": ("agentkit.tools.code_mode", "CodeMode", "code_mode=CodeMode()"),
    "planner": ("agentkit.planning.planner", "Planner", "planner=ModelPlanner()"),
    "compaction": (
        "agentkit.history.compaction",
        "Compaction",
        "compaction=SlidingWindow(8_000, 4_000)",
    ),
    "telemetry": ("agentkit.tracing.telemetry", "Telemetry", "telemetry=Telemetry()"),
    "checkpointer": ("agentkit.persistence.checkpointer", "Checkpointer", 'checkpointer="runs.db"'),
    "session": ("agentkit.persistence.session", "Session", 'session=SQLiteSession("chats.db", "chat-1")'),
}
"""Module and class of an argument that is an object, with an example."""

_LISTS = {
    "tools": ("functions and `Tool` objects", "tools=[add]"),
    "toolsets": ("toolsets", 'toolsets=[MCPToolset.stdio("python", "-m", "mcp_servers.time")]'),
    "history_processors": ("functions", "history_processors=[shorten]"),
    "middleware": ("`Middleware` objects", "middleware=[Logging()]"),
    "handoffs": ("agents and `Handoff` objects", "handoffs=[other_agent]"),
    "guardrails": ("guardrails", "guardrails=[HiddenCharacters()]"),
    "message_history": ("messages", "message_history=result.messages"),
}
"""Members of an argument that is a list, with an example."""

_MEMBERS = {
    "toolsets": ("agentkit.tools.toolset", ("Toolset",)),
    "middleware": ("agentkit.middleware", ("Middleware",)),
    "message_history": ("agentkit.messages", ("ModelRequest", "ModelResponse")),
}
"""Module and classes of the members of a list."""

_FUNCTIONS = {
    "prepare_tools": "prepare_tools=choose_tools",
    "on_event": "on_event=print",
}

_VALUES: dict[str, tuple[tuple[type[Any], ...], str, str]] = {
    "prompt": ((str, list, tuple), "a text, or a list of texts and files", 'agent.run("What is the time?")'),
    "name": ((str,), "a text", 'name="helper"'),
    "retries": ((int,), "a whole number", "retries=2"),
    "tool_timeout_s": ((int, float), "a number of seconds", "tool_timeout_s=30"),
    "parallel_tool_calls": ((bool,), "True or False", "parallel_tool_calls=False"),
    "taint_rule": ((bool,), "True or False", "taint_rule=False"),
    "tainted": ((bool,), "True or False", "tainted=True"),
    "trace": ((str, PathLike), "a folder", 'trace="traces"'),
    "metadata": ((Mapping,), "a mapping of texts", 'metadata={"project": "garden"}'),
    "user": ((str,), "a text", 'user="ann"'),
}
"""Types of an argument, in words, and an example."""

_NAMES: dict[str, tuple[tuple[type[Any], ...], str]] = {
    "model": ((str,), " or its name"),
    "checkpointer": ((str, PathLike), " or a path"),
}
"""Types that name an object instead, in words."""
_NEVER_NONE = ("model", "prompt", "tools", "toolsets", "limits", "file_limits", "settings", "retries")
_MAX_SHOWN_CHARS = 120


def check_arguments(given: Mapping[str, Any], *, never_none: tuple[str, ...] = _NEVER_NONE) -> None:
    """Check the types of arguments; names without a rule are ignored, and None means "not given" unless listed.

    Raises:
        UserError: a value has the wrong type.
    """
    for name, value in given.items():
        if value is None and name not in never_none:
            continue
        if name in _OBJECTS:
            _check_object(name, value)
        elif name in _LISTS:
            _check_list(name, value)
        elif name in _FUNCTIONS and not callable(value):
            raise _wrong(name, value, "a function", _FUNCTIONS[name])
        elif name == "instructions" and not (isinstance(value, str) or callable(value)):
            raise _wrong(name, value, "a text or a function", 'instructions="Answer briefly."')
        elif name in _VALUES and not _is_value(value, _VALUES[name][0]):
            raise _wrong(name, value, *_VALUES[name][1:])


def _check_object(name: str, value: Any) -> None:
    module, class_name, example = _OBJECTS[name]
    given = value
    naming, or_name = _NAMES.get(name, ((), ""))
    wanted = _class(module, class_name)
    if isinstance(value, (wanted, *naming)):
        return
    if isinstance(value, type) and issubclass(value, wanted):
        example = f"{name}={value.__name__}()"
    elif name == "limits" and isinstance(value, int) and not isinstance(value, bool):
        example = f"limits=UsageLimits(request_limit={value})"
    elif name in ("limits", "settings") and isinstance(value, Mapping):
        example = f"{name}={class_name}(**{_shown(cast(object, value))})"
    article = "an" if class_name[0] in "AEIO" else "a"
    raise _wrong(name, given, f"{article} {class_name}{or_name}", example)


def _check_list(name: str, value: Any) -> None:
    members, example = _LISTS[name]
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise _wrong(name, cast(object, value), f"a list of {members}", example)
    if name not in _MEMBERS or not isinstance(value, (list, tuple)) or not value:
        return
    module, class_names = _MEMBERS[name]
    wanted = tuple(_class(module, each) for each in class_names)
    for member in cast("Iterable[object]", value):
        if not isinstance(member, wanted):
            fix, shown = f"write {example}", _shown(member)
            if isinstance(member, (list, tuple)):
                fix = f"unpack the inner list: {name}=[*servers]"
            elif name == "toolsets" and callable(member):
                fix = "give functions with tools=[...]"
            elif name == "message_history":
                fix = "read stored messages with messages_from_json(...)"
            raise UserError(f"{name} takes a list of {members}, and {shown} is none; {fix}.")


@cache
def _class(module: str, name: str) -> type[Any]:
    """Return a class of a module that is imported now."""
    return getattr(import_module(module), name)


def _is_value(value: Any, kinds: tuple[type[Any], ...]) -> bool:
    return isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))


def _wrong(name: str, value: object, rule: str, example: str) -> UserError:
    return UserError(f"{name}={_shown(value)}: {name} takes {rule}; write {example}.")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN_CHARS else f"{text[:_MAX_SHOWN_CHARS]}..."
