"""Share of exactly right replies: held-back examples decoded by llama.cpp under the grammar.

The loss on correct tokens says little about the output of a greedy decoder. Examples are therefore decoded as in
an application: the base's GGUF file with the adapter's, the tools compiled to a grammar, greedy. A reply is right
if

- an example with calls gets the same names and arguments, in any order of calls and keys, where 1 and 1.0 are
  equal;
- an example that abstains gets `[]`;
- an example with an answer or question in words gets any reply in words.

Intervals are Wilson's (1927), which are valid for few examples and for shares near 0 and 1.

This file does not need torch.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from modelstack.data.examples import Example
from modelstack.errors import UserError
from modelstack.inference.engine import ContextWindowError, Engine, GenerateRequest
from modelstack.posttrain.stages.record import Measurement
from modelstack.sft.rendering import Rendered
from modelstack.toolcalls.convention import ParsedResponse, ResponseFormat
from modelstack.toolcalls.grammar.compiler import GrammarCompiler, ResponseParseError
from modelstack.toolcalls.grammar.coverage import UnsupportedSchemaError
from modelstack.toolcalls.prior.choice import ToolBias
from modelstack.toolcalls.prior.lexical import DecisionPrior, open_request
from modelstack.toolcalls.prior.reply_bias import ReplyBias, ReplyTables

EXACT = "exact replies"
MAX_TOKENS = 256
"""Maximum tokens of a reply; the grammar closes a reply before this limit."""
_Z = 1.959964
"""Quantile of the normal distribution for a 95 % interval."""


@dataclass(frozen=True, slots=True)
class Question:
    """Example and the prompt that the model gets for it."""

    example: Example
    prompt_ids: Sequence[int]

    @classmethod
    def of(cls, example: Example, rendered: Rendered) -> Question:
        """Return the question of an example: its prompt up to the last reply."""
        start = max(at for at, is_target in enumerate(rendered.labels_at) if is_target)
        while start and rendered.labels_at[start - 1]:
            start -= 1
        return cls(example, rendered.ids[:start])


@dataclass(frozen=True, slots=True)
class Answered:
    """Example with the model's reply and whether it is right."""

    example: Example
    text: str
    is_right: bool


def chosen(examples: Sequence[Example], n: int, seed: int) -> list[Example]:
    """Return `n` of the examples, or all if there are fewer; the choice depends only on seed and ids."""

    def place(example: Example) -> bytes:
        return sha256(f"{seed}/{example.id}".encode()).digest()

    return sorted(examples, key=place)[:n]


def ask(
    engine: Engine,
    questions: Sequence[Question],
    *,
    abstain: bool = True,
    max_tokens: int = MAX_TOKENS,
    prior: DecisionPrior | None = None,
    told: Callable[[str], object] = lambda text: None,
) -> list[Answered]:
    """Decode a reply to every question, in order.

    Args:
        engine: Engine with base and adapter.
        questions: Questions whose prompts are tokens of this engine.
        abstain: Whether the prompts offer `[]`, as in `RenderOptions.abstain`; the grammar then allows it.
        max_tokens: Maximum tokens of a reply.
        prior: Prior of the decision between tools, as in the application.
        told: Receives progress.

    Raises:
        EngineError: The backend failed.
    """
    compiler = GrammarCompiler(engine.vocabulary, unsupported="check")
    tables = ReplyTables(engine.vocabulary)
    answered: list[Answered] = []
    for number, question in enumerate(questions, 1):
        answered.append(_ask(engine, compiler, question, abstain, max_tokens, prior, tables))
        n_right = sum(each.is_right for each in answered)
        told(f"decoding held-back examples: {number} of {len(questions)}, {n_right} right")
    return answered


def is_exact(example: Example, parsed: ParsedResponse) -> bool:
    """Return whether a reply is the one that the example requires."""
    if example.calls:
        wanted = Counter((call.name, _canonical(call.arguments)) for call in example.calls)
        return wanted == Counter((name, _canonical(json.loads(text))) for name, text in parsed.calls)
    return parsed.kind == "text" if example.reply is not None else parsed.abstained


def measured(answered: Sequence[Answered]) -> tuple[Measurement, ...]:
    """Return the share of right replies, for all examples and for each kind.

    Raises:
        UserError: There are no replies.
    """
    if not answered:
        raise UserError("there are no examples to decode: name validation files with examples")
    by_kind: dict[str, list[bool]] = {}
    for each in answered:
        by_kind.setdefault(each.example.kind, []).append(each.is_right)
    everything = [each.is_right for each in answered]
    of_kinds = (_share(f"{EXACT}, {kind}", rights) for kind, rights in sorted(by_kind.items()))
    return (_share(EXACT, everything), *(of_kinds if len(by_kind) > 1 else ()))


def lines(answered: Sequence[Answered]) -> Iterator[str]:
    """Yield one line of JSON for each reply, for inspection."""
    for each in answered:
        wanted = [call.model_dump(mode="json") for call in each.example.calls] or each.example.reply
        record = {
            "id": each.example.id,
            "kind": each.example.kind,
            "right": each.is_right,
            "wanted": wanted,
            "reply": each.text,
        }
        yield json.dumps(record, ensure_ascii=False) + "\n"


def share_interval(n_right: int, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share.

    Raises:
        ValueError: `n` is not positive.
    """
    if n < 1:
        raise ValueError(f"a share of {n} examples has no interval")
    share, z2 = n_right / n, _Z**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return (0.0 if n_right == 0 else centre - half), (1.0 if n_right == n else centre + half)


def _ask(
    engine: Engine,
    compiler: GrammarCompiler,
    question: Question,
    abstain: bool,
    max_tokens: int,
    prior: DecisionPrior | None,
    tables: ReplyTables,
) -> Answered:
    example = question.example
    try:
        # The same response format as in an application with these tools.
        wanted = ResponseFormat(tools=example.specs, abstain=abstain and bool(example.tools))
        grammar = compiler.compile(wanted)
        asked = open_request([(message.role, message.content) for message in example.messages])
        bias = ToolBias.of(prior, asked, wanted, engine.vocabulary)
        request = GenerateRequest(
            question.prompt_ids,
            max_tokens,
            grammar=grammar.start(),
            choice_bias=bias,
            logit_bias=ReplyBias.of(prior, asked, wanted.tools, tables),
        )
        generation = engine.generate(request)
        text = b"".join(engine.vocabulary.token_bytes[token] for token in generation.ids).decode(
            "utf-8", "replace"
        )
        return Answered(example, text, is_exact(example, grammar.parse(text)))
    except (ContextWindowError, UnsupportedSchemaError) as error:
        return Answered(example, f"(could not be asked: {error})", is_right=False)
    except ResponseParseError as error:
        return Answered(example, f"(cut off: {error})", is_right=False)


def _share(name: str, rights: Sequence[bool]) -> Measurement:
    n_right, n = sum(rights), len(rights)
    low, high = share_interval(n_right, n)
    note = "grammar on, greedy" if name == EXACT else ""
    return Measurement(name=name, value=n_right / n, low=low, high=high, n=n, note=note)


def _canonical(value: Any) -> str:
    return json.dumps(_numbers(value), sort_keys=True, ensure_ascii=False)


def _numbers(value: Any) -> Any:
    """Return JSON with whole floats as integers; booleans stay booleans."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
