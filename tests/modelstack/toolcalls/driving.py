"""Ways to drive a grammar: by text, by random legal tokens within a budget, or as a decode loop would."""

from __future__ import annotations

import numpy as np
import vocabularies

from modelstack.inference.grammar import GrammarError
from modelstack.tokenizer.vocabulary import Vocabulary
from modelstack.toolcalls import CompiledGrammar, GrammarCompiler
from modelstack.toolcalls.grammar.compiler import UnsupportedPolicy
from modelstack.toolcalls.grammar.coverage import EngineName
from modelstack.toolcalls.grammar.tokens import is_set, legal_ids
from modelstack.toolcalls.grammar.tracking import TrackedGrammar

ENGINES: tuple[EngineName, ...] = ("llguidance", "lm-format-enforcer")
_COMPILERS: dict[tuple[str, str, str], GrammarCompiler] = {}


def compiler(
    engine: EngineName, unsupported: UnsupportedPolicy = "refuse", vocabulary: Vocabulary | None = None
) -> GrammarCompiler:
    """Return a compiler over the small vocabulary, shared by all tests."""
    vocabulary = vocabulary or vocabularies.small()
    key = (engine, unsupported, vocabulary.fingerprint)
    if key not in _COMPILERS:
        _COMPILERS[key] = GrammarCompiler(vocabulary, engine, unsupported)
    return _COMPILERS[key]


def encode(vocabulary: Vocabulary, text: str) -> list[int]:
    """Encode text, and check that the tokens say it."""
    ids = vocabulary.encode(text)
    assert vocabulary.decode(ids) == text
    return ids


def after(compiled: CompiledGrammar, text: str, vocabulary: Vocabulary | None = None) -> TrackedGrammar:
    """Return the grammar behind `text`; raises GrammarError where it is illegal."""
    grammar = compiled.start_tracked()
    for token in encode(vocabulary or vocabularies.small(), text):
        grammar.advance(token)
    return grammar


def accepts(compiled: CompiledGrammar, text: str) -> bool:
    """Say whether `text` is a whole reply of the grammar."""
    try:
        return after(compiled, text).accepting
    except GrammarError:
        return False


def may_follow(compiled: CompiledGrammar, text: str, continuation: str) -> bool:
    """Say whether `continuation` can be written behind `text`."""
    try:
        after(compiled, text + continuation)
    except GrammarError:
        return False
    return True


def random_reply(
    compiled: CompiledGrammar,
    vocabulary: Vocabulary,
    rng: np.random.Generator,
    budget: int,
    *,
    jump_ahead: bool = True,
) -> tuple[str | None, TrackedGrammar]:
    """Write a reply of uniformly random legal tokens as the decode loop does; None when the budget cut it."""
    grammar = compiled.start_tracked()
    ids: list[int] = []
    closing = False
    while not grammar.finished and len(ids) < budget:
        forced = grammar.forced() if jump_ahead else []
        if forced and len(ids) + len(forced) <= budget:
            for token in forced:
                grammar.advance(token)
            ids += forced
            continue
        closing = closing or budget - len(ids) <= grammar.closing_reserve
        mask = grammar.closing() if closing else grammar.mask()
        token = int(rng.choice(legal_ids(mask, len(vocabulary))))
        if token in vocabulary.end_ids:
            break
        grammar.advance(token)
        if not closing and grammar.closing_reserve > budget - len(ids) - 1:
            grammar.rollback(1)
            closing = True
            continue
        ids.append(token)
    if not grammar.accepting:
        return None, grammar
    return b"".join(vocabulary.token_bytes[i] for i in ids).decode(), grammar


def end_tokens_match(grammar: TrackedGrammar, vocabulary: Vocabulary) -> bool:
    """Say whether end tokens are legal exactly when the reply may end."""
    mask = grammar.mask()
    return all(is_set(mask, i) == grammar.accepting for i in vocabulary.end_ids)
