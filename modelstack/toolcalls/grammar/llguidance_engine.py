"""Token masks from llguidance, an Earley parser over lexemes that walks the token trie.

Source: github.com/guidance-ai/llguidance, its docs on JSON Schema and fast-forward tokens.

The reply is one Lark grammar. The parameters of each tool are embedded as compact `%json` without white space, so
that more tokens are forced. End tokens and control tokens never reach the matcher: a control token has no spelling
that text could match.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import llguidance

from modelstack.inference.grammar import GrammarError, TokenMask
from modelstack.tokenizer.vocabulary import Vocabulary
from modelstack.toolcalls.convention import ResponseFormat
from modelstack.toolcalls.conventions.form import COMPACT, CallForm, Notation
from modelstack.toolcalls.grammar.parameter_grammar import ParameterRules, escaped, quoted, sequence
from modelstack.toolcalls.grammar.shape_builder import allows_words
from modelstack.toolcalls.grammar.shapes import Response
from modelstack.toolcalls.grammar.tokens import TokenTable
from modelstack.toolcalls.marks import Marks

LIMITS = {
    "initial_lexer_fuel": 2_000_000,
    "step_lexer_fuel": 400_000,
    "step_max_items": 100_000,
    "max_lexer_states": 250_000,
    "max_grammar_size": 1_000_000,
}
"""Twice llguidance's defaults per step, about 30 ms of work: a hostile pattern ends in an error, not in a hang."""


def build_tokenizer(vocabulary: Vocabulary) -> llguidance.LLTokenizer:
    """Return llguidance's trie of the vocabulary. It takes 0.1 s for 49,152 tokens, so build it once."""
    wrapper = llguidance.TokenizerWrapper(_Adapter(vocabulary))
    return llguidance.LLTokenizer(wrapper, n_vocab=len(vocabulary), eos_token=list(vocabulary.end_ids))


def lark_grammar(
    response_format: ResponseFormat,
    form: CallForm,
    marks: Marks,
    schemas: Mapping[str, Any],
    answer: Any | None,
) -> str:
    """Return the Lark grammar of replies; `schemas` maps tool names to normalised parameters."""
    forms, rules = [], []
    if schemas:
        forms.append("calls")
        more = form.call_limit(response_format.call_limit) - 1
        between = f" ({sequence(form.separator, marks)} call){{0,{more}}}" if more else ""
        trailing = f" ({sequence(form.trailing, marks)})?" if more and form.trailing else ""
        rules.append(f"some_calls: call{between} {sequence(form.closing, marks)}{trailing}")
        rules.append(f"calls: {sequence(form.opening, marks)} some_calls")
        rules.append("call: " + " | ".join(f"call_{i}" for i in range(len(schemas))))
        for i, (name, schema) in enumerate(schemas.items()):
            opening = sequence(f"{form.name_prefix}{name}{form.name_suffix}", marks)
            rules.append(f"call_{i}: {opening} arguments_{i} {sequence(form.call_end, marks)}")
            rules += _arguments(f"arguments_{i}", schema, form, marks)
    if response_format.abstain and form.abstention is not None:
        forms.append("abstention")
        rules.append("abstention: " + " ".join(json.dumps(c) for c in form.abstention))
    if answer is not None:
        forms.append("result")
        rules.append(f'result: {quoted(form.result_prefix)} value "}}"')
        rules.append(f"value: %json {_embedded(answer, form.notation)}")
    if allows_words(response_format, form):
        forms.append("TEXT")
        if not schemas:
            rules.append(rf"TEXT: /{_none_of(form.not_first_without_tools)}(?s:.)*/")
        else:
            rules.append(_words(form))
            forms += _leads(form, marks, rules)
    return "\n".join(["start: " + " | ".join(forms), *rules])


def _arguments(name: str, schema: Any, form: CallForm, marks: Marks) -> list[str]:
    """Return the rules of a tool's arguments."""

    def embed(part: Mapping[str, Any]) -> str:
        return _embedded(part, form.notation)

    if form.parameters is None:
        return [f"{name}: %json {embed(schema)}"]
    definitions = schema.get("$defs", {})
    return ParameterRules(name, form.parameters, embed, marks, definitions).rules(schema)


def _words(form: CallForm) -> str:
    """Return the terminal of a text answer.

    It contains no text that opens calls, and does not begin like a call.
    """
    watched = form.trigger_name or form.trigger or ""
    parts = [rf"/{_none_of(form.not_first)}(?s:.)*/"]
    parts += [rf"~/{escaped(text)}(?s:.)*/" for text in form.not_begun]
    parts += [rf"~/(?s:.)*{escaped(watched)}(?s:.)*/"] if watched else []
    if len(parts) > 1:  # the complement of these texts alone would include invalid UTF-8
        parts.append("/(?s:.)*/")
    return "TEXT: " + " & ".join(parts)


def _leads(form: CallForm, marks: Marks, rules: list[str]) -> list[str]:
    """Return the form of calls after words, if the convention has one; its rules are appended to `rules`."""
    if not form.trigger:
        return []
    if form.trigger_name:
        return ["TEXT calls"]
    rules.append(f"lead[lazy]: TEXT {quoted(form.trigger)}")
    return [f"lead {sequence(form.opening.removeprefix(form.trigger), marks)} some_calls"]


def _none_of(characters: str) -> str:
    return "[^" + "".join(f"\\x{ord(c):02x}" for c in characters) + "]"


class LLGuidanceBackend:
    """Implements `compiler.Backend`."""

    def __init__(self, tokens: TokenTable) -> None:
        """Build the token trie."""
        self._tokens = tokens
        self._tokenizer = build_tokenizer(tokens.vocabulary)

    def schema_error(self, schema: Any, form: CallForm | None) -> str:
        """Return llguidance's error for a normalised schema; empty if it compiles."""
        if form is None or form.parameters is None:
            return _grammar_error(f"start: %json {_embedded(schema)}", self._tokenizer)
        try:
            rules = _arguments("arguments", schema, form, self._tokens.marks)
        except ValueError as error:
            return str(error)
        return _grammar_error("\n".join(["start: arguments", *rules]), self._tokenizer)

    def template(
        self,
        response_format: ResponseFormat,
        form: CallForm,
        schemas: Mapping[str, Any],
        answer: Any | None,
        response: Response,
    ) -> LLGuidanceTemplate:
        """Compile the grammar of a reply."""
        grammar = lark_grammar(response_format, form, self._tokens.marks, schemas, answer)
        return LLGuidanceTemplate(grammar, self._tokenizer, self._tokens)


class LLGuidanceTemplate:
    """A compiled grammar, copied for each generation."""

    def __init__(self, grammar: str, tokenizer: llguidance.LLTokenizer, tokens: TokenTable) -> None:
        """Compile a Lark grammar.

        Raises:
            GrammarError: llguidance refuses the grammar.
        """
        self._matcher = _matcher(grammar, tokenizer)
        self._tokens = tokens
        if self._matcher.is_error():
            raise GrammarError(f"llguidance: {_short(self._matcher.get_error())}")

    def start(self) -> LLGuidanceState:
        """Return the state at the start of a reply."""
        return LLGuidanceState(self._matcher, self._tokens)


class LLGuidanceState:
    """Implements `tracking.EngineState`."""

    def __init__(self, template: llguidance.LLMatcher, tokens: TokenTable) -> None:
        """Start with a copy of the template."""
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
        """Return whether the reply may end here."""
        return self._matcher.is_accepting()

    def stopped(self) -> bool:
        """Return whether nothing may follow."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def forced(self) -> list[int]:
        """Return llguidance's fast-forward tokens."""
        return self._matcher.compute_ff_tokens()

    def advance(self, token_id: int) -> None:
        """Take a token; after an illegal one the matcher is rebuilt by replay, since it would stay broken."""
        if not self._matcher.consume_token(token_id):
            message = _short(self._matcher.get_error())
            self._matcher = self._template.deep_copy()
            self._matcher.consume_tokens(self._taken)
            raise GrammarError(f"token {token_id} is not legal here: {message}")
        self._taken.append(token_id)

    def rollback(self, n_tokens: int) -> None:
        """Undo the last `n_tokens` tokens."""
        if not self._matcher.rollback(n_tokens):
            self._fail("rollback")
        del self._taken[-n_tokens:]

    def n_legal(self, ids: Sequence[int]) -> int:
        """Return the number of leading tokens that could be taken one after the other."""
        return self._matcher.validate_tokens(list(ids))

    def permits(self, ids: list[int]) -> bool:
        """Return whether `ids` complete the reply."""
        return self._matcher.validate_tokens([*ids, self._end]) == len(ids) + 1

    def _fail(self, what: str) -> None:
        raise GrammarError(f"llguidance failed at the {what}: {_short(self._matcher.get_error())}")


class _Adapter:
    """Adapts a vocabulary to the tokenizer interface of llguidance (see llguidance.TokenizerWrapper)."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Read the data that the trie needs from a vocabulary."""
        withheld = vocabulary.special_ids | set(vocabulary.end_ids)
        self.eos_token_id = vocabulary.end_ids[0]
        self.bos_token_id = None
        # Each gets a unique name. Many vocabularies have unused tokens without a name, whose empty bytes would be
        # the beginning of every special token in a grammar.
        self.tokens = tuple(
            f"<token {i}>".encode() if i in withheld else data for i, data in enumerate(vocabulary.token_bytes)
        )
        self.special_token_ids = sorted(withheld)
        self._encode = vocabulary.encode

    def __call__(self, text: str) -> list[int]:
        """Encode text canonically; llguidance computes forced tokens with this."""
        return list(self._encode(text))


def _embedded(schema: Any, notation: Notation = COMPACT) -> str:
    """Return the text of a `%json` expression: a schema with the separators of a notation."""
    style = {"whitespace_flexible": False, "item_separator": notation.comma, "key_separator": notation.colon}
    return json.dumps({**schema, "x-guidance": style}, ensure_ascii=True)


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
