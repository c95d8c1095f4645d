"""Encoding of conversations to token ids, append-only and with the origin of every token.

A chat template is a program over the whole conversation. If it is run again on every turn, it may change earlier
text; content may spell control tokens; and the origin of a token is unknown. Here a template is reduced to the
text before and after each role's content (`chat_template` learns and verifies it). A turn is then only appended,
template text and content are encoded separately, and each id has a known origin.

The loop of a runtime: `encode_turn` for each new message, `generation_ids` before a reply, the generated ids
unchanged, `assistant_suffix_ids` after them. Generated tokens are kept and never rendered and encoded again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from modelstack.errors import UserError
from modelstack.tokenizer.vocabulary import Vocabulary

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")
Source = Literal["template", "chatml", "plain"]

TOOL_RESULT_MARKER = "Tool result:\n"
"""Start of a tool result inside a user turn, for templates without a role for tools."""
CUT = "\udfff"
"""Character in template text that splits the name of a special token spelled by a tool's description. No text
contains it.
"""
CHATML_START, CHATML_END = "<|im_start|>", "<|im_end|>"


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """A message for the renderer."""

    role: Role
    content: str
    trusted: bool | None = None
    """Whether its instructions may be followed; None: True for all roles but `tool`."""


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of rendered text: template text ("control") or a message's text ("content")."""

    text: str
    kind: Literal["control", "content"]
    role: Role
    trusted: bool


@dataclass(frozen=True, slots=True)
class IdSpan:
    """Origin of the ids in [start, end)."""

    start: int
    end: int
    role: Role
    kind: Literal["control", "content"]
    trusted: bool


@dataclass(slots=True)
class EncodedTurn:
    """Ids of one or more turns with their origin; the spans cover all ids, in order, without gaps."""

    ids: list[int] = field(default_factory=list)
    spans: list[IdSpan] = field(default_factory=list)

    def extend(self, ids: Sequence[int], role: Role, kind: Literal["control", "content"], trusted: bool) -> None:
        """Append ids with the same origin."""
        if ids:
            start = len(self.ids)
            self.ids.extend(ids)
            self.spans.append(IdSpan(start, len(self.ids), role, kind, trusted))

    def append(self, turn: EncodedTurn) -> None:
        """Append another turn."""
        offset = len(self.ids)
        self.ids.extend(turn.ids)
        self.spans.extend(IdSpan(s.start + offset, s.end + offset, s.role, s.kind, s.trusted) for s in turn.spans)


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """The text around contents. `opens` depends on the previous turn and the role, `closes` on the role only."""

    source: Source
    """Origin of the format."""
    starts: Mapping[Role, str]
    """Text before the first content of a conversation, by its role; includes the begin-of-text token."""
    opens: Mapping[tuple[Role, Role], str]
    """Text before a content, by the role of the previous turn and its own role."""
    closes: Mapping[Role, str]
    """Text after a content, by its role."""
    generation: Mapping[Role, str]
    """Text before a reply of the assistant, by the role of the previous turn."""
    thinking: Mapping[Role, str] = field(default_factory=dict["Role", str])
    """Text before a thought and a reply, for roles where it differs from `generation`."""
    trimmed: frozenset[Role] = frozenset()
    """Roles whose content is stripped of blanks at both ends."""
    default_system: str | None = None
    """System prompt that the format itself adds to a conversation without one."""
    why_fallback: str | None = None
    """Reason why the model's own template is not used; None if it is used."""

    @classmethod
    def chatml(cls, *, bos_token: str = "", why_fallback: str | None = None) -> ChatFormat:
        """Return ChatML as OpenAI published it, with the role `tool`."""
        opens: dict[Role, str] = {role: f"{CHATML_START}{role}\n" for role in ROLES}
        closes: dict[Role, str] = dict.fromkeys(ROLES, f"{CHATML_END}\n")
        return _context_free("chatml", bos_token, opens, closes, why_fallback)

    @classmethod
    def plain(cls, *, bos_token: str = "", eos_token: str = "", why_fallback: str | None = None) -> ChatFormat:
        """Return a format with role names in plain text, for a vocabulary without control tokens for turns."""
        opens: dict[Role, str] = {
            "system": "System:\n",
            "user": "User:\n",
            "assistant": "Assistant:\n",
            "tool": TOOL_RESULT_MARKER,
        }
        closes: dict[Role, str] = dict.fromkeys(ROLES, "\n\n")
        closes["assistant"] = f"{eos_token}\n\n"
        return _context_free("plain", bos_token, opens, closes, why_fallback)

    def opening(self, role: Role, *, previous: Role | None = None) -> str:
        """Return the text before a content after a turn of role `previous`, None for the first one.

        Raises:
            ValueError: The format does not allow this turn here (for most formats, a system turn after others).
        """
        opening = self.starts.get(role) if previous is None else self.opens.get((previous, role))
        if opening is None:
            raise ValueError(f"this model's chat format has no {role} turn after a {previous} turn; put it first")
        return opening

    def render_turn(
        self, role: Role, content: str, *, previous: Role | None = None, trusted: bool | None = None
    ) -> list[Span]:
        """Return the pieces of one turn after a turn of role `previous`, None for the first one.

        Raises:
            ValueError: The format does not allow this turn here.
        """
        if role in self.trimmed:
            content = content.strip()
        pieces = [
            Span(self.opening(role, previous=previous), "control", role, True),
            Span(content, "content", role, role != "tool" if trusted is None else trusted),
            Span(self.closes[role], "control", role, True),
        ]
        return [piece for piece in pieces if piece.text]

    def render(self, messages: Sequence[ChatMessage], *, add_generation_prompt: bool = False) -> str:
        """Return the text of a whole conversation; it equals the template's own rendering."""
        parts: list[str] = []
        previous: Role | None = None
        for message in messages:
            parts += [span.text for span in self.render_turn(message.role, message.content, previous=previous)]
            previous = message.role
        if add_generation_prompt and previous is not None:
            parts.append(self.generation[previous])
        return "".join(parts)


def _context_free(
    source: Source, bos_token: str, opens: dict[Role, str], closes: dict[Role, str], why_fallback: str | None
) -> ChatFormat:
    """Return a format in which the opening of a turn does not depend on the turn before."""
    return ChatFormat(
        source=source,
        starts=MappingProxyType({role: bos_token + text for role, text in opens.items()}),
        opens=MappingProxyType({(before, role): opens[role] for before in ROLES for role in ROLES}),
        closes=MappingProxyType(closes),
        generation=MappingProxyType(dict.fromkeys(ROLES, opens["assistant"])),
        why_fallback=why_fallback,
    )


class ChatEncoder:
    """Encoder of turns for one format and one vocabulary; encoded template text is cached."""

    def __init__(
        self, chat_format: ChatFormat, vocabulary: Vocabulary, encode_template: Callable[[str], list[int]]
    ) -> None:
        """Store a format and the two encoders of an engine."""
        self.format = chat_format
        self._vocabulary = vocabulary
        self._encode_template = encode_template
        self._control_ids: dict[str, tuple[int, ...]] = {}

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens for encoding contents."""
        return self._vocabulary

    def encode_turn(
        self,
        role: Role,
        content: str,
        *,
        previous: Role | None = None,
        trusted: bool | None = None,
        marks: Mapping[str, int] | None = None,
    ) -> EncodedTurn:
        """Encode one turn after a turn of role `previous`, None for the first one of a conversation.

        Args:
            role: Role of the turn.
            content: Text of the turn.
            previous: Role of the previous turn.
            trusted: As in `ChatMessage`.
            marks: Special tokens by the lone surrogates that represent them in `content`, as in calls.

        Raises:
            ValueError: The format does not allow this turn here.
        """
        turn = EncodedTurn()
        for span in self.format.render_turn(role, content, previous=previous, trusted=trusted):
            is_control = span.kind == "control"
            ids = self._control(span.text) if is_control else self._content(span.text, marks or {})
            turn.extend(ids, span.role, span.kind, span.trusted)
        return turn

    def _content(self, text: str, marks: Mapping[str, int]) -> list[int]:
        ids: list[int] = []
        start = 0
        for at, character in enumerate(text) if marks else ():
            if character in marks:
                ids += [*self._vocabulary.encode(text[start:at]), marks[character]]
                start = at + 1
        return ids + self._vocabulary.encode(text[start:])

    def encode(self, messages: Sequence[ChatMessage]) -> EncodedTurn:
        """Encode a conversation; the ids of its first k messages are a prefix of the result."""
        encoded = EncodedTurn()
        previous: Role | None = None
        for message in messages:
            encoded.append(
                self.encode_turn(message.role, message.content, previous=previous, trusted=message.trusted)
            )
            previous = message.role
        return encoded

    def opening_ids(self, role: Role, *, previous: Role | None = None) -> list[int]:
        """Return the ids before a content of `role` after a turn of role `previous`.

        Raises:
            ValueError: The format does not allow this turn here.
        """
        return list(self._control(self.format.opening(role, previous=previous)))

    def content_ids(self, text: str) -> list[int]:
        """Return the ids of a message's text; none of them is a special token."""
        return self._vocabulary.encode(text)

    def mark_id(self, name: str) -> int:
        """Return the id of the special token with this name.

        Raises:
            UserError: The vocabulary has no such token.
        """
        ids = self._control(name)
        if len(ids) != 1 or ids[0] not in self._vocabulary.special_ids:
            raise UserError(f"{name!r} is not a special token of this vocabulary; write it as text")
        return ids[0]

    def control_ids(self, text: str) -> list[int]:
        """Return the ids of template text."""
        return list(self._control(text))

    def generation_ids(self, previous: Role, *, thinks: bool = False) -> list[int]:
        """Return the ids before a reply (with `thinks`, a thought and a reply) after a turn of role `previous`."""
        usual = self.format.generation[previous]
        return list(self._control(self.format.thinking.get(previous, usual) if thinks else usual))

    @property
    def assistant_suffix_ids(self) -> list[int]:
        """Ids that close an assistant turn after generated ids; they often begin with the end token itself."""
        return list(self._control(self.format.closes["assistant"]))

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end a reply: the vocabulary's, and the one that closes an assistant turn in this format."""
        first = self.assistant_suffix_ids[:1]
        return frozenset(self._vocabulary.end_ids) | {t for t in first if t in self._vocabulary.special_ids}

    def _control(self, text: str) -> tuple[int, ...]:
        if text not in self._control_ids:
            ids = [token for piece in text.split(CUT) for token in self._encode_template(piece)]
            self._control_ids[text] = tuple(ids)
        return self._control_ids[text]
