"""Masks by llguidance, an Earley parser over lexemes that walks the token trie.

Source: github.com/guidance-ai/llguidance, its docs on JSON Schema and fast-forward tokens.

The reply is one Lark grammar; each tool's parameters are embedded as `%json`, compact (no white space between
tokens), so that more tokens are forced. End tokens and control tokens never reach the matcher: a control
token has no spelling that text could match.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import llguidance

from modelstack.inference.grammar import GrammarError, TokenMask
from modelstack.tokenizer.vocabulary import Vocabulary
from modelstack.toolcalls.convention import ARGUMENTS_PREFIX, CALL_PREFIX, RESULT_PREFIX, ResponseFormat
from modelstack.toolcalls.shapes import Response
from modelstack.toolcalls.tokens import TokenTable

LIMITS = {
    "initial_lexer_fuel": 2_000_000,
    "step_lexer_fuel": 400_000,
    "step_max_items": 100_000,
    "max_lexer_states": 250_000,
    "max_grammar_size": 1_000_000,
}
"""Twice llguidance's defaults per step (about 30 ms of work): a hostile pattern ends in an error, not in a
hang."""
_COMPACT = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}
_TEXT = r"TEXT: /[^ \t\r\n\x0b\x0c\[{](?s:.)*/"


def build_tokenizer(vocabulary: Vocabulary) -> llguidance.LLTokenizer:
    """Return llguidance's trie of the vocabulary; 0.1 s for 49,152 tokens, so keep it."""
    wrapper = llguidance.TokenizerWrapper(_Adapter(vocabulary))
    return llguidance.LLTokenizer(wrapper, n_vocab=len(vocabulary), eos_token=list(vocabulary.end_ids))


def lark_grammar(response_format: ResponseFormat, schemas: Mapping[str, Any], answer: Any | None) -> str:
    """Write the grammar of replies; `schemas` maps tool names to normalised parameters."""
    forms, rules = [], []
    if schemas:
        forms.append("calls")
        more = response_format.call_limit - 1
        rules.append('calls: "[" call ' + (f'("," call){{0,{more}}} ' if more else "") + '"]"')
        rules.append("call: " + " | ".join(f"call_{i}" for i in range(len(schemas))))
        for i, (name, schema) in enumerate(schemas.items()):
            opening = json.dumps(f"{CALL_PREFIX}{name}{ARGUMENTS_PREFIX}", ensure_ascii=False)
            rules.append(f'call_{i}: {opening} arguments_{i} "}}"')
            rules.append(f"arguments_{i}: %json {_embedded(schema)}")
    if response_format.abstain:
        forms.append("abstention")
        rules.append('abstention: "[" "]"')
    if answer is not None:
        forms.append("result")
        rules.append(f'result: {json.dumps(RESULT_PREFIX)} value "}}"')
        rules.append(f"value: %json {_embedded(answer)}")
    elif response_format.answer == "text":
        forms.append("TEXT")
        rules.append(_TEXT)
    return "\n".join(["start: " + " | ".join(forms), *rules])


class LLGuidanceBackend:
    """Fulfils `compiler.Backend`."""

    def __init__(self, tokens: TokenTable) -> None:
        """Build the token trie."""
        self._tokens = tokens
        self._tokenizer = build_tokenizer(tokens.vocabulary)

    def schema_error(self, schema: Any) -> str:
        """Return what llguidance says against a normalised schema, `` if it compiles."""
        return _grammar_error(f"start: %json {_embedded(schema)}", self._tokenizer)

    def template(
        self,
        response_format: ResponseFormat,
        schemas: Mapping[str, Any],
        answer: Any | None,
        response: Response,
    ) -> LLGuidanceTemplate:
        """Compile a reply."""
        return LLGuidanceTemplate(lark_grammar(response_format, schemas, answer), self._tokenizer, self._tokens)


class LLGuidanceTemplate:
    """A compiled grammar, copied for each generation."""

    def __init__(self, grammar: str, tokenizer: llguidance.LLTokenizer, tokens: TokenTable) -> None:
        """Compile a Lark grammar, or raise GrammarError."""
        self._matcher = _matcher(grammar, tokenizer)
        self._tokens = tokens
        if self._matcher.is_error():
            raise GrammarError(f"llguidance: {_short(self._matcher.get_error())}")

    def start(self) -> LLGuidanceState:
        """Return the state at the start of a reply."""
        return LLGuidanceState(self._matcher, self._tokens)


class LLGuidanceState:
    """Fulfils `tracking.EngineState`."""

    def __init__(self, template: llguidance.LLMatcher, tokens: TokenTable) -> None:
        """Copy the template."""
        self._template = template
        self._matcher = template.deep_copy()
        self._n_bytes = tokens.n_words * 4
        self._end = tokens.vocabulary.end_ids[0]
        self._taken: list[int] = []

    def fill(self, mask: TokenMask) -> None:
        """Write the legal tokens into `mask`."""
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, self._n_bytes)
        if self._matcher.is_error():
            self._fail("mask")

    def accepting(self) -> bool:
        """Say whether the reply may end here."""
        return self._matcher.is_accepting()

    def stopped(self) -> bool:
        """Say whether nothing may follow."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def forced(self) -> list[int]:
        """Return llguidance's fast-forward tokens."""
        return self._matcher.compute_ff_tokens()

    def advance(self, token_id: int) -> None:
        """Take a token; on an illegal one the matcher, which would stay broken, is set back by replay."""
        if not self._matcher.consume_token(token_id):
            message = _short(self._matcher.get_error())
            self._matcher = self._template.deep_copy()
            self._matcher.consume_tokens(self._taken)
            raise GrammarError(f"token {token_id} is not legal here: {message}")
        self._taken.append(token_id)

    def rollback(self, n_tokens: int) -> None:
        """Undo."""
        if not self._matcher.rollback(n_tokens):
            self._fail("rollback")
        del self._taken[-n_tokens:]

    def permits(self, ids: list[int]) -> bool:
        """Say whether `ids` complete the reply."""
        return self._matcher.validate_tokens([*ids, self._end]) == len(ids) + 1

    def _fail(self, what: str) -> None:
        raise GrammarError(f"llguidance could not do the {what}: {_short(self._matcher.get_error())}")


class _Adapter:
    """The tokenizer that llguidance asks for (see llguidance.TokenizerWrapper)."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Take what the trie needs from a vocabulary."""
        withheld = vocabulary.special_ids | set(vocabulary.end_ids)
        self.eos_token_id = vocabulary.end_ids[0]
        self.bos_token_id = None
        self.tokens = vocabulary.token_bytes
        self.special_token_ids = sorted(withheld)
        self._encode = vocabulary.encode

    def __call__(self, text: str) -> list[int]:
        """Encode text canonically; forced tokens are found with this."""
        return list(self._encode(text))


def _embedded(schema: Any) -> str:
    """Return a schema with the options of the compact form, as the text of a `%json` piece."""
    return json.dumps({**schema, "x-guidance": _COMPACT}, ensure_ascii=True)


def _matcher(grammar: str, tokenizer: llguidance.LLTokenizer) -> llguidance.LLMatcher:
    limits = llguidance.LLParserLimits(verbose_errors=False, **LIMITS)  # pyright: ignore[reportArgumentType]
    return llguidance.LLMatcher(
        tokenizer, llguidance.LLMatcher.grammar_from_lark(grammar), log_level=0, limits=limits
    )


def _grammar_error(grammar: str, tokenizer: llguidance.LLTokenizer) -> str:
    matcher = _matcher(grammar, tokenizer)
    return _short(matcher.get_error()) if matcher.is_error() else ""


def _short(message: str) -> str:
    return " ".join(message.split("<state>")[0].split())[:300]
