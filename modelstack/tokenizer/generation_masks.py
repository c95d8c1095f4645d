"""Masks of the tokens that a model is trained to generate: its text, its calls, the end of its turn.

Template text around them and other roles' messages are excluded. Conversations are encoded as in `chat`: turns are
appended and never rendered again, and no content yields a control token. A mark inside a reply (`<tool_call>`) is
therefore not text: a reply is given in parts, and a `Mark` is a part that names a token. The model generates both
kinds, so both are included.

Hugging Face marks the same tokens by `{% generation %}` in a template (`return_assistant_tokens_mask`), over the
text of the whole conversation. If no content contains the name of a special token, both masks are equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from modelstack.tokenizer.chat import ChatEncoder, ChatMessage, EncodedTurn, IdSpan, Role


@dataclass(frozen=True, slots=True)
class Mark:
    """A token inside a model's reply, by name: the frame of a call or of a thought."""

    name: str


@dataclass(frozen=True, slots=True)
class Reply:
    """An assistant turn in parts."""

    parts: tuple[str | Mark, ...]
    trained: bool = True
    """Whether its tokens are trained; False for a turn that shows unwanted behaviour."""


@dataclass(slots=True)
class MaskedConversation:
    """The ids of a conversation, their origin, and the mask of the ids that a model is trained to generate."""

    ids: list[int] = field(default_factory=list)
    spans: list[IdSpan] = field(default_factory=list)
    mask: list[bool] = field(default_factory=list)
    """Mask with one entry per id; True if the loss includes the prediction of that id."""

    def append(self, turn: EncodedTurn, mask: Sequence[bool]) -> None:
        """Append a turn."""
        offset = len(self.ids)
        self.ids += turn.ids
        self.spans += [IdSpan(s.start + offset, s.end + offset, s.role, s.kind, s.trusted) for s in turn.spans]
        self.mask += mask


def mask_conversation(encoder: ChatEncoder, turns: Sequence[ChatMessage | Reply]) -> MaskedConversation:
    """Encode a conversation; an assistant's `ChatMessage` is a trained reply with one text.

    The ids and the mask of the first k turns are a prefix of those of all turns.

    Raises:
        UserError: A mark is not a single special token of the vocabulary.
        ValueError: The format does not allow a turn's role at its position.
    """
    masked = MaskedConversation()
    previous: Role | None = None
    for turn in turns:
        if isinstance(turn, ChatMessage) and turn.role == "assistant":
            turn = Reply((turn.content,))
        if isinstance(turn, Reply):
            masked.append(*_reply(encoder, turn, previous))
            previous = "assistant"
        else:
            encoded = encoder.encode_turn(turn.role, turn.content, previous=previous, trusted=turn.trusted)
            masked.append(encoded, [False] * len(encoded.ids))
            previous = turn.role
    return masked


def _reply(encoder: ChatEncoder, reply: Reply, previous: Role | None) -> tuple[EncodedTurn, list[bool]]:
    """Return an assistant turn and its mask."""
    turn, mask = EncodedTurn(), list[bool]()
    opening = encoder.opening_ids("assistant", previous=previous)
    turn.extend(opening, "assistant", "control", True)
    mask += [False] * len(opening)
    for part in _trimmed(reply.parts) if "assistant" in encoder.format.trimmed else reply.parts:
        ids = [encoder.mark_id(part.name)] if isinstance(part, Mark) else encoder.content_ids(part)
        turn.extend(ids, "assistant", "content", True)
        mask += [reply.trained] * len(ids)
    closing = encoder.assistant_suffix_ids
    turn.extend(closing, "assistant", "control", True)
    n_generated = next((i + 1 for i, token in enumerate(closing) if token in encoder.end_ids), 0)
    mask += [reply.trained and i < n_generated for i in range(len(closing))]
    return turn, mask


def _trimmed(parts: Sequence[str | Mark]) -> tuple[str | Mark, ...]:
    """Return the parts without blanks at both ends of the reply."""
    parts = list(parts)
    if parts and isinstance(parts[0], str):
        parts[0] = parts[0].lstrip()
    if parts and isinstance(parts[-1], str):
        parts[-1] = parts[-1].rstrip()
    return tuple(parts)
