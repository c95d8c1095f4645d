"""Prints the events of a run as terminal lines: live in `run`, `chat` and `demo`, from a file in `trace show`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from agentkit.approvals.pending import PendingCall, QuestionKind
from agentkit.cli.console import clean, count_of, one_line, plain, print_wrapped
from agentkit.events import (
    AgentEvent,
    ApprovalRequestedEvent,
    CompactionEvent,
    GuardrailEvent,
    HandoffEvent,
    LimitReachedEvent,
    ModelRequestEvent,
    ModelResponseEvent,
    PlanEvent,
    RepeatedCallEvent,
    RunFailedEvent,
    RunFinishedEvent,
    RunResumedEvent,
    RunStartedEvent,
    SideRequestEvent,
    TextCallsEvent,
    TextDeltaEvent,
    ThinkingDeltaEvent,
    ToolCallEvent,
    ToolProgressEvent,
    ToolResultEvent,
)
from agentkit.messages import (
    Addition,
    DecodingStats,
    ModelResponse,
    ThinkingPart,
    ToolCallPart,
    UserPromptPart,
    text_of,
)
from agentkit.usage import RunUsage, dollars_text

if TYPE_CHECKING:
    from rich.console import Console

RESULT_LINES = 6
"""Lines shown of a result or message; the trace holds all of it."""

_RESULT_CHARS = 160
"""Characters of a result's line; longer ones are cut."""
_NOTE_CHARS = 600
"""Characters of a note, or of a call's arguments."""
_BRIEF_CHARS = 74
"""Characters of a result's line, or of a call without its probability; fits 80 columns with an indent."""
_ALTERNATIVES = 3
_INDENT = "    "
_OUTCOME_STYLES = {"success": "green", "retry": "yellow", "failed": "red", "timeout": "red", "not_run": "yellow"}
_WAITS_FOR: Mapping[QuestionKind, str] = {
    "approval": "needs approval",
    "unknown": "has an unknown outcome",
    "external": "waits for its result",
}
NOTICES = {
    "truncated": "the answer was cut off at the model's token limit",
    "filtered": "the answer was cut off or replaced by a filter of the model's server",
    "malformed_call": "the answer is a call of a tool, written as text, that could not be read",
}
"""Notice printed after an incomplete answer, by result status."""


class EventPrinter:
    """A sink that prints a run's events; answers go to `answers`, everything else to `notes`.

    `answers` is None if the caller prints the answer.
    """

    def __init__(
        self,
        notes: Console,
        answers: Console | None,
        *,
        show_messages: bool = False,
        brief: bool = False,
        asks: bool = False,
    ) -> None:
        """Print to these consoles.

        Args:
            notes: Receives everything but answers.
            answers: Receives answers.
            show_messages: Also print what the model was sent.
            asks: Print no waiting calls, because the caller shows them with its question.
            brief: Print each call with its probability and the beginning of its result, and no tokens or times.
        """
        self._asks = asks
        self._brief = brief
        self._notes = notes
        self._answers = answers
        self._show_messages = show_messages
        self._may_call = False
        """Whether the current request lets the model choose between tools and an answer."""
        self._in_answer = False
        self._in_thought = False
        self._thought_is_shown = False
        """True once the thinking of the current response has been streamed."""
        self._calls: dict[str, ToolCallPart] = {}

    def __call__(self, event: AgentEvent) -> None:
        """Print one event."""
        match event:
            case TextDeltaEvent(text=text):
                self._stream(text)
            case ThinkingDeltaEvent(text=text):
                self._stream_thought(text)
            case ModelRequestEvent():
                self._may_call = bool(event.allowed_tools)
                self._show_request(event)
            case ModelResponseEvent():
                self._show_response(event)
            case ToolCallEvent():
                self._show_call(event)
            case ToolProgressEvent():
                self._show_progress(event)
            case ToolResultEvent():
                self._show_result(event)
            case RunFinishedEvent() | RunFailedEvent():
                self.end_line()
            case _:
                self._show_course(event)

    def _show_course(self, event: AgentEvent) -> None:
        """Print an event that is neither the model's nor a tool's."""
        match event:
            case RunStartedEvent() if self._show_messages:
                self._show_start(event)
            case RunResumedEvent(step=step):
                self._note(f"resumed after step {step}")
            case GuardrailEvent() if event.verdict != "allow":
                stage, verdict = event.stage.replace("_", " "), event.verdict.replace("_", " ")
                reason = f" ({event.reason})" if event.reason else ""
                self._note(f"{event.name} · {stage}: {verdict}{reason}", "yellow")
            case ApprovalRequestedEvent(call=call) if not self._asks:
                self._show_waiting(call)
            case PlanEvent():
                self._show_plan(event)
            case SideRequestEvent(purpose=purpose):
                self._note(f"{purpose} · {event.duration_s:.2f} s{response_facts(event.response)}", "dim")
            case CompactionEvent(compacted=compacted):
                n_left_out = compacted.cut - compacted.n_first
                self._note(f"{n_left_out} messages are a note for the model from now on", "dim")
            case HandoffEvent():
                self._note(f"{event.to_agent} goes on with it")
            case RepeatedCallEvent(kind=kind) if kind != "copied":
                end = "; the tool is withdrawn" if kind == "withdrawn" else ""
                self._note(f"{event.tool_name} was not run again: the call gave the same twice{end}", "yellow")
            case TextCallsEvent(problem=problem) if problem is not None:
                names = ", ".join(event.tool_names)
                self._note(f"a call of {names}, written as text, could not be read: {problem}", "yellow")
            case LimitReachedEvent(limit=limit):
                self._note(f"{limit} is reached: the model answers with what it has", "yellow")
            case _:
                pass

    def _show_start(self, event: RunStartedEvent) -> None:
        self._note(event.run_id, "bold")
        self._note(f"model: {event.model_name}")
        if event.adapter is not None:
            self._note(f"adapter: {event.adapter}")
        self._note(f"tools: {', '.join(event.tools) or 'none'}")

    def end_line(self) -> None:
        """Finish an answer, or a thought, that was cut off in the middle of a line."""
        self._end_thought()
        if self._in_answer and self._answers is not None:
            self._answers.print()
        self._in_answer = False

    def _end_thought(self) -> None:
        if self._in_thought:
            self._notes.print()
        self._in_thought = False

    def _stream_thought(self, text: str) -> None:
        if text:
            self._notes.print(plain(text, "dim"), end="")
            self._in_thought = self._thought_is_shown = True

    def _stream(self, text: str) -> None:
        self._end_thought()
        if self._answers is not None and text:
            self._answers.print(plain(text), end="")
            self._in_answer = True

    def _show_request(self, event: ModelRequestEvent) -> None:
        if not self._show_messages:
            return
        if event.instructions is not None:
            self._note("instructions:", "bold")
            self._block(event.instructions, "")
        for message in event.messages:
            for part in message.parts:
                if part.part_kind != "tool-return":  # shown as the call's result
                    self._note(f"{part.part_kind}:", "bold")
                    self._block(text_of(part.said) if isinstance(part, UserPromptPart) else part.text, "")
                if isinstance(part, UserPromptPart):
                    self._show_additions(part.additions)
        if event.note is not None:
            self._note("note:", "bold")
            self._block(event.note, "")

    def _show_additions(self, additions: Sequence[Addition]) -> None:
        for each in additions:
            source = "remembered" if each.source == "memory" else f"added by {each.source}"
            self._note(f"{source} (untrusted):" if each.is_untrusted else f"{source}:", "bold")
            self._block(each.text, "")

    def _show_response(self, event: ModelResponseEvent) -> None:
        response = event.response
        if not self._thought_is_shown:
            for part in response.parts:
                if isinstance(part, ThinkingPart):
                    self._block(part.content, "dim")
        self._thought_is_shown = False
        is_streamed = self._in_answer
        self.end_line()
        if response.text and not is_streamed and self._answers is not None:
            print_wrapped(self._answers, response.text)
        self._calls = {call.tool_call_id: call for call in response.tool_calls}
        if not self._brief:
            self._note(
                f"step {event.step} · {event.duration_s:.2f} s{response_facts(response, self._may_call)}", "dim"
            )

    def _show_call(self, event: ToolCallEvent) -> None:
        from rich.text import Text

        call = self._calls.get(event.tool_call_id)
        line = Text("● ", style="cyan")
        line.append_text(plain(one_line(event.tool_name), "bold cyan"))
        n_chars = _BRIEF_CHARS - len(event.tool_name) if self._brief else _NOTE_CHARS
        line.append_text(plain(" " + one_line(event.arguments, max(n_chars, 1))))
        alternatives = call.alternatives if call is not None and not self._brief else ()
        line.append(probabilities(event.probability, alternatives), style="magenta")
        self.end_line()
        if line.cell_len <= self._notes.width:
            self._notes.print(line)
        else:
            print_wrapped(self._notes, line.plain, indent="  ")

    def _show_progress(self, event: ToolProgressEvent) -> None:
        of_total = f"/{event.total:g}" if event.total is not None else ""
        self._note(f"  {event.tool_name} {event.progress:g}{of_total} {event.message or ''}", "dim")

    def _show_result(self, event: ToolResultEvent) -> None:
        style = _OUTCOME_STYLES.get(event.outcome, "")
        if not self._brief:
            self._note(f"  {event.tool_name}: {event.outcome.replace('_', ' ')} · {event.duration_s:.2f} s", style)
        self._block(event.error or event.content, style if self._brief and event.outcome != "success" else "dim")

    def _show_plan(self, event: PlanEvent) -> None:
        self._note("plan" if event.reason is None else f"plan revised: {event.reason}", "bold")
        for step in event.steps or ():
            self._note(f"  · {step.goal}" + (f"  ({step.tool})" if step.tool else ""))

    def _show_waiting(self, call: PendingCall) -> None:
        from agentkit.cli.approval import readable_arguments

        self.end_line()
        print_wrapped(self._notes, f"{call.tool_name} {_WAITS_FOR[call.kind]}: {call.reason}", "yellow")
        for line in readable_arguments(call.arguments).splitlines():  # whole: a person decides about it
            print_wrapped(self._notes, _INDENT + line, indent=_INDENT)

    def _block(self, text: str, style: str) -> None:
        n_chars = _BRIEF_CHARS if self._brief else _RESULT_CHARS
        lines = clean(text).splitlines()
        for line in lines[:RESULT_LINES]:
            cut = line if len(line) <= n_chars else line[: n_chars - 1] + "…"
            print_wrapped(self._notes, _INDENT + cut, style, indent=_INDENT)
        if len(lines) > RESULT_LINES:
            self._note(f"    … {count_of(len(lines) - RESULT_LINES, 'more line')}", "dim")

    def _note(self, text: str, style: str = "") -> None:
        self.end_line()
        indent = text[: len(text) - len(text.lstrip())]
        print_wrapped(self._notes, indent + one_line(text, _NOTE_CHARS), style, indent=indent + "  ")


def response_facts(response: ModelResponse, may_call: bool = False) -> str:
    """Return a response's token counts, the probability of calling no tool, and abstention in words."""
    facts: list[str] = []
    if response.decoding is not None:
        facts.append(decoding_facts(response.decoding))
    elif response.usage.input_tokens or response.usage.output_tokens:
        facts.append(f"{count_of(response.usage.input_tokens, 'token')} in, {response.usage.output_tokens:,} out")
    if response.usage.cost:
        facts.append(dollars_text(response.usage.cost))
    if may_call and response.p_answer is not None and not response.tool_calls:
        facts.append(f"chose no tool, p {response.p_answer:.2f}")
    if response.abstained:
        facts.append("abstained: no tool fits")
    return "".join(f" · {fact}" for fact in facts)


def decoding_facts(stats: DecodingStats) -> str:
    """Return an in-process engine's token counts in words."""
    from_disk = f" ({stats.restored_tokens} from disk)" if stats.restored_tokens else ""
    first = f", first token {stats.first_token_s:.2f} s" if stats.first_token_s else ""
    return (
        f"prompt {stats.reused_tokens} reused{from_disk} + {stats.prefilled_tokens} prefilled{first}, "
        f"reply {stats.sampled_tokens} sampled + {stats.forced_tokens} forced tokens"
    )


def probabilities(chosen: float | None, alternatives: Sequence[tuple[str, float]]) -> str:
    """Return the probability of a call and the likeliest other tools; "" if the model reports none."""
    if chosen is None:
        return ""
    likeliest = sorted(alternatives, key=lambda choice: -choice[1])[:_ALTERNATIVES]
    others = ", ".join(f"{one_line(name, 60)} {p:.2f}" for name, p in likeliest)
    return f"  p {chosen:.2f}" + (f" (else {others})" if others else "")


def usage_line(usage: RunUsage, confidence: float | None, duration_s: float | None = None) -> str:
    """Return a run's usage in one line; `confidence` is shown only if the run called tools."""
    cached = f" ({usage.cache_read_tokens:,} cached)" if usage.cache_read_tokens else ""
    parts = [
        count_of(usage.requests, "model request"),
        count_of(usage.tool_calls, "tool call"),
        f"{count_of(usage.input_tokens, 'token')} in{cached}",
        f"{usage.output_tokens:,} out",
    ]
    if (cost := cost_text(usage)) is not None:
        parts.append(cost)
    if confidence is not None and usage.tool_calls:
        parts.append(f"tool choice {confidence:.2f}")
    if duration_s is not None:
        parts.append(f"{duration_s:.1f} s")
    return " · ".join(parts)


def cost_text(usage: RunUsage) -> str | None:
    """Return a run's cost in words; None if its models are free, or if it is of a version that kept no costs."""
    if not usage.unpriced_models:
        return dollars_text(usage.known_cost) if usage.known_cost else None
    missing = ", ".join(repr(one_line(name, 60)) for name in usage.unpriced_models)
    begun = f"more than {dollars_text(usage.known_cost)}" if usage.known_cost else "cost unknown"
    return f"{begun} (no price of {missing})"
