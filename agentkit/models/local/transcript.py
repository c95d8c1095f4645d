"""Conversations as token ids that only grow: a rendered message is never rendered again.

A transcript remembers which message objects it holds. The next request of the same conversation brings the same
objects and some new ones; only those are encoded. The tokens that the model itself wrote stay as it wrote them.
Two requests that continue one point differently fork the transcript.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

from agentkit.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    RetryPromptPart,
    SystemPromptPart,
    ToolReturnPart,
    UserPromptPart,
)
from agentkit.models.local.convention import said, tool_specs
from agentkit.tools.definition import ToolDefinition
from agentkit.tools.found_tools import defined_in
from modelstack.tokenizer.chat import ChatEncoder, Role
from modelstack.toolcalls.manner import Manner, OurManner

MAX_TRANSCRIPTS = 64
"""Number of conversations that are kept; a dropped one is only rendered anew."""


@dataclass(frozen=True, slots=True)
class Mark:
    """State of a transcript after one of its messages."""

    n_ids: int
    tools: Mapping[str, ToolDefinition]
    last_role: Role | None
    reply_is_open: bool
    n_known: int


@dataclass(slots=True, eq=False)
class Transcript:
    """A conversation."""

    key: str
    """Name of the conversation for the engine's cache."""
    encoder: ChatEncoder
    """Encoder that shows the tools with which the conversation began."""
    ids: list[int] = field(default_factory=list[int])
    messages: list[ModelMessage] = field(default_factory=list[ModelMessage])
    marks: list[Mark] = field(default_factory=list[Mark])
    """State of the transcript after each message."""
    tools: Mapping[str, ToolDefinition] = field(default_factory=dict[str, ToolDefinition])
    """Tools that have been shown to the model."""
    last_role: Role | None = None
    """Role of the last turn; the tokens before the next turn may depend on it."""
    n_fixed: int = 0
    """Tokens before the first words of the user, tools included: later conversations begin with them, too."""
    n_known: int = 0
    """Tokens up to the end of the last reply that the model wrote here."""
    reply_is_open: bool = False
    """True if the last tokens are the model's own and its turn has not been closed yet."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation, ready to be continued."""

    transcript: Transcript
    n_messages: int
    """Number of messages in the transcript when the prompt was made."""
    ids: list[int]
    n_fixed: int
    """Tokens before the first words of the user, tools included."""
    n_known: int
    """Tokens up to the end of the conversation's last reply; the others are new."""


class Transcripts:
    """All conversations of one model, least recently used first."""

    def __init__(self, manner: Manner | ChatEncoder, *, abstain: bool = False) -> None:
        """Render with `manner`; an encoder stands for `OurManner`, in which `abstain` allows the reply `[]`."""
        self._manner = OurManner(manner, abstain=abstain) if isinstance(manner, ChatEncoder) else manner
        self._by_message: dict[int, tuple[Transcript, int]] = {}
        self._all: OrderedDict[str, Transcript] = OrderedDict()
        self._names = count(1)

    def extend(
        self,
        messages: Sequence[ModelMessage],
        tools: Sequence[ToolDefinition],
        *,
        structured: bool,
        thinks: bool = False,
        found: Collection[str] = (),
    ) -> Prompt:
        """Return the ids of `messages` and the opening of a reply, which begins with a thought if `thinks`.

        The system turn shows the `tools` that were not `found` during the conversation. Found ones stand where
        they were found, or follow the messages if no message defines them any more.

        Raises:
            UserError: the model's template cannot show these tools.
        """
        from_beginning = [tool for tool in tools if tool.name not in found]
        found_tools = {tool.name: tool for tool in tools if tool.name in found}
        transcript = self._find(messages, from_beginning, thinks)
        n_known = transcript.n_known
        for message in messages[len(transcript.messages) :]:
            self._append(transcript, message, from_beginning, structured)
            if found_tools:
                self._note_defined(transcript, message, found_tools)
            self._record(transcript, message)
        self._tell_new_tools(transcript, tools)
        opening = self._manner.reply_opening(transcript.encoder, transcript.last_role or "user", thinks=thinks)
        return Prompt(transcript, len(transcript.messages), transcript.ids + opening, transcript.n_fixed, n_known)

    def add_reply(self, prompt: Prompt, reply_ids: list[int], response: ModelResponse) -> None:
        """Record the model's reply to a prompt."""
        transcript = prompt.transcript
        if len(transcript.messages) > prompt.n_messages:  # another request continued from the same point
            transcript = self._fork(transcript, prompt.n_messages)
        transcript.ids = prompt.ids + reply_ids
        transcript.last_role = "assistant"
        transcript.reply_is_open = True
        transcript.n_known = len(transcript.ids)
        self._record(transcript, response)

    def _find(self, messages: Sequence[ModelMessage], tools: Sequence[ToolDefinition], thinks: bool) -> Transcript:
        """Return the transcript that holds the longest beginning of `messages`, or a new one."""
        for n in range(len(messages), 0, -1):
            known = self._by_message.get(id(messages[n - 1]))
            if known is None or known[1] != n - 1:
                continue
            transcript = known[0]
            # An earlier message may have been rendered differently: with the note of a limit, or compacted.
            if any(shown is not given for shown, given in zip(transcript.messages, messages[:n], strict=False)):
                continue
            if n < len(transcript.messages):
                transcript = self._fork(transcript, n)
            self._all.move_to_end(transcript.key)
            return transcript
        encoder = self._manner.encoder(tool_specs(tools), thinks=thinks)
        return self._add(Transcript(f"conversation {next(self._names)}", encoder))

    def _fork(self, origin: Transcript, n_messages: int) -> Transcript:
        mark = origin.marks[n_messages - 1]
        copy = Transcript(
            f"conversation {next(self._names)}",
            origin.encoder,
            ids=origin.ids[: mark.n_ids],
            messages=origin.messages[:n_messages],
            marks=origin.marks[:n_messages],
            tools=mark.tools,
            last_role=mark.last_role,
            reply_is_open=mark.reply_is_open,
            n_fixed=origin.n_fixed,
            n_known=mark.n_known,
        )
        return self._add(copy)

    def _add(self, transcript: Transcript) -> Transcript:
        self._all[transcript.key] = transcript
        if len(self._all) > MAX_TRANSCRIPTS:
            _, oldest = self._all.popitem(last=False)
            for message in oldest.messages:
                if self._by_message.get(id(message), (None, 0))[0] is oldest:
                    del self._by_message[id(message)]
        return transcript

    def _record(self, transcript: Transcript, message: ModelMessage) -> None:
        self._by_message[id(message)] = (transcript, len(transcript.messages))
        transcript.messages.append(message)
        transcript.marks.append(
            Mark(
                len(transcript.ids),
                transcript.tools,
                transcript.last_role,
                transcript.reply_is_open,
                transcript.n_known,
            )
        )

    def _append(
        self, transcript: Transcript, message: ModelMessage, tools: Sequence[ToolDefinition], structured: bool
    ) -> None:
        if isinstance(message, ModelResponse):
            self._turn(transcript, "assistant", said(self._manner, message))
        else:
            if not transcript.messages:
                system = self._system_text(message, tools, structured)
                transcript.tools = {tool.name: tool for tool in tools}
                if system:
                    self._turn(transcript, "system", system)
            turns = self._request_turns(message, skip_system=not transcript.messages)
            if turns and not transcript.messages:
                # What opens the first turn is fixed too: templates write the tools there, behind the system text.
                opening = transcript.encoder.opening_ids(turns[0][0], previous=transcript.last_role)
                transcript.n_fixed = len(transcript.ids) + len(opening)
            for role, text in turns:
                self._turn(transcript, role, text)

    def _note_defined(
        self, transcript: Transcript, message: ModelMessage, found: Mapping[str, ToolDefinition]
    ) -> None:
        """Record the tools whose definitions stand in the message."""
        if isinstance(message, ModelRequest):
            names = (name for part in message.parts for name in defined_in(part))
            shown = {name: found[name] for name in names if name in found}
            transcript.tools = {**transcript.tools, **shown} if shown else transcript.tools

    def _system_text(self, request: ModelRequest, tools: Sequence[ToolDefinition], structured: bool) -> str:
        texts = [part.content for part in request.parts if isinstance(part, SystemPromptPart)]
        return self._manner.system_text(texts, tool_specs(tools), structured=structured)

    def _tell_new_tools(self, transcript: Transcript, tools: Sequence[ToolDefinition]) -> None:
        new = [tool for tool in tools if transcript.tools.get(tool.name) != tool]
        if new:
            self._turn(transcript, *self._manner.new_tools(tool_specs(new)))
            transcript.tools = {**transcript.tools, **{tool.name: tool for tool in new}}

    def _request_turns(self, request: ModelRequest, *, skip_system: bool) -> list[tuple[Role, str]]:
        turns: list[tuple[Role, str]] = []
        for part in request.parts:
            match part:
                case SystemPromptPart(content=text):
                    if not skip_system:
                        turns.append(("system", text))
                case UserPromptPart(text=text):
                    turns.append(("user", text))
                case ToolReturnPart(tool_name=name, text=text):
                    turns.append(("tool", self._manner.result(name, text)))
                case RetryPromptPart(tool_call_id=None, content=text):
                    turns.append(("user", text))
                case RetryPromptPart(tool_name=name, content=text):
                    turns.append(("tool", self._manner.retry(name, text)))
        return turns

    def _turn(self, transcript: Transcript, role: Role, text: str) -> None:
        encoder = transcript.encoder
        if transcript.reply_is_open:
            transcript.ids = transcript.ids + encoder.assistant_suffix_ids
            transcript.reply_is_open = False
        marks = self._manner.marks if role in ("assistant", "tool") else None
        turn = encoder.encode_turn(role, text, previous=transcript.last_role, marks=marks)
        transcript.ids = transcript.ids + turn.ids
        transcript.last_role = role
