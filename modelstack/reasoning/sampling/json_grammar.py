"""Grammar of a reply that is one JSON value, without the convention's wrapping of answers.

For tasks whose verifier reads bare JSON (`verifiers.formats.StrictJson`). It combines parts of `toolcalls`:
llguidance's masks, and the recogniser that closes a value before the token budget ends. Keywords that no mask
can enforce (`uniqueItems`, `not`, ...) are left to the verifier. This module does not import torch.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from modelstack.inference.grammar import Grammar, GrammarError
from modelstack.tokenizer.vocabulary import Vocabulary
from modelstack.toolcalls.grammar.coverage import UnsupportedSchemaError, unsupported, without
from modelstack.toolcalls.grammar.dialects import modernise
from modelstack.toolcalls.grammar.llguidance_engine import LLGuidanceTemplate, build_tokenizer
from modelstack.toolcalls.grammar.pointers import SchemaReferenceError
from modelstack.toolcalls.grammar.schemas import MergeError, normalise
from modelstack.toolcalls.grammar.shape_builder import ShapeBuilder
from modelstack.toolcalls.grammar.shapes import LargestSteps, Response
from modelstack.toolcalls.grammar.tokens import TokenTable
from modelstack.toolcalls.grammar.tracking import TrackedGrammar
from modelstack.toolcalls.grammar.validation import check_schema

ENGINE = "llguidance"
KEPT = 64
"""Maximum number of cached schemas; a compiled schema takes 0.1 to 3 MB."""
LONGEST_NUMBER = 300
"""Maximum number of digits: answers include large factorials, and doubles overflow at 309 digits."""


class JsonCompiler:
    """Compiler of schemas for one vocabulary; not thread-safe."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Prepare the token tables of the vocabulary."""
        self._tokens = TokenTable(vocabulary)
        self._tokenizer = build_tokenizer(vocabulary)
        self._compiled: OrderedDict[str, tuple[LLGuidanceTemplate, Response, LargestSteps]] = OrderedDict()

    def start(self, schema: Mapping[str, Any]) -> Grammar:
        """Return a grammar for a new value: compact, keys in the schema's order, no unknown keys.

        Raises:
            UnsupportedSchemaError: The schema is invalid, has an unresolved reference, or cannot be compiled.
        """
        key = json.dumps(schema)
        if key not in self._compiled:
            self._compiled[key] = self._compile(schema)
            if len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(key)
        template, response, steps = self._compiled[key]
        return TrackedGrammar(template.start(), self._tokens, response, steps)

    def _compile(self, schema: Mapping[str, Any]) -> tuple[LLGuidanceTemplate, Response, LargestSteps]:
        modern = modernise(schema)
        if (wrong := check_schema(modern)) is not None:
            raise UnsupportedSchemaError("schema", wrong[0], ENGINE, wrong[1])
        held = without(modern, [use for use, _ in unsupported(modern, "", ENGINE)])
        try:
            normal = normalise(held, is_arguments=False)
            template = LLGuidanceTemplate(_lark(normal), self._tokenizer, self._tokens)
        except (MergeError, SchemaReferenceError, GrammarError) as error:
            raise UnsupportedSchemaError("schema", "", ENGINE, str(error)) from error
        builder = ShapeBuilder(self._tokens.price, ordered=True, max_digits=LONGEST_NUMBER)
        response = Response(options=(builder.value(normal),))
        builder.shapes.append(response)
        builder.settle()
        return template, response, builder.largest_steps()


def _lark(schema: Mapping[str, Any]) -> str:
    compact = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}
    return f"start: %json {json.dumps({**schema, 'x-guidance': compact})}"
