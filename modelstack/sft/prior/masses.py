"""What a model says of the decisions in held-back examples, and words of the first: what a prior is fitted on.

A served model is asked which tool it would call first, or none, and stopped there: some ten tokens an example.
Kept is how much mass each choice had. Choices that the model would have told apart later (`get_a` and `get_b`,
where it began with `search`) stay a group. Where an example has calls, the model also writes its own, and is asked
behind each how likely another follows; and along the example's, how likely one more optional parameter follows a
value, and how likely the next token of a value copies from the request. All goes to a file, so that fitting again
needs no model.
This file needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from modelstack.data.examples import Example, first_error
from modelstack.errors import UserError
from modelstack.files import replacing, sha256_of
from modelstack.inference.engine import ContextWindowError, Engine, GenerateRequest
from modelstack.inference.grammar import Grammar
from modelstack.inference.legal_tokens import LegalTokens
from modelstack.posttrain.stages.record import SHA256
from modelstack.sft.prior.exact_calls import MAX_TOKENS, Question
from modelstack.sft.rendering import Rendered, RenderOptions, render
from modelstack.tokenizer.chat_template import chat_encoder
from modelstack.toolcalls.convention import ResponseFormat
from modelstack.toolcalls.grammar.compiler import GrammarCompiler
from modelstack.toolcalls.grammar.coverage import UnsupportedSchemaError
from modelstack.toolcalls.prior.another_call import AnotherCallBias
from modelstack.toolcalls.prior.choice import NO_TOOL, tool_choices
from modelstack.toolcalls.prior.copying import Copied, CopyBias, ValueKind
from modelstack.toolcalls.prior.lexical import CALL_EVIDENCE, KEY_EVIDENCE, lexical_scores, open_request
from modelstack.toolcalls.prior.optional_keys import OptionalKeyBias
from modelstack.toolcalls.prior.reply_bias import ReplyTables
from modelstack.toolcalls.prior.reply_place import FollowedReply, Place, behind
from modelstack.toolcalls.prior.two_sides import Evidenced


class Mass(BaseModel):
    """How much mass one choice had, or a group that was not told apart."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    names: tuple[str, ...] = Field(min_length=1)
    """Tools, each once; `NO_TOOL` alone is an abstention."""
    mass: float = Field(ge=0, le=1.001)


class GoesOn(BaseModel):
    """What a model says where another call or another optional parameter may follow: does one."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    goes_on: bool
    """Whether it is right to."""
    log_odds: FiniteFloat
    """Of going on, as the model has it."""
    evidence: tuple[FiniteFloat, ...]
    """Of the request, in the order of `lexical.CALL_EVIDENCE` or `KEY_EVIDENCE`."""


class Copy(BaseModel):
    """What a model says at one token of a value that might be copied from the request."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: ValueKind
    is_copy: bool
    """Whether the example's token is one that copies."""
    mass: float = Field(ge=0, le=1)
    """Of such tokens, as the model has it."""


class Asked(BaseModel):
    """What a model and the words say of one example's decisions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: str
    right: tuple[str, ...]
    """Tools that it calls; none: it is to abstain."""
    scores: dict[str, Annotated[float, Field(ge=0, lt=1)]] = Field(min_length=1)
    masses: tuple[Mass, ...] = Field(min_length=1)
    another_call: tuple[GoesOn, ...] = ()
    """Behind each call that the model itself writes, as long as it does not write too many."""
    optional_keys: tuple[GoesOn, ...] = ()
    """Behind values of the example's calls."""
    copies: tuple[Copy, ...] = ()
    """At tokens of these values."""

    @model_validator(mode="after")
    def _knows_its_tools(self) -> Self:
        unknown = {name for each in self.masses for name in each.names} - {NO_TOOL} - set(self.scores)
        if unknown:
            raise ValueError(f"{sorted(unknown)[0]!r} has a mass and no score; each tool that is shown has one")
        for name, decisions, evidence in (
            ("another_call", self.another_call, CALL_EVIDENCE),
            ("optional_keys", self.optional_keys, KEY_EVIDENCE),
        ):
            if any(len(each.evidence) != len(evidence) for each in decisions):
                raise ValueError(f"{name} has decisions without all evidence: {', '.join(evidence)}")
        return self


class Origin(BaseModel):
    """What was asked: the first line of a file of masses."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    examples_sha256: str = Field(pattern=SHA256)
    model_sha256: str = Field(pattern=SHA256)
    adapter_sha256: str | None = Field(default=None, pattern=SHA256)

    @classmethod
    def of(cls, examples: Path, model: Path, adapter: Path | None) -> Self:
        """Hash the files."""
        return cls(
            examples_sha256=sha256_of(examples),
            model_sha256=sha256_of(model),
            adapter_sha256=None if adapter is None else sha256_of(adapter),
        )


def is_decision(example: Example) -> bool:
    """Say whether an example's target is calls or an abstention, in reply to the user."""
    return bool(example.tools) and example.reply is None and _request(example) is not None


def ask_choices(
    engine: Engine, examples: Sequence[Example], *, told: Callable[[int], object] = lambda n: None
) -> list[Asked]:
    """Ask a model for the decisions of each example; those that it cannot be asked are left out.

    Args:
        engine: Base and adapter.
        examples: Of which `is_decision` holds.
        told: Is told how many are done.

    Raises:
        UserError: An example has no form in the engine's chat format.
        EngineError: The backend failed.
    """
    compiler = GrammarCompiler(engine.vocabulary, unsupported="check")
    encoder = chat_encoder(engine)
    tables = ReplyTables(engine.vocabulary)
    found: list[Asked] = []
    for number, example in enumerate(examples, 1):
        rendered = render(example, encoder, RenderOptions(abstain=True))
        question = Question.of(example, rendered)
        try:
            first = _ask(engine, compiler, question)
            another = _ask_on(engine, compiler, question, tables)
            keys, copies = _ask_inside(engine, compiler, question, rendered, tables)
            more = {"another_call": another, "optional_keys": keys, "copies": copies}
            found.append(first.model_copy(update=more))
        except (ContextWindowError, UnsupportedSchemaError):
            continue  # neither says anything of the decision
        finally:
            told(number)
    return found


def write_masses(path: Path, origin: Origin, asked: Iterable[Asked]) -> None:
    """Write a file of masses, a line an example behind one that says of what they are."""
    with replacing(path) as temporary:
        lines = (each.model_dump_json() + "\n" for each in (origin, *asked))
        temporary.write_text("".join(lines), encoding="utf-8")


def read_masses(path: Path) -> tuple[Origin, list[Asked]]:
    """Read what `write_masses` wrote.

    Raises:
        UserError: The file cannot be read, or a line is wrong; the message has its number.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"masses {path} cannot be read: {error}") from error
    found: list[Any] = []
    for number, line in enumerate(lines or [""], 1):
        try:
            found.append((Origin if number == 1 else Asked).model_validate_json(line))
        except ValidationError as error:
            raise UserError(f"{path}, line {number}: {first_error(error)}") from error
    return found[0], found[1:]


def _ask(engine: Engine, compiler: GrammarCompiler, question: Question) -> Asked:
    example, table = question.example, engine.vocabulary.token_bytes
    # Answers in words are left out: a prior does not move them against calls.
    wanted = ResponseFormat(tools=example.specs, answer=None, abstain=True)
    written = bytearray()
    generation = engine.generate(
        # The whole budget, though little of it is used: near its end a grammar closes the reply.
        GenerateRequest(question.prompt_ids, MAX_TOKENS, grammar=compiler.compile(wanted).start()),
        on_tokens=lambda ids: written.extend(b"".join(table[token] for token in ids)),
        cancelled=lambda: _is_settled(bytes(written)),
    )
    choice = tool_choices(generation, engine.vocabulary, wanted)[0]
    groups = {(choice.name,): choice.probability, **choice.alternatives}
    return Asked(
        id=example.id,
        right=tuple(sorted({call.name for call in example.calls})),
        scores=lexical_scores(_request(example) or "", example.specs),
        masses=tuple(Mass(names=names, mass=mass) for names, mass in groups.items()),
    )


def _ask_on(
    engine: Engine, compiler: GrammarCompiler, question: Question, tables: ReplyTables
) -> tuple[GoesOn, ...]:
    """Let the model write a reply; return how it decided behind each of its calls whether another one follows.

    Of its own calls and not of the example's: behind a call that went wrong a model stops more readily, and those
    are most of the ones where it stops too early.
    """
    example = question.example
    if not example.calls:
        return ()
    bias = AnotherCallBias(None, _request(example) or "", example.specs, tables.endings)
    seen: dict[int, Evidenced] = {}

    def look(written: Sequence[int], legal: LegalTokens, logits_V: NDArray[np.float32]) -> None:
        if (found := bias.decision(written, legal, logits_V)) is not None:
            seen[len(written)] = found

    wanted = ResponseFormat(tools=example.specs, answer=None, abstain=True)
    grammar = compiler.compile(wanted).start()
    generation = engine.generate(
        GenerateRequest(question.prompt_ids, MAX_TOKENS, grammar=grammar, logit_bias=look)
    )
    decisions: list[GoesOn] = []
    place, is_decided = Place(), False
    for n_before, token in enumerate(generation.ids):
        found = None if is_decided else seen.get(n_before)
        if found is not None and token in found.decision:
            is_decided = True
            right = len(decisions) + 1 < len(example.calls)
            log_odds = found.decision.log_odds
            decisions.append(GoesOn(goes_on=right, log_odds=log_odds, evidence=found.evidence))
        place, comes_next = behind(place, engine.vocabulary.token_bytes[token])
        if comes_next:
            is_decided = False
            if len(decisions) >= len(example.calls):  # what follows one call too many is nobody's to judge
                break
    return tuple(decisions)


def _ask_inside(
    engine: Engine, compiler: GrammarCompiler, question: Question, rendered: Rendered, tables: ReplyTables
) -> tuple[tuple[GoesOn, ...], tuple[Copy, ...]]:
    """Return what the model says behind and inside the values of an example's calls."""
    example = question.example
    compiled = compiler.compile(ResponseFormat(tools=example.specs, answer=None, abstain=True))
    keys: list[GoesOn] = []
    copies: list[Copy] = []
    target = rendered.ids[len(question.prompt_ids) :]
    reply = FollowedReply(engine.vocabulary.token_bytes)
    for n_before, token in enumerate(target if example.calls else ()):
        before = target[:n_before]
        reply.follow(before)
        if not reply.may_be_value():
            continue
        watch = _Watch(before, example, tables)
        _look(engine, compiled.start(), question.prompt_ids, before, watch)
        if (copied := watch.copied) is not None:
            is_copy = bool(token in copied.token_ids)
            copies.append(Copy(kind=copied.kind, is_copy=is_copy, mass=min(1.0, copied.mass)))
        if (key := watch.key) is not None and token in key.decision:
            goes_on = bool(token in key.decision.goes_on)
            keys.append(GoesOn(goes_on=goes_on, log_odds=key.decision.log_odds, evidence=key.evidence))
    return tuple(keys), tuple(copies)


class _Watch:
    """Sees the distribution behind some tokens of a reply."""

    def __init__(self, before: list[int], example: Example, tables: ReplyTables) -> None:
        request = _request(example) or ""
        self.before = before
        self._copying = CopyBias(0.0, 0.0, request, tables.copies)
        self._keys = OptionalKeyBias(None, request, example.specs, tables.keys)
        self.copied: Copied | None = None
        self.key: Evidenced | None = None

    def __call__(self, written: Sequence[int], legal: LegalTokens, logits_V: NDArray[np.float32]) -> None:
        if not written:  # else the grammar left no choice there
            self.copied = self._copying.copied(self.before, legal, logits_V)
            self.key = self._keys.decision(self.before, legal, logits_V)


def _look(engine: Engine, grammar: Grammar, prompt: Sequence[int], before: list[int], watch: _Watch) -> None:
    """Let the model write one token behind `before`, so that the watch sees what it is drawn from."""
    for token in before:
        grammar.advance(token)
    emitted: list[int] = []
    engine.generate(
        GenerateRequest([*prompt, *before], MAX_TOKENS, grammar=grammar, logit_bias=watch),
        on_tokens=emitted.extend,
        cancelled=lambda: bool(emitted),
    )


def _is_settled(reply: bytes) -> bool:
    """Say whether a reply of calls has named its first tool, or has none."""
    return reply.startswith(b"[]") or reply.count(b'"') >= 4  # [{"name":"x"


def _request(example: Example) -> str | None:
    return open_request([(message.role, message.content) for message in example.messages])
