"""Makes one request with or without the grammar; everything else is the same.

Both modes send the same text: the schema in the system prompt, the prompt from the user. With the grammar the
request also asks for a structured answer: a local model masks its tokens, a server gets the schema as its response
format. Without the grammar it asks for text. A local model masks text answers too (they may not begin like a
call), so the request goes to a second model on the same weights without masks.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any
from weakref import WeakKeyDictionary

import anyio.to_thread

from agentkit import LocalModel
from agentkit.errors import ModelError, UserError
from agentkit.models.base import Model, ModelRequestParameters, ModelSettings, OutputSchema
from evals.case import Case, Run
from evals.harness.solving import ask_model
from evals.structured_output.coverage import ENGINES, cover
from modelstack.inference.engine import Engine
from modelstack.toolcalls.grammar.compiler import GrammarCompiler

GRAMMAR, FREE = "grammar", "free"
_RESULT = "result"

_unmasked: WeakKeyDictionary[LocalModel, LocalModel] = WeakKeyDictionary()
_compilers: WeakKeyDictionary[Engine, dict[str, GrammarCompiler]] = WeakKeyDictionary()
_lock = threading.Lock()
"""Held while unmasked models and compilers are created or used, because a compiler is not thread-safe."""


async def solve(case: Case, model: Model, settings: ModelSettings) -> Run:
    """Request the answer of one case in the case's mode.

    Raises:
        UserError: the case needs the grammar, but the local model was created without one.
    """
    schema = case.data["schema"]
    if case.data["mode"] == FREE:
        if isinstance(model, LocalModel):
            model = await anyio.to_thread.run_sync(_without_grammar, model)
        return await ask_model(case, model, ModelRequestParameters(settings=settings), system=instruction(schema))
    observed: Mapping[str, Any] = {}
    if isinstance(model, LocalModel):
        if not model.profile.grammar:
            raise UserError(f"{model.name} has no grammar: use mode=free, or the model without ?grammar=none.")
        observed = {"coverage": await anyio.to_thread.run_sync(_coverage, model, schema)}
    parameters = ModelRequestParameters(output=output_schema(schema), settings=settings)
    try:
        run = await ask_model(case, model, parameters, system=instruction(schema))
    except (ModelError, UserError) as error:  # a refused schema is a result, and the observed coverage explains it
        return Run(case.id, "failed", observed=observed, error=f"{type(error).__name__}: {error}")
    return replace(run, observed=observed)


def instruction(schema: Mapping[str, Any]) -> str:
    """Return the system prompt, which is the same in both modes."""
    text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    return f"Reply with one JSON value that fits this JSON Schema, and with nothing else:\n{text}"


def is_wrapped(schema: Mapping[str, Any]) -> bool:
    """Return whether the schema is not an object's, so that a structured answer carries the value in `result`."""
    return schema.get("type") != "object"


def output_schema(schema: Mapping[str, Any]) -> OutputSchema:
    """Return the schema in a request's form: an object schema; other schemas are wrapped in one.

    Definitions move to the wrapper's root, so that references to them stay valid.
    """
    if not is_wrapped(schema):
        return OutputSchema("answer", schema)
    wrapped: dict[str, Any] = {
        "type": "object",
        "properties": {_RESULT: {key: value for key, value in schema.items() if key != "$defs"}},
        "required": [_RESULT],
        "additionalProperties": False,
    }
    if "$defs" in schema:
        wrapped["$defs"] = schema["$defs"]
    return OutputSchema("answer", wrapped, wrapped=True)


def _without_grammar(model: LocalModel) -> LocalModel:
    """Return a model on the same weights and cache without masks."""
    engine = model.load()
    with _lock:
        if model not in _unmasked:
            _unmasked[model] = LocalModel(engine, grammar=None)
        return _unmasked[model]


def _coverage(model: LocalModel, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return each grammar engine's coverage of a schema, for this model's vocabulary."""
    engine = model.load()
    with _lock:
        if engine not in _compilers:
            _compilers[engine] = {
                name: GrammarCompiler(engine.vocabulary, name, "check", cache_size=1) for name in ENGINES
            }
        return {name: asdict(cover(schema, compiler)) for name, compiler in _compilers[engine].items()}
