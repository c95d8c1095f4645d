"""An example as token ids: what the runtime would have the model read, and which tokens it learns to write.

The ids are those that agentkit's local model makes of the same conversation: the system text with one line a
tool, each turn between the control tokens of the chat format, calls in the one spelling of
`toolcalls.convention`. A turn to be learnt stands behind the opening of a reply, as at run time. Targets are its
content and the token that ends it, and nothing else, as in TRL's masks by `{% generation %}`.

Tokens count by what they are (`json_roles`); a token that covers characters of several roles, as BPE makes them
across borders, has the highest weight of them. The default weights are those of Needle (cactus-compute/needle)
with 0.2 for what a grammar writes by itself. This file needs no torch.
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
"""A reply in words."""


class RoleWeights(BaseModel):
    """How much a token of each role counts in the loss; `json_roles` says what the roles are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    forced: float = Field(default=0.2, ge=0, allow_inf_nan=False)
    choice: float = Field(default=2.0, ge=0, allow_inf_nan=False)
    key: float = Field(default=1.5, ge=0, allow_inf_nan=False)
    name: float = Field(default=2.0, ge=0, allow_inf_nan=False)
    value: float = Field(default=3.0, ge=0, allow_inf_nan=False)
    text: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Replies in words, the end of the turn included."""

    @classmethod
    def equal(cls) -> RoleWeights:
        """Return weights of 1: the plain loss."""
        return cls(**dict.fromkeys(ROLES, 1.0))


class RenderOptions(BaseModel):
    """How examples become tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    abstain: bool = True
    """Whether the model is told that it may reply `[]`; as the runtime's option of this name."""
    weights: RoleWeights = RoleWeights()


@dataclass(frozen=True, slots=True)
class Rendered:
    """The tokens of one example."""

    ids: list[int] = field(default_factory=list[int])
    labels_at: list[bool] = field(default_factory=list[bool])
    """For each id whether it is a target."""
    weights: list[float] = field(default_factory=list[float])
    """How much each target counts; 0 elsewhere."""

    @property
    def n_targets(self) -> int:
        """Return how many tokens are learnt."""
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
    """Return the tokens of an example, its turns to be learnt marked.

    Raises:
        UserError: The chat format has no such turn, a value cannot be written, or the target is to abstain and
            nothing tells the model that it may.
    """
    try:
        return _Renderer(example, encoder, options or RenderOptions()).render()
    except ValueError as error:
        raise UserError(f"example {example.id!r} ({example.source}) cannot be rendered: {error}") from error


class _Renderer:
    """Walks through the turns of one example."""

    def __init__(self, example: Example, encoder: ChatEncoder, options: RenderOptions) -> None:
        self.example = example
        self.encoder = encoder
        self.options = options
        self.may_abstain = options.abstain and example.abstain
        self.specs = example.specs
        self.rendered = Rendered()
        self.last_role: Role | None = None

    def render(self) -> Rendered:
        """Return the whole example."""
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
        self._target(self.example.calls, self.example.reply)
        return self.rendered

    def _system_text(self, messages: Sequence[Message]) -> str:
        texts = [message.content for message in messages]
        if self.specs:
            texts.append(tools_prompt(self.specs, abstain=self.may_abstain))
        return "\n\n".join(texts)

    def _context(self, role: Role, text: str) -> None:
        self.rendered.read(self.encoder.encode_turn(role, text, previous=self.last_role).ids)
        self.last_role = role

    def _target(self, calls: Sequence[Call], reply: str | None) -> None:
        """Append a reply of the model, as at run time: behind the opening, up to the token that ends it."""
        weights = self.options.weights
        self.rendered.read(self.encoder.generation_ids(self.last_role or "user"))
        if reply and not calls:
            # Where no tool is known nothing can be taken for a call, and JSON is written as it is asked for.
            ids = self.encoder.content_ids(render_answer(reply, _TEXT) if self.specs else reply)
            self.rendered.write(ids, [weights.text] * len(ids))
            self._end_turn(weights.text)
            return
        self._check_abstention(calls)
        ids = self.encoder.content_ids(self._written(calls))
        self.rendered.write(ids, token_weights(ids, self.encoder.vocabulary, self.specs, weights))
        self._end_turn(weights.forced)  # behind a list of calls a grammar lets nothing follow

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
            raise ValueError("the target is to abstain, and no prompt offers that: give tools, and abstain = true")


def token_weights(
    ids: Sequence[int], vocabulary: Vocabulary, tools: Sequence[ToolSpec], weights: RoleWeights
) -> list[float]:
    """Return the weight of each token of written calls: the highest of the characters that it covers.

    Raises:
        ValueError: The tokens spell no list of calls.
    """
    text = vocabulary.decode(
        list(ids)
    )  # what the tokens spell; a tokenizer may have normalised what was asked for
    roles = _by_byte(text, call_roles(text, tools))
    if len(roles) != sum(len(vocabulary.token_bytes[token]) for token in ids):
        raise ValueError(f"the tokens of {text[:40]!r} are no UTF-8 text")
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
