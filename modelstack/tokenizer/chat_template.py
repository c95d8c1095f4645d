"""Learn the text before and after each role's content from a Jinja chat template, and verify it.

The template is run on probe conversations with unique marks as contents, and its output is split at the marks. The
text between two contents is split again at the point where the first turn alone would end. Then longer
conversations are rendered both ways. A template that depends on other turns (moves the system prompt into the last
user turn, drops old reasoning) fails this check, and the caller falls back to a format that supports appending.

Roles that the template rejects are emulated: a system prompt becomes the start of the first user turn, and a tool
result becomes a user turn with a marker. For an order that the template rejects, each turn is opened as after its
usual predecessor.
"""

from __future__ import annotations

import contextlib
import itertools
import os.path
from collections.abc import Sequence
from types import MappingProxyType
from typing import Protocol

from modelstack.tokenizer.chat import (
    CHATML_END,
    CHATML_START,
    TOOL_RESULT_MARKER,
    ChatEncoder,
    ChatFormat,
    ChatMessage,
    Role,
)
from modelstack.tokenizer.template_sandbox import Render, TemplateError, compile_template
from modelstack.tokenizer.vocabulary import Vocabulary

PATHS: dict[Role, tuple[Role, ...]] = {
    "system": ("system",),
    "user": ("user",),
    "assistant": ("user", "assistant"),
    "tool": ("user", "assistant", "tool"),
}
"""Shortest usual conversation that ends with a turn of this role."""
USUAL_BEFORE: dict[Role, Role] = {"user": "assistant", "assistant": "user", "tool": "assistant"}
SYSTEM_SEPARATOR = "\n\n"
"""Text between a system prompt and the user's text if the template has no system role, as in Gemma's template."""
CHECK_CONTENTS = ("Hello there.", "Fine?\nTwo lines.", 'Grüße {"a": [1]} 你好', " 0 ", "a  b\t<x> 'q' \\n")
CHECKED: tuple[tuple[Role, ...], ...] = (
    ("user",),
    ("user", "assistant", "user"),
    ("user", "assistant", "user", "assistant", "user", "assistant"),
)
CHECKED_WITH_SYSTEM: tuple[tuple[Role, ...], ...] = (
    ("system", "user"),
    ("system", "user", "assistant", "user"),
    ("system", "user", "assistant", "user", "assistant"),
)
CHECKED_WITH_TOOL: tuple[tuple[Role, ...], ...] = (
    ("user", "assistant", "tool"),
    ("user", "assistant", "tool", "assistant", "user"),
    ("user", "assistant", "tool", "assistant", "tool", "assistant"),
)


class TemplateNotComposable(Exception):
    """Raised if a template cannot be reduced to text before and after contents; the message names the failure."""


class TemplateOwner(Protocol):
    """The attributes of an engine, or of a tokenizer, that its chat format follows from."""

    @property
    def vocabulary(self) -> Vocabulary:
        """The model's tokens."""
        ...

    @property
    def chat_template(self) -> str | None:
        """The Jinja template shipped with the weights."""
        ...

    def encode_template(self, text: str) -> list[int]:
        """Encode template text; names of special tokens become those tokens."""
        ...


def chat_encoder(owner: TemplateOwner) -> ChatEncoder:
    """Return the encoder of conversations of a model, in its own format."""
    return ChatEncoder(chat_format_of(owner), owner.vocabulary, owner.encode_template)


def chat_format_of(owner: TemplateOwner) -> ChatFormat:
    """Learn the format from a model's template, or fall back to ChatML or plain text.

    The fallback depends on the control tokens of the vocabulary; `why_fallback` states the reason.
    """
    vocabulary = owner.vocabulary
    bos, eos = _name(vocabulary, vocabulary.bos_id), _name(vocabulary, next(iter(vocabulary.end_ids), None))
    reason = "the model carries no chat template"
    if owner.chat_template:
        try:
            return learn_format(owner.chat_template, bos_token=bos, eos_token=eos)
        except TemplateNotComposable as error:
            reason = str(error)
    special = {vocabulary.token_bytes[token].decode("utf-8", "replace") for token in vocabulary.special_ids}
    if {CHATML_START, CHATML_END} <= special:
        return ChatFormat.chatml(bos_token=bos, why_fallback=reason)
    return ChatFormat.plain(bos_token=bos, eos_token=eos, why_fallback=reason)


def _name(vocabulary: Vocabulary, token: int | None) -> str:
    return "" if token is None else vocabulary.token_bytes[token].decode("utf-8", "replace")


def learn_format(template: str, *, bos_token: str = "", eos_token: str = "") -> ChatFormat:
    """Return the format that a template writes, with as many of its own roles as possible.

    Raises:
        TemplateNotComposable: The template is invalid, exceeds a limit, or depends on more than the previous turn.
    """
    reason = ""
    try:
        render = compile_template(template, bos_token=bos_token, eos_token=eos_token)
    except TemplateError as error:
        raise TemplateNotComposable(str(error)) from error
    for with_system, with_tool in itertools.product((True, False), repeat=2):
        try:
            return _Learner(_Probe(render, bos_token), with_system, with_tool).learn()
        except TemplateError as error:
            reason = str(error)
    raise TemplateNotComposable(reason)


class _Probe:
    """Runner of the template on conversations with marked contents."""

    def __init__(self, render: Render, bos_token: str) -> None:
        self._render = render
        self._bos_token = bos_token

    def render(self, messages: Sequence[ChatMessage], *, add_generation_prompt: bool = False) -> str:
        """Return the template's rendering; add the begin token if the template leaves it to the tokenizer."""
        text = self._render([{"role": m.role, "content": m.content} for m in messages], add_generation_prompt)
        return text if text.startswith(self._bos_token) else self._bos_token + text

    def between(self, roles: Sequence[Role], *, add_generation_prompt: bool = False) -> list[str]:
        """Return the texts before, between and after the contents of a conversation with these roles.

        Raises:
            TemplateError: The template rejects it, or does not render every content once and in order.
        """
        marks = [f"\u27e6content {i} of {len(roles)}\u27e7" for i in range(len(roles))]
        messages = [ChatMessage(role, mark) for role, mark in zip(roles, marks, strict=True)]
        rest = self.render(messages, add_generation_prompt=add_generation_prompt)
        texts: list[str] = []
        for mark in marks:
            before, found, rest = rest.partition(mark)
            if not found or mark in rest:
                raise TemplateError(f"contents are not each rendered once and in order for {'-'.join(roles)}")
            texts.append(before)
        return [*texts, rest]

    def trims(self, roles: Sequence[Role], at: int) -> bool:
        """Whether the template strips blanks around the content at index `at`."""
        contents = [f"content {i}" for i in range(len(roles))]
        contents[at] = "  \n\u27e6mark\u27e7\n  "
        return contents[at] not in self.render(list(map(ChatMessage, roles, contents)))


class _Learner:
    """Builder of one format, with or without the template's own system and tool roles."""

    def __init__(self, probe: _Probe, with_system: bool, with_tool: bool) -> None:
        self.probe = probe
        self.with_system = with_system
        self.with_tool = with_tool
        self.starts: dict[Role, str] = {}
        self.opens: dict[tuple[Role, Role], str] = {}
        self.closes: dict[Role, str] = {}

    def learn(self) -> ChatFormat:
        self.starts["user"], self.closes["user"] = self.probe.between(("user",))
        self.closes["assistant"] = self.probe.between(PATHS["assistant"])[-1]
        self.opens["user", "assistant"] = self._opening(PATHS["user"], "assistant")
        self.opens["assistant", "user"] = self._opening(PATHS["assistant"], "user")
        self._learn_tool()
        self._learn_orders()
        self._learn_system()
        self._learn_odd_starts()
        learnt = ChatFormat(
            source="template",
            starts=MappingProxyType(self.starts),
            opens=MappingProxyType(self.opens),
            closes=MappingProxyType(self.closes),
            generation=MappingProxyType(self._generation()),
            trimmed=self._trimmed(),
            default_system=self._default_system(),
        )
        self._verify(learnt)
        return learnt

    def _opening(self, path: tuple[Role, ...], role: Role) -> str:
        """Return the text that opens a turn of `role` after the conversation `path`.

        Raises:
            TemplateError: The template rejects it, or the previous turn ends differently when another turn
                follows.
        """
        middle = self.probe.between((*path, role))[-2]
        close = self.closes[path[-1]]
        if not middle.startswith(close):
            raise TemplateError(
                f"a {path[-1]} turn ends with {close!r}, but with {middle!r} when a {role} turn follows"
            )
        return middle[len(close) :]

    def _learn_tool(self) -> None:
        if self.with_tool:
            self.closes["tool"] = self.probe.between(PATHS["tool"])[-1]
            self.opens["assistant", "tool"] = self._opening(PATHS["assistant"], "tool")
            self.opens["tool", "assistant"] = self._opening(PATHS["tool"], "assistant")
        else:
            self.closes["tool"] = self.closes["user"]
            self.opens["assistant", "tool"] = self.opens["assistant", "user"] + TOOL_RESULT_MARKER
            self.opens["tool", "assistant"] = self.opens["user", "assistant"]

    def _learn_orders(self) -> None:
        """Add the unusual orders of roles; for rejected ones, use the opening after the usual role."""
        roles: tuple[Role, ...] = ("user", "assistant", "tool")
        for before, role in itertools.product(roles, repeat=2):
            if (before, role) in self.opens:
                continue
            usual = self.opens[USUAL_BEFORE[role], role]
            is_askable = self.with_tool or "tool" not in (before, role)
            self.opens[before, role] = self._opening_or(PATHS[before], role, usual) if is_askable else usual

    def _learn_system(self) -> None:
        if not self.with_system:
            self.starts["system"] = self.starts["user"]
            self.closes["system"] = ""
            self.opens["system", "user"] = SYSTEM_SEPARATOR
            for role in ("assistant", "tool"):
                self.opens["system", role] = self.closes["user"] + self.opens["user", role]
            return
        self.starts["system"], middle, _ = self.probe.between(("system", "user"))
        self.closes["system"] = self._system_close(middle)
        self.opens["system", "user"] = middle[len(self.closes["system"]) :]
        for role in ("assistant", "tool"):
            self.opens["system", role] = self._opening_or(("system",), role, self.opens["user", role])
        for before in ("system", "user", "assistant", "tool"):
            with contextlib.suppress(TemplateError):  # few templates allow a second system turn
                self.opens[before, "system"] = self._opening(PATHS[before], "system")

    def _system_close(self, middle: str) -> str:
        """Return the end of the system turn, from the text between a system prompt and the user's text."""
        with contextlib.suppress(TemplateError):
            close = self.probe.between(("system",))[-1]
            if middle.startswith(close):
                return close
        user_open = self.opens["assistant", "user"]
        return middle.removesuffix(user_open) if user_open and middle.endswith(user_open) else ""

    def _learn_odd_starts(self) -> None:
        """Add conversations that begin with a reply or a tool result, which a compacted history may do."""
        for role in ("assistant", "tool"):
            self.starts[role] = self.starts["user"] + self.closes["user"] + self.opens["user", role]
            if role == "assistant" or self.with_tool:
                with contextlib.suppress(TemplateError):
                    self.starts[role] = self.probe.between((role,))[0]

    def _opening_or(self, path: tuple[Role, ...], role: Role, otherwise: str) -> str:
        try:
            return self._opening(path, role)
        except TemplateError:
            return otherwise

    def _generation(self) -> dict[Role, str]:
        """Return the text that the template adds for a reply; if rejected, the opening of an assistant turn."""
        generation: dict[Role, str] = {}
        for role, path in PATHS.items():
            generation[role] = self.opens[role, "assistant"]
            if (role == "tool" and not self.with_tool) or (role == "system" and not self.with_system):
                continue
            with contextlib.suppress(TemplateError):
                tail = self.probe.between(path, add_generation_prompt=True)[-1]
                if tail.startswith(self.closes[role]):
                    generation[role] = tail[len(self.closes[role]) :]
        if not self.with_tool:
            generation["tool"] = generation["user"]
        if not self.with_system:
            generation["system"] = self.closes["user"] + generation["user"]
        return generation

    def _trimmed(self) -> frozenset[Role]:
        trimmed: set[Role] = {role for role in ("user", "assistant") if self.probe.trims(PATHS[role], -1)}
        if self.with_system and self.probe.trims(("system", "user"), 0):
            trimmed.add("system")
        if self.with_tool and self.probe.trims(PATHS["tool"], -1):
            trimmed.add("tool")
        return frozenset(trimmed)

    def _default_system(self) -> str | None:
        """Return the template's own system prompt in conversations without one; None if there is none."""
        before, behind = self.starts["system"], self.closes["system"] + self.opens["system", "user"]
        start = self.starts["user"]
        is_framed = start.startswith(before) and start.endswith(behind) and len(start) > len(before) + len(behind)
        return start[len(before) : -len(behind)] if self.with_system and behind and is_framed else None

    def _verify(self, learnt: ChatFormat) -> None:
        """Compare the format with the template on longer conversations.

        Raises:
            TemplateError: The template rejects one of them, or its output differs.
        """
        checked = CHECKED
        checked += CHECKED_WITH_SYSTEM if self.with_system else ()
        checked += CHECKED_WITH_TOOL if self.with_tool else ()
        for roles in checked:
            contents = itertools.islice(itertools.cycle(CHECK_CONTENTS), len(roles) % 3, None)
            messages = [ChatMessage(role, content) for role, content in zip(roles, contents, strict=False)]
            for prompt in (False, True):
                theirs = self.probe.render(messages, add_generation_prompt=prompt and roles[-1] != "assistant")
                ours = learnt.render(messages, add_generation_prompt=prompt and roles[-1] != "assistant")
                if theirs != ours:
                    at = len(os.path.commonprefix([theirs, ours]))
                    raise TemplateError(
                        f"{'-'.join(roles)} cannot be composed of turns: the template writes "
                        f"{theirs[at : at + 40]!r} where the composition has {ours[at : at + 40]!r}"
                    )
