"""Examples as token ids: the model's input at run time, and the tokens that it learns to write.

The ids are those that agentkit's local model makes of the same conversation: the system text with one line a tool,
each turn between the control tokens of the chat format, calls in the single spelling of `toolcalls.convention`. A
turn to be learnt follows the opening of a reply, as at run time. Its targets are its content and the token that
ends it, as in TRL's masks by `{% generation %}`.

Tokens have weights by role (`json_roles`). A BPE token may cover characters of several roles; it then has the
highest of their weights. The default weights are those of Needle (cactus-compute/needle), with 0.2 for forced
characters.

This file does not need torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, Field

from modelstack.data.examples import Call, Example, Message, tool_names_of_results
from modelstack.errors import UserError
from modelstack.sft.json_roles import ROLES, call_roles
from modelstack.tokenizer.chat import ChatEncoder, Role
from modelstack.tokenizer.vocabulary import Vocabulary
from modelstack.toolcalls.convention import ResponseFormat, ToolSpec, render_answer, render_calls
from modelstack.toolcalls.prompt import tools_prompt

_TEXT = ResponseFormat()
"""Response format of a reply in words."""


class RoleWeights(BaseModel):
    """Weight of a token in the loss by its role; `json_roles` describes the roles."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    forced: float = Field(default=0.2, ge=0, allow_inf_nan=False)
    """Weight of characters that the grammar forces."""
    choice: float = Field(default=2.0, ge=0, allow_inf_nan=False)
    """Weight of the choice to call, to abstain or to end."""
    key: float = Field(default=1.5, ge=0, allow_inf_nan=False)
    """Weight of argument names."""
    name: float = Field(default=2.0, ge=0, allow_inf_nan=False)
    """Weight of tool names."""
    value: float = Field(default=3.0, ge=0, allow_inf_nan=False)
    """Weight of argument values."""
    text: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Weight of replies in words, including the end of the turn."""

    @classmethod
    def equal(cls) -> RoleWeights:
        """Return weights of 1 for all roles: the plain loss."""
        return cls(**dict.fromkeys(ROLES, 1.0))


class RenderOptions(BaseModel):
    """Options of rendering examples."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    abstain: bool = True
    """Whether the prompt tells the model that it may reply `[]`; same as the runtime's option."""
    weights: RoleWeights = RoleWeights()


@dataclass(frozen=True, slots=True)
class Rendered:
    """Tokens of an example."""

    ids: list[int] = field(default_factory=list[int])
    labels_at: list[bool] = field(default_factory=list[bool])
    """Whether each id is a target."""
    weights: list[float] = field(default_factory=list[float])
    """Weight of each target; 0 for other ids."""

    @property
    def n_targets(self) -> int:
        """Number of targets."""
        return sum(self.labels_at)

    def read(self, ids: Sequence[int]) -> None:
        """Append tokens that the model only reads."""
        self.ids.extend(ids)
        self.labels_at.extend([False] * len(ids))
        self.weights.extend([0.0] * len(ids))

    def write(self, ids: Sequence[int], weights: Sequence[float]) -> None:
        """Append tokens that the model learns to write."""
        self.ids.extend(ids)
        self.labels_at.extend([True] * len(ids))
        self.weights.extend(weights)


def render(example: Example, encoder: ChatEncoder, options: RenderOptions | None = None) -> Rendered:
    """Return the tokens of an example, with the turns to be learnt as targets.

    Raises:
        UserError: The chat format has no such turn, a value cannot be written, or the target is an abstention that
            the prompt does not allow.
    """
    try:
        return _Renderer(example, encoder, options or RenderOptions()).render()
    except ValueError as error:
        raise UserError(f"example {example.id!r} ({example.source}) cannot be rendered: {error}") from error


class _Renderer:
    """Renderer that walks through the turns of an example."""

    def __init__(self, example: Example, encoder: ChatEncoder, options: RenderOptions) -> None:
        self.example = example
        self.encoder = encoder
        self.options = options
        self.may_abstain = options.abstain and example.abstain
        self.specs = example.specs
        self.rendered = Rendered()
        self.last_role: Role | None = None

    def render(self) -> Rendered:
        """Return the tokens of the whole example."""
        messages = self.example.messages
        n_system = next((n for n, message in enumerate(messages) if message.role != "system"), len(messages))
        system = self._system_text(messages[:n_system])
        if system:
            self._context("system", system)
        names = tool_names_of_results(messages)
        for message, name in zip(messages[n_system:], names[n_system:], strict=True):
            if message.train:
                self._target(message.calls, message.content)
            elif message.role == "tool":
                self._context("tool", f"{name}: {message.content}")
            elif message.calls:
                self._context("assistant", self._written(message.calls))
            else:
                self._context(message.role, message.content)
        self._target(
            self.example.calls, self.example.reply, self.example.prefill, ends=not self.example.unfinished
        )
        return self.rendered

    def _system_text(self, messages: Sequence[Message]) -> str:
        texts = [message.content for message in messages]
        if self.specs:
            texts.append(tools_prompt(self.specs, abstain=self.may_abstain))
        return "\n\n".join(texts)

    def _context(self, role: Role, text: str) -> None:
        self.rendered.read(self.encoder.encode_turn(role, text, previous=self.last_role).ids)
        self.last_role = role

    def _target(self, calls: Sequence[Call], reply: str | None, prefill: str = "", *, ends: bool = True) -> None:
        """Append a reply of the model as at run time: the opening is read, content and end token are written."""
        weights = self.options.weights
        self.rendered.read(self.encoder.generation_ids(self.last_role or "user"))
        if reply and not calls:
            texts = [prefill, reply] if prefill else [reply]
            if (
                self.specs
            ):  # without tools no text can be mistaken for a call, so JSON in an answer needs no escape
                texts[0] = render_answer(texts[0], _TEXT)
            *given, ids = map(self.encoder.content_ids, texts)
            for each in given:
                self.rendered.read(each)
            self.rendered.write(ids, [weights.text] * len(ids))
            if ends:
                self._end_turn(weights.text)
            return
        self._check_abstention(calls)
        ids = self.encoder.content_ids(self._written(calls))
        self.rendered.write(ids, token_weights(ids, self.encoder.vocabulary, self.specs, weights))
        self._end_turn(weights.forced)  # after a list of calls a grammar allows only the end

    def _end_turn(self, weight: float) -> None:
        suffix = self.encoder.assistant_suffix_ids
        ends = [at for at, token in enumerate(suffix) if token in self.encoder.end_ids]
        n_written = ends[0] + 1 if ends else len(suffix)
        self.rendered.write(suffix[:n_written], [weight] * n_written)
        self.rendered.read(suffix[n_written:])
        self.last_role = "assistant"

    def _written(self, calls: Sequence[Call]) -> str:
        return render_calls([(call.name, call.arguments) for call in calls], self.specs)

    def _check_abstention(self, calls: Sequence[Call]) -> None:
        if not calls and not (self.specs and self.may_abstain):
            raise ValueError(
                "the target is an abstention, which the prompt does not offer: add tools, set abstain = true"
            )


def token_weights(
    ids: Sequence[int], vocabulary: Vocabulary, tools: Sequence[ToolSpec], weights: RoleWeights
) -> list[float]:
    """Return the weight of each token of written calls: the highest weight among its characters.

    Args:
        ids: Tokens of written calls.
        vocabulary: Vocabulary of the tokens.
        tools: Tools, whose schemas determine which arguments are optional.
        weights: Weights by role.

    Raises:
        ValueError: The tokens do not spell a list of calls.
    """
    # Decoded, because a tokenizer may have normalised the original text.
    text = vocabulary.decode(list(ids))
    roles = _by_byte(text, call_roles(text, tools))
    if len(roles) != sum(len(vocabulary.token_bytes[token]) for token in ids):
        raise ValueError(f"the tokens of {text[:40]!r} are not valid UTF-8")
    of_role = [getattr(weights, role) for role in ROLES]
    found: list[float] = []
    at = 0
    for token in ids:
        end = at + len(vocabulary.token_bytes[token])
        found.append(max((of_role[role] for role in set(roles[at:end])), default=weights.forced))
        at = end
    return found


def _by_byte(text: str, roles: bytes) -> bytes:
    if text.isascii():
        return roles
    return b"".join(bytes([role]) * len(character.encode()) for character, role in zip(text, roles, strict=True))
