"""The replies of a traced run as training examples, in the form of `modelstack.data.examples`.

The runtime does not import the training side, so examples are plain data here, and a test checks that both agree.
The context of an example is the conversation that the model was sent, its own earlier turns included, good or not:
a call that corrects a mistake is worth learning, the mistake is not.

Rewritten content (an answer by an output validator, a call's arguments before it ran, a result before the model
read it) is exported as rewritten. A request to correct a call becomes the result of that call.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from pydantic_core import from_json

from agentkit.messages import (
    ModelRequestPart,
    RetryPromptPart,
    SystemPromptPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from agentkit.tools.definition import ToolDefinition
from agentkit.tracing.evidence import Reason, arguments_fault, is_writable_name, reply_fault
from agentkit.tracing.replies import TracedReply, TracedRun

SOURCE = "trace"
_BLANK = " \t\r\n\v\f"
"""Characters that are stripped from a text answer when it is written."""

Example = dict[str, Any]


def examples_of(run: TracedRun, license_id: str, *, last_only: bool) -> Iterator[Example | Reason]:
    """Yield for each reply of a run its example, or the reason why there is none.

    Raises:
        UserError: the validator of calls is not installed.
    """
    context: list[Example] = []
    until = run.n_before_handoff
    for step, reply in enumerate(run.replies, start=1):
        context.extend(_asked(part) for part in reply.asked)
        is_last = step == len(run.replies)
        target = _target(run, reply, is_last) if is_last or not last_only else Reason.NOT_LAST
        if until is not None and step >= until:
            target = Reason.HANDED_OVER
        if isinstance(target, Reason):
            yield target
        elif not _can_be_written(reply, context):
            yield Reason.UNWRITABLE
        else:
            tools = [_tool(tool) for tool in reply.tools or ()]
            yield {
                "id": f"{run.run_id}-{step}",
                "source": SOURCE,
                "license": license_id,
                "kind": _kind(target),
                **({"tools": tools} if tools else {}),
                "messages": list(context),
                "split": "train",
                **target,
            }
        context.append(_turn(reply))


def _target(run: TracedRun, reply: TracedReply, is_last: bool) -> Example | Reason:
    """Return the target of training: the calls as they ran, or the answer as it was delivered."""
    fault = reply_fault(reply, is_last=is_last)
    if fault is not None:
        return fault
    if reply.response.tool_calls:
        return _calls_target(reply)
    if reply.response.abstained:
        return {"calls": []}
    answer = run.output
    if not isinstance(answer, str) or (answer != reply.response.text and _is_wrapped(reply.response.text)):
        return Reason.STRUCTURED
    return {"calls": [], "reply": answer} if answer.strip(_BLANK) else Reason.EMPTY


def _calls_target(reply: TracedReply) -> Example | Reason:
    try:
        calls = _calls(reply)
    except (ValueError, RecursionError):
        return Reason.UNWRITABLE
    tools = {tool.name: tool for tool in reply.tools or ()}
    for call in calls:
        fault = arguments_fault(tools.get(call["name"]), call.get("arguments", {}))
        if fault is not None:
            return fault
    return {"calls": calls}


def _kind(target: Example) -> str:
    names = [call["name"] for call in target["calls"]]
    if not names:
        return "answer" if "reply" in target else "irrelevant"
    if len(names) == 1:
        return "call"
    return "parallel" if len(set(names)) == 1 else "multi"


def _asked(part: ModelRequestPart) -> Example:
    """Return a part of a request as a message; default values are left out, here and below."""
    match part:
        case SystemPromptPart():
            return _message("system", part.content)
        case UserPromptPart():
            return _message("user", part.text)
        case RetryPromptPart(tool_call_id=None):
            return _message("user", part.text)
        case ToolReturnPart() | RetryPromptPart():
            return _message("tool", part.text) | ({"name": part.tool_name} if part.tool_name else {})


def _turn(reply: TracedReply) -> Example:
    """Return a reply as a message; if arguments are not a JSON object, all are left out, as in `LocalModel`."""
    if not reply.response.tool_calls:
        return _message("assistant", reply.response.text)
    try:
        calls = _calls(reply)
    except (ValueError, RecursionError):
        calls: list[Example] = [{"name": call.tool_name} for call in reply.response.tool_calls]
    return {"role": "assistant", "calls": calls}


def _message(role: str, content: str) -> Example:
    return {"role": role, "content": content} if content else {"role": role}


def _calls(reply: TracedReply) -> list[Example]:
    """Return the calls of a reply, with the arguments with which they ran.

    Raises:
        ValueError: arguments are not a JSON object that can be written.
        RecursionError: they are nested too deeply.
    """
    ran = {event.tool_call_id: event.arguments for event in reply.calls}
    if len(ran) < len(reply.calls):  # ids are not unique
        ran = {}
    return [
        _call(replace(call, arguments=ran.get(call.tool_call_id, call.arguments)))
        for call in reply.response.tool_calls
    ]


def _call(call: ToolCallPart) -> Example:
    arguments = call.arguments_dict()
    json_bytes(arguments)
    return {"name": call.tool_name} | ({"arguments": arguments} if arguments else {})


def _tool(tool: ToolDefinition) -> Example:
    parameters = dict(tool.parameters_json_schema)
    return (
        {"name": tool.name}
        | ({"description": tool.description} if tool.description else {})
        | ({"parameters": parameters} if parameters else {})
    )


def _can_be_written(reply: TracedReply, context: Sequence[Example]) -> bool:
    """Return whether readers of examples accept this context; an edited trace or an odd call may break it."""
    shown = [tool.name for tool in reply.tools or ()]
    called = [call["name"] for message in context for call in message.get("calls", ())]
    return bool(reply.asked) and len(set(shown)) == len(shown) and all(map(is_writable_name, [*shown, *called]))


def _is_wrapped(text: str) -> bool:
    """Return whether a reply is a structured answer whose type was wrapped in an object (`agentkit.output`)."""
    try:
        value: Any = from_json(text)
    except ValueError:
        return False
    return isinstance(value, dict) and list(value) == ["result"]  # pyright: ignore[reportUnknownArgumentType]


def json_bytes(value: Any) -> bytes:
    """Return a value as compact JSON.

    Raises:
        ValueError: it holds NaN, infinity or a lone surrogate.
        RecursionError: it is nested too deeply.
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
