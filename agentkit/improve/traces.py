"""Tasks and demonstrations from traces of earlier runs with rewards.

A trace is untrusted material: whoever wrote a file that the agent read wrote a part of it. Runs that read results
of untrusted tools, or untrusted additions to a prompt, are left out by default. Of every other run only the prompt
of the user and the calls of the model are used, with placeholders for texts that the prompt does not contain. The
prompt may be anyone's who could use the agent, so what is made from it waits for a review.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from agentkit.errors import UserError
from agentkit.events import (
    ModelRequestEvent,
    ModelResponseEvent,
    RewardEvent,
    RunFinishedEvent,
    RunStartedEvent,
    ToolCallEvent,
    ToolResultEvent,
)
from agentkit.improve.demonstrating import traced_demonstration
from agentkit.improve.pieces import Demonstration
from agentkit.improve.rollout import MAX_CALLS, CallOutcome, RolloutCall
from agentkit.improve.tasks import Checks, Task
from agentkit.messages import UserPromptPart, text_of
from agentkit.tools.definition import ToolDefinition
from agentkit.tracing.reading import read_events, trace_files

_OUTCOMES: Mapping[str, CallOutcome] = {"success": "success", "retry": "retry", "not_run": "none"}


MAX_TRACE_BYTES = 64 * 1024 * 1024
"""Maximum size of a trace that is read."""


class TraceOptions(BaseModel, frozen=True, extra="forbid"):
    """Choice of traces."""

    least_reward: float = 1.0
    """Reward from which a run counts as good; a run without a reward of the whole run is left out."""
    include_tainted: bool = False
    """True uses runs that read untrusted content, too. Their results stay unused."""
    most: int = Field(default=1_000, ge=1)
    """Maximum number of traces that are read, the newest first."""


@dataclass(slots=True)
class TracedTasks:
    """Material from traces."""

    tasks: list[Task] = field(default_factory=list[Task])
    """Tasks of the good runs: the same tools must be called with success, in the same order."""
    demonstrations: list[Demonstration] = field(default_factory=list[Demonstration])
    left_out: Counter[str] = field(default_factory=Counter[str])
    """Number of runs that were left out, by reason."""


@dataclass(slots=True)
class _Run:
    prompt: str = ""
    n_prompts: int = 0
    n_history: int = 0
    status: str = "unfinished"
    reward: float | None = None
    has_untrusted_addition: bool = False
    calls: dict[str, RolloutCall] = field(default_factory=dict[str, RolloutCall])


def traced_tasks(
    folder: Path, options: TraceOptions, tools: Sequence[ToolDefinition], trusted: Collection[str]
) -> TracedTasks:
    """Read a folder of traces.

    Args:
        folder: Folder with `run_*.jsonl`.
        options: Which runs are good.
        tools: The agent's tools; calls of others are no part of a demonstration.
        trusted: Names of the agent's tools whose results are trusted; results of any other tool taint a run.

    Raises:
        UserError: the folder is missing.
    """
    if not folder.is_dir():
        raise UserError(f"traces {str(folder)!r} is no folder; give the folder that the agent's `trace=` names.")
    found = TracedTasks()
    for path in trace_files(folder)[: options.most]:
        if path.stat().st_size > MAX_TRACE_BYTES:
            found.left_out["too large"] += 1
            continue
        try:
            run = _read(path)
        except UserError:
            found.left_out["cannot be read"] += 1
            continue
        reason = _fault(run, options, trusted)
        if reason is not None:
            found.left_out[reason] += 1
            continue
        _add(found, run, tools)
    return found


def _add(found: TracedTasks, run: _Run, tools: Sequence[ToolDefinition]) -> None:
    calls = list(run.calls.values())
    shown = traced_demonstration(run.prompt, calls, tools)
    names = tuple(call.name for call in calls if call.outcome == "success")
    try:
        task = Task.model_validate({"prompt": run.prompt, "checks": Checks(calls=names)})
    except ValidationError:
        found.left_out["prompt too long"] += 1
        return
    found.tasks.append(task)
    if shown is not None:
        found.demonstrations.append(shown)


def _fault(run: _Run, options: TraceOptions, trusted: Collection[str]) -> str | None:
    if run.status != "completed":
        return f"ended as {run.status}"
    if run.reward is None:
        return "no reward"
    if run.reward < options.least_reward:
        return "reward too low"
    if run.n_history or run.n_prompts != 1:
        return "part of a longer conversation"
    if not any(call.outcome == "success" for call in run.calls.values()):
        return "no successful call"
    is_tainted = run.has_untrusted_addition or any(call.name not in trusted for call in run.calls.values())
    return "tainted" if is_tainted and not options.include_tainted else None


def _read(path: Path) -> _Run:
    run = _Run()
    for event in _events(path):
        match event:
            case RunStartedEvent(n_history=n_history):
                run.n_history = n_history
            case ModelRequestEvent(messages=messages):
                for message in messages:
                    for part in message.parts:
                        if isinstance(part, UserPromptPart):
                            run.prompt = run.prompt or text_of(part.said)
                            run.n_prompts += 1
                            run.has_untrusted_addition |= any(each.is_untrusted for each in part.additions)
            case ToolCallEvent(tool_name=name, tool_call_id=key, arguments=arguments) if (
                len(run.calls) < MAX_CALLS
            ):
                run.calls[key] = RolloutCall(name=name, arguments=arguments, outcome="none")
            case ToolResultEvent(tool_call_id=key, outcome=outcome) if key in run.calls:
                outcome = _OUTCOMES.get(outcome, "failed")
                run.calls[key] = run.calls[key].model_copy(update={"outcome": outcome})
            case RunFinishedEvent(status=status):
                run.status = status
            case RewardEvent(reward=reward, step=None):
                run.reward = reward  # the last grader's word counts
            case _:
                pass
    return run


def _events(path: Path) -> Iterator[object]:
    for _, event in read_events(path):
        if not isinstance(event, ModelResponseEvent):  # what the model said is in the events of its calls
            yield event
