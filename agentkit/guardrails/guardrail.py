"""Guardrails: checks of prompts, tool calls, tool results and answers.

A check is blocking by default: the run waits for its verdict. An input check may instead run beside the first
request to the model (`mode="parallel"`), which costs no time if it allows. Even then no tool runs, and no answer
is returned, before every input check has decided (openai-agents-python#624 and #1985 show the failure otherwise).

Blocked text is not stored: a blocked prompt leaves no message, a neutral answer replaces a blocked answer, and a
rewritten answer is stored in its rewritten form. So no later request, run or session receives the text; the trace
contains it.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, overload, runtime_checkable

from agentkit.context import RunContext
from agentkit.errors import UserError
from agentkit.guardrails.verdicts import Allow, Block, RequireApproval, Rewrite, Verdict
from agentkit.tools.tool import Tool

Stage = Literal["input", "tool_call", "tool_result", "output"]
Mode = Literal["blocking", "parallel"]


@dataclass(frozen=True, slots=True)
class CheckedCall:
    """A tool call before it runs."""

    tool: Tool
    arguments: dict[str, Any]
    """Validated arguments."""
    tool_call_id: str
    probability: float | None = None
    """Probability that the model gave to this tool; None if it reports none."""


@dataclass(frozen=True, slots=True)
class CheckedResult:
    """A tool result before the model reads it."""

    tool: Tool
    text: str
    tool_call_id: str
    is_error: bool = False


TextCheck = Callable[[str, RunContext[Any]], "Verdict | Awaitable[Verdict]"]
CallCheck = Callable[[CheckedCall, RunContext[Any]], "Verdict | Awaitable[Verdict]"]
ResultCheck = Callable[[CheckedResult, RunContext[Any]], "Verdict | Awaitable[Verdict]"]

_FITTING: dict[Stage, tuple[type[Any], ...]] = {
    "input": (Allow, Block, Rewrite),
    "tool_call": (Allow, Block, Rewrite, RequireApproval),
    "tool_result": (Allow, Block, Rewrite),
    "output": (Allow, Block, Rewrite),
}


@dataclass(frozen=True, slots=True)
class Guardrail:
    """A check at one stage, created by the decorators below or by a `GuardrailSource`."""

    stage: Stage
    name: str
    check: Callable[[Any, RunContext[Any]], Verdict | Awaitable[Verdict]]
    mode: Mode = "blocking"
    """Mode of an input check: "parallel" runs it beside the first request to the model."""
    streaming: bool = False
    """True if an output check also runs while the answer is streamed; a `Block` stops it. It must not be async."""

    async def verdict(self, subject: Any, context: RunContext[Any]) -> Verdict:
        """Return the verdict of the check.

        Raises:
            UserError: the verdict is not allowed at this stage.
        """
        found = self.check(subject, context)
        if inspect.isawaitable(found):
            found = await found
        return self._fitting(found)

    def verdict_so_far(self, text: str, context: RunContext[Any]) -> Verdict:
        """Return the verdict of a streaming check on the beginning of an answer.

        Raises:
            UserError: the check is a coroutine function, or the verdict is not allowed at this stage.
        """
        found = self.check(text, context)
        if inspect.isawaitable(found):
            raise UserError(f"guardrail {self.name!r} is streaming, so it must be a plain function, no coroutine.")
        return self._fitting(found)

    def _fitting(self, found: Any) -> Verdict:
        fitting = _FITTING[self.stage]
        if isinstance(found, Rewrite) and self.mode == "parallel":
            raise UserError(f"guardrail {self.name!r} is parallel: the model has its input already; use blocking.")
        if not isinstance(found, fitting):
            known = ", ".join(kind.__name__ for kind in fitting)
            raise UserError(
                f"guardrail {self.name!r} gave {found!r}; at stage {self.stage!r} it may give {known}."
            )
        return found


@runtime_checkable
class GuardrailSource(Protocol):
    """An object that provides several checks, such as `SafetyClassifier`."""

    def guardrails(self) -> Sequence[Guardrail]:
        """Return the checks."""
        ...


@overload
def input_guardrail(check: TextCheck, /) -> Guardrail: ...
@overload
def input_guardrail(*, mode: Mode = "blocking") -> Callable[[TextCheck], Guardrail]: ...
def input_guardrail(check: TextCheck | None = None, /, *, mode: Mode = "blocking") -> Any:
    """Make a check of user messages from a function of (text, context)."""
    if check is not None:
        return Guardrail("input", _name(check), check)

    def mark(given: TextCheck) -> Guardrail:
        return Guardrail("input", _name(given), given, mode)

    return mark


def tool_call_guardrail(check: CallCheck) -> Guardrail:
    """Make a check of tool calls from a function of (CheckedCall, context)."""
    return Guardrail("tool_call", _name(check), check)


def tool_result_guardrail(check: ResultCheck) -> Guardrail:
    """Make a check of tool results from a function of (CheckedResult, context)."""
    return Guardrail("tool_result", _name(check), check)


@overload
def output_guardrail(check: TextCheck, /) -> Guardrail: ...
@overload
def output_guardrail(*, streaming: bool = False) -> Callable[[TextCheck], Guardrail]: ...
def output_guardrail(check: TextCheck | None = None, /, *, streaming: bool = False) -> Any:
    """Make a check of answers from a function of (text, context).

    A `streaming` check also runs after every text delta of the answer.
    """
    if check is not None:
        return Guardrail("output", _name(check), check)

    def mark(given: TextCheck) -> Guardrail:
        return Guardrail("output", _name(given), given, streaming=streaming)

    return mark


@dataclass(frozen=True, slots=True)
class Guardrails:
    """All checks of an agent, by stage."""

    input: tuple[Guardrail, ...] = ()
    tool_call: tuple[Guardrail, ...] = ()
    tool_result: tuple[Guardrail, ...] = ()
    output: tuple[Guardrail, ...] = ()

    @classmethod
    def of(cls, given: Iterable[Guardrail | GuardrailSource]) -> Guardrails:
        """Sort checks by their stage.

        Raises:
            UserError: an element is not a guardrail.
        """
        checks: list[Guardrail] = []
        for each in given:
            if isinstance(each, Guardrail):
                checks.append(each)
            elif isinstance(each, GuardrailSource):  # pyright: ignore[reportUnnecessaryIsInstance]
                checks += each.guardrails()
            else:
                raise UserError(f"{each!r} is no guardrail: decorate it, for example with `@input_guardrail`.")
        return cls(**{stage: tuple(each for each in checks if each.stage == stage) for stage in cls.__slots__})


def _name(check: Callable[..., Any]) -> str:
    return getattr(check, "__name__", type(check).__name__)
