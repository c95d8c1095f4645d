"""Conversations to token ids, append-only and with the origin of every token.

A chat template is a program over the whole conversation; run anew on every turn it may change what came before,
lets content spell control tokens, and says nothing about who wrote which token. Here a template is reduced to
the text that stands before and behind each role's content (`chat_template` learns and proves that). Then a turn is
only ever appended, template text and content are encoded apart, and each id has a known origin.

The loop of a runtime: `encode_turn` for each new message, `generation_ids` before a reply, the generated ids as
they came, `assistant_suffix_ids` behind them. The generated tokens are kept, never rendered and encoded again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, Protocol

from modelstack.errors import UserError
from modelstack.tokenizer.vocabulary import Vocabulary

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")
Source = Literal["template", "chatml", "plain"]

TOOL_RESULT_MARKER = "Tool result:\n"
"""Opens a tool result inside a user turn, for templates that have no role for tools."""
CUT = "\udfff"
"""In text of a template: cuts the name of a special token that a tool's description spells. No text holds it."""
CHATML_START, CHATML_END = "<|im_start|>", "<|im_end|>"


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message as the renderer needs it."""

    role: Role
    content: str
    trusted: bool | None = None
    """Whether instructions in it may be followed; None: all but tool results."""


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of rendered text: template text ("control") or somebody's words ("content")."""

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
    """Ids of one turn or more, and where each came from; the spans cover all ids, in order, without gaps."""

    ids: list[int] = field(default_factory=list)
    spans: list[IdSpan] = field(default_factory=list)

    def extend(self, ids: Sequence[int], role: Role, kind: Literal["control", "content"], trusted: bool) -> None:
        """Append ids of one origin."""
        if ids:
            start = len(self.ids)
            self.ids.extend(ids)
            self.spans.append(IdSpan(start, len(self.ids), role, kind, trusted))

    def append(self, turn: EncodedTurn) -> None:
        """Append another turn behind this one."""
        offset = len(self.ids)
        self.ids.extend(turn.ids)
        self.spans.extend(IdSpan(s.start + offset, s.end + offset, s.role, s.kind, s.trusted) for s in turn.spans)


class TemplateOwner(Protocol):
    """What `for_engine` asks of an engine."""

    @property
    def vocabulary(self) -> Vocabulary:
        """The model's tokens."""
        ...

    @property
    def chat_template(self) -> str | None:
        """The Jinja template that came with the weights."""
        ...


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """The text around contents. `open` of a turn depends on the turn before it, `close` on its own role only."""

    source: Source
    """Where the format comes from."""
    starts: Mapping[Role, str]
    """Text before the first content of a conversation, by its role; begin-of-text token included."""
    opens: Mapping[tuple[Role, Role], str]
    """Text before a content, by the role of the turn before and its own role."""
    closes: Mapping[Role, str]
    """Text behind a content."""
    generation: Mapping[Role, str]
    """Text after which the model writes the assistant's content, by the role of the turn before."""
    thinking: Mapping[Role, str] = field(default_factory=dict["Role", str])
    """Text after which the model writes a thought and the content, for roles where `generation` has another."""
    trimmed: frozenset[Role] = frozenset()
    """Roles whose content loses blanks at both ends."""
    default_system: str | None = None
    """The system prompt that the format itself puts first when the conversation has none."""
    why_fallback: str | None = None
    """Why the model's own template is not used."""

    @classmethod
    def for_engine(cls, engine: TemplateOwner) -> ChatFormat:
        """Learn the format from the engine's template, else fall back to what its vocabulary can say."""
        from modelstack.tokenizer.chat_template import TemplateNotComposable, learn_format

        vocabulary = engine.vocabulary
        bos, eos = _name(vocabulary, vocabulary.bos_id), _name(vocabulary, next(iter(vocabulary.end_ids), None))
        reason = "the model carries no chat template"
        if engine.chat_template:
            try:
                return learn_format(engine.chat_template, bos_token=bos, eos_token=eos)
            except TemplateNotComposable as error:
                reason = str(error)
        special = {vocabulary.token_bytes[token].decode("utf-8", "replace") for token in vocabulary.special_ids}
        if {CHATML_START, CHATML_END} <= special:
            return cls.chatml(bos_token=bos, why_fallback=reason)
        return cls.plain(bos_token=bos, eos_token=eos, why_fallback=reason)

    @classmethod
    def chatml(cls, *, bos_token: str = "", why_fallback: str | None = None) -> ChatFormat:
        """ChatML as OpenAI published it, with the role `tool`."""
        opens: dict[Role, str] = {role: f"{CHATML_START}{role}\n" for role in ROLES}
        closes: dict[Role, str] = dict.fromkeys(ROLES, f"{CHATML_END}\n")
        return _context_free("chatml", bos_token, opens, closes, why_fallback)

    @classmethod
    def plain(cls, *, bos_token: str = "", eos_token: str = "", why_fallback: str | None = None) -> ChatFormat:
        """Role names in plain text, for a vocabulary without control tokens for turns."""
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
        """Return the text before a content behind a turn of role `previous`, None for the first one.

        Raises:
            ValueError: the format has no such turn in this place (a system turn behind others, for most).
        """
        opening = self.starts.get(role) if previous is None else self.opens.get((previous, role))
        if opening is None:
            raise ValueError(f"this model's chat format has no {role} turn behind a {previous} turn; put it first")
        return opening

    def render_turn(
        self, role: Role, content: str, *, previous: Role | None = None, trusted: bool | None = None
    ) -> list[Span]:
        """Return the pieces of one turn behind a turn of role `previous`, None for the first one.

        Raises:
            ValueError: the format has no such turn in this place.
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
        """Return the text of a whole conversation; equals the template's own rendering."""
        parts: list[str] = []
        previous: Role | None = None
        for message in messages:
            parts += [span.text for span in self.render_turn(message.role, message.content, previous=previous)]
            previous = message.role
        if add_generation_prompt and previous is not None:
            parts.append(self.generation[previous])
        return "".join(parts)


def _name(vocabulary: Vocabulary, token: int | None) -> str:
    return "" if token is None else vocabulary.token_bytes[token].decode("utf-8", "replace")


def _context_free(
    source: Source, bos_token: str, opens: dict[Role, str], closes: dict[Role, str], why_fallback: str | None
) -> ChatFormat:
    """Build a format where a turn's opening does not depend on the turn before it."""
    return ChatFormat(
        source=source,
        starts=MappingProxyType({role: bos_token + text for role, text in opens.items()}),
        opens=MappingProxyType({(before, role): opens[role] for before in ROLES for role in ROLES}),
        closes=MappingProxyType(closes),
        generation=MappingProxyType(dict.fromkeys(ROLES, opens["assistant"])),
        why_fallback=why_fallback,
    )


class ChatEncoder:
    """Encodes turns of one format with one vocabulary; template text is encoded once and kept."""

    def __init__(
        self, chat_format: ChatFormat, vocabulary: Vocabulary, encode_template: Callable[[str], list[int]]
    ) -> None:
        """Join a format with the two encoders of an engine."""
        self.format = chat_format
        self._vocabulary = vocabulary
        self._encode_template = encode_template
        self._control_ids: dict[str, tuple[int, ...]] = {}

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens that contents are encoded with."""
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
        """Encode one turn behind a turn of role `previous`, None for the first one of a conversation.

        Args:
            role: Of the turn.
            content: What stands in it.
            previous: Role of the turn before.
            trusted: As for `ChatMessage`.
            marks: Special tokens by the lone surrogates that stand for them in `content`, as in calls.
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
        """Encode a conversation; that of its first k messages is a prefix of it."""
        encoded = EncodedTurn()
        previous: Role | None = None
        for message in messages:
            encoded.append(
                self.encode_turn(message.role, message.content, previous=previous, trusted=message.trusted)
            )
            previous = message.role
        return encoded

    def opening_ids(self, role: Role, *, previous: Role | None = None) -> list[int]:
        """Return what goes before a content of `role` behind a turn of role `previous`.

        Raises:
            ValueError: the format has no such turn in this place.
        """
        return list(self._control(self.format.opening(role, previous=previous)))

    def content_ids(self, text: str) -> list[int]:
        """Return the ids of somebody's words; none of them is a special token."""
        return self._vocabulary.encode(text)

    def mark_id(self, name: str) -> int:
        """Return the special token of this name.

        Raises:
            UserError: the vocabulary has none.
        """
        ids = self._control(name)
        if len(ids) != 1 or ids[0] not in self._vocabulary.special_ids:
            raise UserError(f"{name!r} is no special token of this vocabulary; write it as text")
        return ids[0]

    def control_ids(self, text: str) -> list[int]:
        """Return the ids of a template's own text."""
        return list(self._control(text))

    def generation_ids(self, previous: Role, *, thinks: bool = False) -> list[int]:
        """Return what goes before a reply, or a thought and a reply, that follows a turn of role `previous`."""
        usual = self.format.generation[previous]
        return list(self._control(self.format.thinking.get(previous, usual) if thinks else usual))

    @property
    def assistant_suffix_ids(self) -> list[int]:
        """What closes an assistant turn behind generated ids; often begins with the end token itself."""
        return list(self._control(self.format.closes["assistant"]))

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end a reply: the vocabulary's, and the one that closes an assistant turn of this format."""
        first = self.assistant_suffix_ids[:1]
        return frozenset(self._vocabulary.end_ids) | {t for t in first if t in self._vocabulary.special_ids}

    def _control(self, text: str) -> tuple[int, ...]:
        if text not in self._control_ids:
            ids = [token for piece in text.split(CUT) for token in self._encode_template(piece)]
            self._control_ids[text] = tuple(ids)
        return self._control_ids[text]
