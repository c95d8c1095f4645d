"""A model's probabilities of decisions in held-back examples, with lexical scores: the data for fitting a prior.

A served model is asked which tool it would call first, if any, and then stopped: about ten tokens an example. The
probability mass of each choice is stored. Choices that the model would have distinguished later (`get_a` and
`get_b` after it began with `search`) stay a group. If an example has calls,

- the model also writes its own calls, and after each of them the odds of another call are stored;
- along the example's calls, the odds of one more optional parameter are stored after each value;
- along the example's calls, the probability that the next token of a value copies from the request is stored.

All data goes to a file, so that another fit needs no model. This file does not need torch.
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
from modelstack.files import json_lines, replacing, sha256_of
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
    """Probability mass of a choice, or of a group of choices that were not distinguished."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    names: tuple[str, ...] = Field(min_length=1)
    """Names of tools, without duplicates; `NO_TOOL` alone is an abstention."""
    mass: float = Field(ge=0, le=1.001)


class GoesOn(BaseModel):
    """Decision of a model whether to add another call or another optional parameter."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    goes_on: bool
    """Whether going on is right."""
    log_odds: FiniteFloat
    """Log-odds of going on by the model."""
    evidence: tuple[FiniteFloat, ...]
    """Evidence from the request, in the order of `lexical.CALL_EVIDENCE` or `KEY_EVIDENCE`."""


class Copy(BaseModel):
    """Probability of copying at a token of a value that may be copied from the request."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: ValueKind
    is_copy: bool
    """Whether the example's token copies."""
    mass: float = Field(ge=0, le=1)
    """Probability mass of copying tokens by the model."""


class Asked(BaseModel):
    """A model's decisions and the lexical scores of an example."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: str
    right: tuple[str, ...]
    """Names of the tools that the example calls; empty: it abstains."""
    scores: dict[str, Annotated[float, Field(ge=0, lt=1)]] = Field(min_length=1)
    masses: tuple[Mass, ...] = Field(min_length=1)
    another_call: tuple[GoesOn, ...] = ()
    """Decisions after each call that the model itself wrote, up to the first call too many."""
    optional_keys: tuple[GoesOn, ...] = ()
    """Decisions after values of the example's calls."""
    copies: tuple[Copy, ...] = ()
    """Probabilities at tokens of these values."""

    @model_validator(mode="after")
    def _check_decisions(self) -> Self:
        unknown = {name for each in self.masses for name in each.names} - {NO_TOOL} - set(self.scores)
        if unknown:
            raise ValueError(f"{sorted(unknown)[0]!r} has a mass but no score: each tool of a mass needs a score")
        for name, decisions, evidence in (
            ("another_call", self.another_call, CALL_EVIDENCE),
            ("optional_keys", self.optional_keys, KEY_EVIDENCE),
        ):
            if any(len(each.evidence) != len(evidence) for each in decisions):
                raise ValueError(f"{name} has decisions with missing evidence: each needs {', '.join(evidence)}")
        return self


class Origin(BaseModel):
    """Hashes of the files that were used; first line of a file of masses."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    examples_sha256: str = Field(pattern=SHA256)
    model_sha256: str = Field(pattern=SHA256)
    adapter_sha256: str | None = Field(default=None, pattern=SHA256)

    @classmethod
    def of(cls, examples: Path, model: Path, adapter: Path | None) -> Self:
        """Return the hashes of the files."""
        return cls(
            examples_sha256=sha256_of(examples),
            model_sha256=sha256_of(model),
            adapter_sha256=None if adapter is None else sha256_of(adapter),
        )


def is_decision(example: Example) -> bool:
    """Return whether an example's target is calls or an abstention, in reply to the user."""
    return bool(example.tools) and example.reply is None and _request(example) is not None


def ask_choices(
    engine: Engine, examples: Sequence[Example], *, told: Callable[[int], object] = lambda n: None
) -> list[Asked]:
    """Return a model's decisions on the examples; examples that the model cannot be asked are left out.

    Args:
        engine: Engine with base and adapter.
        examples: Examples for which `is_decision` is true.
        told: Receives the number of examples done.

    Raises:
        UserError: An example cannot be rendered in the engine's chat format.
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
            continue  # the prompt is too long or a schema is unsupported: no decision was observed
        finally:
            told(number)
    return found


def write_masses(path: Path, origin: Origin, asked: Iterable[Asked]) -> None:
    """Write a file of masses: the origin in the first line, then one example a line."""
    with replacing(path) as temporary:
        lines = (each.model_dump_json() + "\n" for each in (origin, *asked))
        temporary.write_text("".join(lines), encoding="utf-8")


def read_masses(path: Path) -> tuple[Origin, list[Asked]]:
    """Read a file of `write_masses`.

    Raises:
        UserError: The file cannot be read, or a line is invalid; the message has its number.
    """
    try:
        lines = json_lines(path)
    except OSError as error:
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
    # Answers in words are excluded: a prior does not change their probability relative to calls.
    wanted = ResponseFormat(tools=example.specs, answer=None, abstain=True)
    written = bytearray()
    generation = engine.generate(
        # The full limit, because a grammar closes the reply near its end; decoding stops much earlier.
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
    """Generate a reply; return the decisions after each of its calls whether another one follows.

    These are the model's own calls, not those of the example: after a wrong call a model stops more readily, and
    most stops that come too early are of this kind.
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
            if len(decisions) >= len(example.calls):  # after one call too many no decision is right
                break
    return tuple(decisions)


def _ask_inside(
    engine: Engine, compiler: GrammarCompiler, question: Question, rendered: Rendered, tables: ReplyTables
) -> tuple[tuple[GoesOn, ...], tuple[Copy, ...]]:
    """Return the model's decisions after values of an example's calls, and its copying inside them."""
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
    """Callback that records the decisions at one position of a reply."""

    def __init__(self, before: list[int], example: Example, tables: ReplyTables) -> None:
        request = _request(example) or ""
        self.before = before
        self._copying = CopyBias(0.0, 0.0, request, tables.copies)
        self._keys = OptionalKeyBias(None, request, example.specs, tables.keys)
        self.copied: Copied | None = None
        self.key: Evidenced | None = None

    def __call__(self, written: Sequence[int], legal: LegalTokens, logits_V: NDArray[np.float32]) -> None:
        if not written:  # otherwise the grammar allowed only one token at that position
            self.copied = self._copying.copied(self.before, legal, logits_V)
            self.key = self._keys.decision(self.before, legal, logits_V)


def _look(engine: Engine, grammar: Grammar, prompt: Sequence[int], before: list[int], watch: _Watch) -> None:
    """Generate one token after `before`, so that `watch` sees its distribution."""
    for token in before:
        grammar.advance(token)
    emitted: list[int] = []
    engine.generate(
        GenerateRequest([*prompt, *before], MAX_TOKENS, grammar=grammar, logit_bias=watch),
        on_tokens=emitted.extend,
        cancelled=lambda: bool(emitted),
    )


def _is_settled(reply: bytes) -> bool:
    """Return whether a reply has named its first tool, or calls none."""
    return reply.startswith(b"[]") or reply.count(b'"') >= 4  # [{"name":"x"


def _request(example: Example) -> str | None:
    return open_request([(message.role, message.content) for message in example.messages])
