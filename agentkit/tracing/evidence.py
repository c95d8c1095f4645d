"""Decides whether a reply may be used for training: only if its trace shows that it was good.

A trace does not judge a reply, but it has facts: the run came to its end, each call ran and succeeded, the
answer was accepted. They are necessary, not sufficient: a call that succeeds may still be the wrong one.
This is filtering by execution, as APIGen does with generated calls (arXiv 2406.18518, stage 2).
"""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from agentkit.errors import UserError
from agentkit.messages import RetryPromptPart, ToolReturnPart
from agentkit.tools.definition import ToolDefinition
from agentkit.tracing.replies import TracedReply, TracedRun
from mcp_servers.distribution import install_command

if TYPE_CHECKING:
    from modelstack.toolcalls.grammar.validation import SchemaValidator

GOOD_ENDS = frozenset({"completed", "abstained", "truncated"})
"""Statuses of runs whose replies can be good."""


class Reason(StrEnum):
    """Reason for leaving out a reply."""

    NOT_LAST = "not the last of its run"
    HANDED_OVER = "handed the run over, or came after that: its context is another agent's"
    CHANGED = "reply whose request was changed by a history processor or middleware, or that middleware changed"
    CUT = "cut off at the token limit"
    FILTERED = "stopped by a content filter"
    SERVER_ERROR = "ended by an error of the model's server"
    EMPTY = "empty"
    REJECTED = "answer that was sent back to be corrected"
    STRUCTURED = "structured answer, for which examples have no form"
    NO_TOOLS = "abstention without tools to abstain from"
    UNKNOWN_TOOL = "call of a tool that is not there"
    RETRIED = "call that was sent back to be corrected"
    FAILED = "call that failed, or whose result was blocked"
    TIMED_OUT = "call that timed out"
    NOT_RUN = "call that was not run: denied, blocked, or over a limit"
    UNCLEAR = "call without a result of its own"
    ARGUMENTS = "call whose arguments do not fit the tool's schema"
    SCHEMA = "call of a tool whose schema cannot be checked"
    UNWRITABLE = "a value, name or text that examples cannot hold"
    DUPLICATE = "same context and reply as an earlier one"


_BAD_ENDS = {"length": Reason.CUT, "content_filter": Reason.FILTERED, "error": Reason.SERVER_ERROR}
_BAD_OUTCOMES = {
    "retry": Reason.RETRIED,
    "failed": Reason.FAILED,
    "timeout": Reason.TIMED_OUT,
    "not_run": Reason.NOT_RUN,
}


def run_fault(run: TracedRun) -> str | None:
    """Return why no reply of a run may be used for training; None if there is no reason."""
    if run.status not in GOOD_ENDS:
        return run.status
    if any(reply.tools is None for reply in run.replies):
        return "older trace, which does not hold the tools' schemas"
    if run.n_history:
        return "goes on from earlier runs, whose messages its trace does not hold"
    return None


def reply_fault(reply: TracedReply, *, is_last: bool) -> Reason | None:
    """Return the fault of a reply in a run that ended well; None if it has none."""
    response = reply.response
    if reply.is_changed:
        return Reason.CHANGED
    bad_end = _BAD_ENDS.get(response.finish_reason or "")
    if bad_end is not None:
        return bad_end
    if response.tool_calls:
        return _fault_of_calls(reply)
    if response.abstained:
        return None if reply.tools else Reason.NO_TOOLS
    if not response.text:
        return Reason.EMPTY
    return None if is_last else Reason.REJECTED


def _fault_of_calls(reply: TracedReply) -> Reason | None:
    calls = reply.response.tool_calls
    if len({call.tool_call_id for call in calls}) < len(calls):
        return Reason.UNCLEAR
    ran = {event.tool_call_id for event in reply.calls}
    outcomes = {event.tool_call_id: event.outcome for event in reply.results}
    told = {
        part.tool_call_id: part for part in reply.answer if isinstance(part, (ToolReturnPart, RetryPromptPart))
    }
    for call in calls:
        fault = _fault_of_call(
            call.tool_call_id in ran, outcomes.get(call.tool_call_id), told.get(call.tool_call_id)
        )
        if fault is not None:
            return fault
    return None


def _fault_of_call(
    has_run: bool, outcome: str | None, told: ToolReturnPart | RetryPromptPart | None
) -> Reason | None:
    if outcome is not None and outcome != "success":
        return _BAD_OUTCOMES[outcome]
    if isinstance(told, RetryPromptPart):
        return Reason.RETRIED if has_run else Reason.UNKNOWN_TOOL
    if told is not None and told.is_error:
        return Reason.FAILED if has_run else Reason.NOT_RUN
    return None if has_run and outcome is not None and told is not None else Reason.UNCLEAR


def arguments_fault(tool: ToolDefinition | None, arguments: dict[str, Any]) -> Reason | None:
    """Return the fault of a call's arguments under the closed schema of training and decoding.

    Arguments outside the schema are a fault even if the server accepted them.

    Raises:
        UserError: the validator of such schemas is not installed.
    """
    if tool is None:
        return Reason.UNKNOWN_TOOL
    try:
        validator = _validator(json.dumps(dict(tool.parameters_json_schema), sort_keys=True))
        return Reason.ARGUMENTS if validator.errors(arguments) else None
    except (ValueError, RecursionError):  # from `normalise`, and from schemas that refer to themselves
        return Reason.SCHEMA


@lru_cache(maxsize=1024)
def is_writable_name(name: str) -> bool:
    """Return whether a tool's name can be written between quotes unchanged.

    Raises:
        UserError: as `arguments_fault`.
    """
    with _installed():
        from modelstack.toolcalls.convention import ToolSpec
    try:
        ToolSpec(name, "", {})
    except ValueError:
        return False
    return True


@lru_cache(maxsize=1024)
def _validator(parameters: str) -> SchemaValidator:
    with _installed():
        from modelstack.toolcalls.grammar.schemas import normalise
        from modelstack.toolcalls.grammar.validation import SchemaValidator, check_schema
    schema = json.loads(parameters)
    wrong = check_schema(schema)
    if wrong is not None:
        raise ValueError(f"{wrong[0] or 'the root'}: {wrong[1]}")
    return SchemaValidator(schema, normalise(schema, is_arguments=True))


@contextmanager
def _installed() -> Generator[None]:
    try:
        yield
    except ImportError as error:
        raise UserError(f"checking calls needs {error.name}: {install_command('train')}.") from error
