"""Reads Inspect logs for `agentkit trace`; each sample is shown as a run.

A sample from this package's solver stores the whole run and is shown from it. A sample of another task is shown
from its messages. Samples are read one at a time, because a log may be larger than memory.

A log is untrusted and may be damaged. Inspect's reader raises exceptions of several decoders (zip, zlib, zstd,
JSON, pydantic) without a common base class, so every exception during a read becomes an error about the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from inspect_ai.event import ModelEvent
from inspect_ai.log import (
    EvalSample,
    EvalSampleSummary,
    read_eval_log,
    read_eval_log_sample,
    read_eval_log_sample_summaries,
)
from inspect_ai.model import ChatMessage
from inspect_ai.scorer import Value, value_to_float
from pydantic import ValidationError

from agentkit.errors import UserError
from agentkit.events import (
    AgentEvent,
    ModelRequestEvent,
    ModelResponseEvent,
    RunFailedEvent,
    RunFinishedEvent,
    RunStartedEvent,
    ToolCallEvent,
    ToolResultEvent,
)
from agentkit.messages import (
    ModelMessage,
    ModelRequest,
    RetryPromptPart,
    ToolCallPart,
    ToolReturnPart,
)
from agentkit.tracing.reading import RunSummary
from agentkit.usage import RunUsage
from evals.case import Run, run_from_json
from evals.harness.inspect_messages import from_inspect
from evals.harness.inspect_task import MODEL_KEY, RUN_KEY


class InspectLog:
    """The samples of one Inspect log."""

    def __init__(self, path: Path) -> None:
        """Read the log's header.

        Raises:
            UserError: the file is not an Inspect log.
        """
        self._path = str(path)
        try:
            self._header = read_eval_log(self._path, header_only=True)
            self._summaries = read_eval_log_sample_summaries(self._path)
        except Exception as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"{path} cannot be read as an Inspect log: {reason}.") from error

    def summaries(self, limit: int) -> Iterator[RunSummary | UserError]:
        """Yield summaries of the first `limit` samples, or an error in place of a sample that cannot be read."""
        for summary in self._summaries[:limit]:
            try:
                sample = self._sample(summary)
                run = run_of(sample)
            except UserError as error:
                yield error
                continue
            yield RunSummary(
                run_id=_name(summary),
                started=self._started(sample),
                model_name=self._model_name(run),
                prompt=sample.input if isinstance(sample.input, str) else _last_text(sample.input),
                status=_status(run, sample),
                n_steps=len(run.responses),
                n_tool_calls=len(run.calls),
            )

    def events(self, run_id: str) -> Iterator[tuple[float, AgentEvent]]:
        """Yield the events of one sample's run.

        Args:
            run_id: The sample's id or an unambiguous prefix of it; later epochs have the suffix `@epoch`.

        Raises:
            UserError: `run_id` matches no sample or several samples.
        """
        names = [_name(summary) for summary in self._summaries]
        found = [name for name in names if name == run_id] or [name for name in names if name.startswith(run_id)]
        if len(found) != 1:
            known = ", ".join((found or names)[:5]) or "none"
            raise UserError(f"run id {run_id!r} matches {len(found)} samples in {self._path!r} ({known}).")
        sample = self._sample(self._summaries[names.index(found[0])])
        run, at = run_of(sample), self._started(sample)
        told = _events(found[0], self._header.eval.task, self._model_name(run), run, sample)
        return ((at, event) for event in told)

    def _sample(self, summary: EvalSampleSummary) -> EvalSample:
        try:
            return read_eval_log_sample(self._path, summary.id, summary.epoch)
        except Exception as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"sample {_name(summary)!r} of {self._path} cannot be read: {reason}.") from error

    def _model_name(self, run: Run) -> str:
        """Return the names of the models that answered, or the model of the evaluation if none did."""
        names = sorted({response.model_name for response in run.responses if response.model_name})
        return ", ".join(names) or str((self._header.eval.metadata or {}).get(MODEL_KEY, self._header.eval.model))

    def _started(self, sample: EvalSample) -> float:
        return datetime.fromisoformat(str(sample.started_at or self._header.eval.created)).timestamp()


def run_of(sample: EvalSample) -> Run:
    """Return the run stored by this package's solver, or build one from the messages of another task's sample.

    Raises:
        UserError: the sample's stored run cannot be read.
    """
    stored: Any = sample.store.get(RUN_KEY)
    if isinstance(stored, str):
        try:
            return run_from_json(stored)
        except ValidationError as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"sample {sample.id!r} holds a run that cannot be read: {reason}.") from error
    usage = list((sample.model_usage or {}).values())
    return Run(
        case_id=str(sample.id),
        status="failed" if sample.error else "completed",
        messages=from_inspect(sample.messages),
        output=sample.output.completion if sample.output.choices else None,
        error=sample.error.message if sample.error else None,
        usage=RunUsage(
            requests=sum(message.role == "assistant" for message in sample.messages),
            tool_calls=sum(message.role == "tool" for message in sample.messages),
            input_tokens=sum(u.input_tokens + (u.input_tokens_cache_read or 0) for u in usage),
            cache_read_tokens=sum(u.input_tokens_cache_read or 0 for u in usage),
            output_tokens=sum(u.output_tokens for u in usage),
        ),
        wall_s=sample.total_time or 0.0,
    )


def _status(run: Run, sample: EvalSample) -> str:
    """Return the run's status if it did not complete, else its first score."""
    if run.status != "completed":
        return run.status
    score = next(iter((sample.scores or {}).values()), None)
    return f"score {_short(score.value)}" if score is not None else run.status


def _events(run_id: str, task: str, model_name: str, run: Run, sample: EvalSample) -> Iterator[AgentEvent]:
    yield RunStartedEvent(run_id, task, model_name, _tool_names(run, sample))
    yield from _conversation(run.messages)
    for name, score in (sample.scores or {}).items():
        text = f"{name} {_short(score.value)}" + (f": {score.explanation}" if score.explanation else "")
        yield ToolResultEvent("score", name, text, "success" if _counts(score.value) else "failed", 0.0)
    if run.error is not None:
        yield RunFailedEvent(run_id, *_type_and_text(run.status, run.error), run.usage)
    else:
        yield RunFinishedEvent(run_id, run.status, run.output, run.usage, None, run.wall_s)


def _conversation(messages: Sequence[ModelMessage]) -> Iterator[AgentEvent]:
    """Yield the events of requests, responses, calls and results in the order in which the runner emits them."""
    step = 0
    for message in messages:
        if isinstance(message, ModelRequest):
            yield from (_result(p) for p in message.parts if isinstance(p, ToolReturnPart | RetryPromptPart))
            yield ModelRequestEvent(step + 1, (message,), ())
            continue
        step += 1
        decoding = message.decoding
        yield ModelResponseEvent(
            step, message, decoding.prefill_s + decoding.decode_s if decoding is not None else 0.0
        )
        yield from (_call(part) for part in message.tool_calls)


def _call(part: ToolCallPart) -> ToolCallEvent:
    return ToolCallEvent(part.tool_name, part.tool_call_id, part.arguments, part.probability)


def _result(part: ToolReturnPart | RetryPromptPart) -> ToolResultEvent:
    failed = isinstance(part, RetryPromptPart)
    outcome = "retry" if failed else "failed" if part.is_error else "success"
    return ToolResultEvent(part.tool_name or "", part.tool_call_id or "", part.text, outcome, 0.0)


def _tool_names(run: Run, sample: EvalSample) -> tuple[str, ...]:
    """Return the union of tools named by the case, given to the model, and called by it."""
    named = (sample.metadata or {}).get("tools")
    names = [tool.get("name") for tool in named if isinstance(tool, dict)] if isinstance(named, list) else []
    names += [tool.name for event in sample.events if isinstance(event, ModelEvent) for tool in event.tools]
    names += [call.tool_name for call in run.calls]
    return tuple(dict.fromkeys(str(name) for name in names if name))


def _type_and_text(status: str, error: str) -> tuple[str, str]:
    """Split `TypeError: text` into type and text; for other errors the type is the run's status."""
    name, _, text = error.partition(": ")
    return (name, text) if name.isidentifier() and text else (status, error)


def _counts(value: Value) -> bool:
    """Return whether a score is above 0; Inspect's letters (C, P, I, N) are converted to numbers."""
    number = value_to_float()(value) if isinstance(value, str | int | float | bool) else 1.0
    return number > 0


def _short(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _last_text(messages: Sequence[ChatMessage]) -> str:
    return messages[-1].text if messages else ""


def _name(summary: EvalSampleSummary) -> str:
    return str(summary.id) if summary.epoch == 1 else f"{summary.id}@{summary.epoch}"
