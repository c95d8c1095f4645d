"""Learn from a chat template how it shows tools and frames calls and results, and verify it.

As in `chat_template`, the template is run on probe conversations and its output is split at known texts. Here it
gets tools, and the turns between a question and its answer are calls and results. The template's output must
contain the convention's text of a call exactly; this is also how a convention is recognised.

Learnt are the text before a content, and the end of the assistant's turn, because a runtime always renders up to
the opening of a reply. So a template may close two results differently, and may write the last reply differently
from earlier ones. If results are part of the assistant's own turn (Gemma's), the end of a turn belongs to the next
turn. Tools keep their first position, even for templates that move them after later turns (Mistral's).
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal, Protocol

from modelstack.tokenizer.chat import CUT, ChatFormat, Role
from modelstack.tokenizer.chat_template import CHECK_CONTENTS, SYSTEM_SEPARATOR
from modelstack.tokenizer.template_sandbox import Render, TemplateError, compile_template

Step = Literal["system", "user", "assistant", "call", "tool"]
Shown = Mapping[str, Any]
OPEN_THOUGHT, CLOSED_THOUGHT = "<think>", "\n</think>\n\n"
"""Text with which templates of reasoning models open a thought at the end of a prompt, and close an empty one."""
REQUIRED: tuple[tuple[Step, ...], ...] = (
    ("user",),
    ("user", "call", "tool"),
)
PARALLEL: tuple[tuple[Step, ...], ...] = (("user", "call", "tool", "tool"),)
WANTED: tuple[tuple[Step, ...], ...] = (
    ("user", "call", "tool", "call", "tool"),
    ("user", "assistant", "user"),
    ("user", "call", "tool", "assistant", "user"),
    ("user", "call", "tool", "assistant", "user", "call", "tool"),
)
"""Conversations for which a template that depends on other turns may differ; a difference is noted, not an error.
"""


class Dialect(Protocol):
    """A convention for calls and results, and the input of a template for them."""

    @property
    def tools(self) -> Sequence[Shown]:
        """Tools for probes."""
        ...

    @property
    def parallel(self) -> bool:
        """Whether one reply may contain several calls."""
        ...

    def call(self, texts: Sequence[str]) -> tuple[Shown, str]:
        """Return a message with one call per text, contained in the arguments, and its form in the convention."""
        ...

    def result(self, text: str, number: int) -> tuple[Shown, str]:
        """Return the message of the result `text` of call `number`, and the convention's text of it."""
        ...


@dataclass(frozen=True, slots=True)
class ToolTurns:
    """Learnt turns; `format_for` returns the format of conversations with given tools."""

    probe: _Probe
    learnt: ChatFormat
    """Format with the probes' tools."""
    has_system: bool
    closed_thought: str
    """Text after the opening of a reply without a thought; empty for most models."""
    note: str | None
    """Difference between longer conversations and the template's own rendering; None if there is none."""

    def format_for(
        self, tools: Sequence[Shown], special_names: Iterable[str] = (), *, thinks: bool = False
    ) -> ChatFormat:
        """Return the format of conversations with these tools.

        Args:
            tools: Tools as `{"type": "function", "function": {...}}`.
            special_names: Names of special tokens; a name spelled by a tool is split, so that it stays text.
            thinks: Whether the system turn enables thoughts, if the template supports it.

        Raises:
            TemplateError: The template rejects these tools.
        """
        shown = _guarded(tools, _any_of(special_names)) if tools else None
        return _with_tools(self.learnt, self.probe, shown, has_system=self.has_system, thinks=thinks)


def learn_tool_turns(template: str, dialect: Dialect, *, bos_token: str = "", eos_token: str = "") -> ToolTurns:
    """Return a template's framing of tools, calls and results.

    Raises:
        TemplateError: The template is invalid, exceeds a limit, writes calls differently from `dialect`, or cannot
            be composed of turns.
    """
    render = compile_template(template, bos_token=bos_token, eos_token=eos_token)
    return _Learner(_Probe(render, bos_token, dialect)).learn()


class _Probe:
    """Runner of the template on conversations with marked contents."""

    def __init__(self, render: Render, bos_token: str, dialect: Dialect) -> None:
        self._render = render
        self._bos_token = bos_token
        self.dialect = dialect

    def rendered(
        self, steps: Sequence[Step], contents: Sequence[str], tools: Sequence[Shown] | None, **context: Any
    ) -> tuple[str, list[str]]:
        """Return the template's text up to the opening of a reply, and the texts of the contents in it."""
        messages: list[Shown] = []
        written: list[str] = []
        n_results = 0
        for at, (step, content) in enumerate(zip(steps, contents, strict=True)):
            if step == "call":
                n_calls = max(1, sum(1 for _ in itertools.takewhile(lambda s: s == "tool", steps[at + 1 :])))
                message, text = self.dialect.call([f"{content} {k}" for k in range(n_calls)])
                n_results = 0
            elif step == "tool":
                message, text = self.dialect.result(content, n_results)
                n_results += 1
            else:
                message, text = {"role": step, "content": content}, content
            messages.append(message)
            written.append(text)
        prompt = context.pop("add_generation_prompt", True)
        # SmolLM3's template uses this name for tools that are called with JSON between tags.
        text = self._render(messages, prompt, tools=tools, xml_tools=tools, **context)
        return text if text.startswith(self._bos_token) else self._bos_token + text, written

    def between(self, steps: Sequence[Step], tools: Sequence[Shown] | None, **context: Any) -> list[str]:
        """Return the texts before, between and after the contents.

        Raises:
            TemplateError: The template rejects it, or does not render every content once and in order.
        """
        marks = [f"\u27e6content {at} of {len(steps)}\u27e7" for at in range(len(steps))]
        rest, written = self.rendered(steps, marks, tools, **context)
        texts: list[str] = []
        for step, mark, text in zip(steps, marks, written, strict=True):
            before, found, rest = rest.partition(text)
            if not found or mark in rest or mark in before:
                what = f"a call as {text!r}" if step == "call" else f"a {step} turn's content once and in order"
                raise TemplateError(f"the template does not write {what}")
            texts.append(before)
        return [*texts, rest]

    def trims(self, steps: Sequence[Step], at: int) -> bool:
        """Whether the template strips blanks around the content at index `at`."""
        contents = [f"content {number}" for number in range(len(steps))]
        contents[at] = "  \n\u27e6mark\u27e7\n  "
        text, written = self.rendered(steps, contents, self.dialect.tools)
        return written[at] not in text


class _Learner:
    """Builder of the turns of one template."""

    def __init__(self, probe: _Probe) -> None:
        self.probe = probe
        self.tools = probe.dialect.tools
        self.opens: dict[tuple[Role, Role], str] = {}

    def learn(self) -> ToolTurns:
        start, to_call, to_result, to_reply = self._between("user", "call", "tool")
        end = self._between("user", "assistant", add_generation_prompt=False)[-1]
        to_user = self._untooled("user", "assistant", "user")[2]
        close = end if to_result.startswith(end) and to_user.startswith(end) else ""
        first = self._between("user")
        opens = self.opens
        opens["user", "assistant"] = to_call
        opens["assistant", "tool"] = to_result.removeprefix(close)
        opens["assistant", "user"] = to_user.removeprefix(close)
        opens["assistant", "assistant"] = to_call
        opens["user", "user"] = self._gap(("user", "user"), 1, to_user)
        opens["tool", "user"] = self._gap(("user", "call", "tool", "user"), 3, to_user)
        opens["tool", "assistant"] = self._gap(("user", "call", "tool", "call", "tool"), 3, to_reply)
        opens["tool", "tool"] = self._gap(("user", "call", "tool", "tool"), 3, to_result)
        opens["user", "tool"] = opens["user", "user"]
        closes: dict[Role, str] = {"system": "", "user": "", "assistant": close, "tool": ""}
        generation: dict[Role, str] = {"user": first[-1], "tool": to_reply, "assistant": to_call}
        if not close:
            opens["assistant", "assistant"] = self._gap(("user", "assistant", "assistant"), 2, end + to_call)
            generation["assistant"] = self._gap(("user", "assistant"), 2, end + to_call)
        learnt = ChatFormat(
            source="template",
            starts=MappingProxyType({"user": start}),
            opens=MappingProxyType(opens),
            closes=MappingProxyType(closes),
            generation=MappingProxyType(generation),
            thinking=self._thinking(generation),
        )
        closed_thought = self._closed_thought(first[-1])
        for has_system in (True, False) if self._has_system() else (False,):
            whole = replace(learnt, trimmed=self._trimmed(has_system))
            whole = _with_tools(whole, self.probe, self.tools, has_system=has_system)
            if not self._shows_tools(whole.starts["user"]):
                raise TemplateError("the template does not show tools")
            try:
                return ToolTurns(self.probe, whole, has_system, closed_thought, self._verify(whole, has_system))
            except TemplateError:
                if not has_system:
                    raise
        raise AssertionError("unreachable")

    def _between(self, *steps: Step, **context: Any) -> list[str]:
        return self.probe.between(steps, self.tools, **context)

    def _untooled(self, *steps: Step) -> list[str]:
        """Return the result of `between`, without tools if the template shows them again before a later turn."""
        texts = self._between(*steps)
        return self.probe.between(steps, None) if any(self._shows_tools(text) for text in texts[1:]) else texts

    def _shows_tools(self, text: str) -> bool:
        return any(str(tool["function"]["name"]) in text for tool in self.tools)

    def _gap(self, steps: tuple[Step, ...], at: int, otherwise: str) -> str:
        """Return the text before the content at index `at`; `otherwise` if the template rejects the order."""
        with contextlib.suppress(TemplateError):
            text = self._between(*steps)[at]
            return otherwise if self._shows_tools(text) else text
        return otherwise

    def _has_system(self) -> bool:
        with contextlib.suppress(TemplateError):
            return bool(self._between("system", "user"))
        return False

    def _trimmed(self, has_system: bool) -> frozenset[Role]:
        probes: dict[Role, tuple[tuple[Step, ...], int]] = {
            "user": (("user",), 0),
            "assistant": (("user", "assistant", "user"), 1),
            "tool": (("user", "call", "tool"), 2),
        }
        if has_system:
            probes["system"] = (("system", "user"), 0)
        return frozenset(role for role, (steps, at) in probes.items() if self.probe.trims(steps, at))

    def _closed_thought(self, opening: str) -> str:
        """Return the text after the opening of a reply when thinking is disabled."""
        with contextlib.suppress(TemplateError):
            without = self._between("user", enable_thinking=False)[-1]
            if without.startswith(opening) and without != opening:
                return without.removeprefix(opening)
        return CLOSED_THOUGHT if opening.rstrip().endswith(OPEN_THOUGHT) else ""

    def _thinking(self, generation: Mapping[Role, str]) -> Mapping[Role, str]:
        """Return the openings of replies that begin with a thought, for roles where they are not `generation`."""
        asked: dict[Role, tuple[Step, ...]] = {"user": ("user",), "tool": ("user", "call", "tool")}
        found: dict[Role, str] = {}
        for role, steps in asked.items():
            with contextlib.suppress(TemplateError):
                found[role] = self._between(*steps, enable_thinking=True)[-1]
        return MappingProxyType({role: text for role, text in found.items() if text != generation[role]})

    def _verify(self, learnt: ChatFormat, has_system: bool) -> str | None:
        """Compare with the template; return the difference in a wanted conversation, None if there is none.

        Raises:
            TemplateError: A required conversation differs or is rejected.
        """
        required = REQUIRED + (PARALLEL if self.probe.dialect.parallel else ())
        if has_system:
            system: tuple[Step, ...] = ("system",)
            required += tuple(system + steps for steps in required)
        for steps in required:
            if (difference := self._difference(learnt, steps)) is not None:
                raise TemplateError(difference)
        for steps in WANTED:
            try:
                difference = self._difference(learnt, steps)
            except TemplateError as error:
                difference = str(error)
            if difference is not None:
                return difference
        return None

    def _difference(self, learnt: ChatFormat, steps: Sequence[Step]) -> str | None:
        for shift in range(len(CHECK_CONTENTS)):
            contents = list(itertools.islice(itertools.cycle(CHECK_CONTENTS), shift, shift + len(steps)))
            theirs, written = self.probe.rendered(steps, contents, self.tools)
            ours = composed(learnt, steps, written)
            if theirs != ours:
                at = next((k for k, (x, y) in enumerate(zip(theirs, ours, strict=False)) if x != y), len(ours))
                return (
                    f"{'-'.join(steps)}: the template writes {theirs[at : at + 40]!r} where consecutive "
                    f"turns have {ours[at : at + 40]!r}"
                )
        return None


def composed(learnt: ChatFormat, steps: Sequence[Step], contents: Sequence[str]) -> str:
    """Return a conversation up to the opening of a reply, composed of consecutive turns as in a runtime."""
    parts: list[str] = []
    previous: Role | None = None
    for step, content in zip(steps, contents, strict=True):
        role: Role = "assistant" if step == "call" else step
        parts += [span.text for span in learnt.render_turn(role, content, previous=previous)]
        previous = role
    return "".join(parts) + learnt.generation[previous or "user"]


def _with_tools(
    learnt: ChatFormat, probe: _Probe, tools: Sequence[Shown] | None, *, has_system: bool, thinks: bool = False
) -> ChatFormat:
    """Return a format with the texts before the first content and after a system prompt for these tools."""
    starts, opens, generation = dict(learnt.starts), dict(learnt.opens), dict(learnt.generation)
    context = {"enable_thinking": True} if thinks else {}
    starts["user"] = probe.between(("user",), tools, **context)[0]
    if has_system:
        starts["system"], opens["system", "user"], _ = probe.between(("system", "user"), tools, **context)
    else:
        starts["system"], opens["system", "user"] = starts["user"], SYSTEM_SEPARATOR
    for role in ("assistant", "tool"):  # as after an empty question
        starts[role] = starts["user"] + opens["user", role]
        opens["system", role] = opens["system", "user"] + opens["user", role]
    generation["system"] = opens["system", "user"] + generation["user"]
    thinking = dict(learnt.thinking)
    if "user" in thinking:
        thinking["system"] = opens["system", "user"] + thinking["user"]
    return replace(
        learnt,
        starts=MappingProxyType(starts),
        opens=MappingProxyType(opens),
        generation=MappingProxyType(generation),
        thinking=MappingProxyType(thinking),
    )


def _guarded(value: Any, names: re.Pattern[str]) -> Any:
    """Return a JSON value whose strings spell no special token: each name is split after its first character."""
    if isinstance(value, str):
        return names.sub(lambda match: match.group()[0] + CUT + match.group()[1:], value.replace(CUT, ""))
    if isinstance(value, Mapping):
        return {_guarded(key, names): _guarded(item, names) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_guarded(item, names) for item in value]
    return value


def _any_of(names: Iterable[str]) -> re.Pattern[str]:
    longest_first = sorted({name for name in names if len(name) > 1}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
