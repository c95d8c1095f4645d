"""Random weights through the real decode loop: whatever the model wants, the reply is valid.

A model that knows nothing, sampled at temperature 1, tries everything that the mask lets through; real and
hand-written tool sets, both engines.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import tool_sets
from driving import ENGINES
from jsonschema import Draft202012Validator

from modelstack.inference.engine import GenerateRequest, SamplingParams
from modelstack.inference.llama.engine import LlamaCppEngine
from modelstack.toolcalls import (
    GrammarCompiler,
    ResponseFormat,
    ToolSpec,
    UnsupportedSchemaError,
    parse_response,
    tool_choices,
)
from modelstack.toolcalls.conventions import CONVENTIONS
from modelstack.toolcalls.grammar.coverage import EngineName
from modelstack.toolcalls.grammar.schemas import normalise

N_GENERATIONS = 110
MAX_TOKENS = 160


@pytest.fixture(scope="module")
def engine(tiny_gguf: Path) -> Iterator[LlamaCppEngine]:
    with LlamaCppEngine(tiny_gguf, n_threads=1, n_threads_prefill=1) as loaded:
        yield loaded


def formats() -> list[ResponseFormat]:
    """At least 20 tool sets, real ones where they lie; calls are required, or the model would mostly talk."""
    sets: list[tuple[ToolSpec, ...]] = [tuple(tools) for tools in tool_sets.inline()]
    sets += [tuple(tools) for tools in tool_sets.bfcl(40)]
    sets += [tuple(tools) for tools in tool_sets.servers(40)]
    return [ResponseFormat(tools=tools, answer=None if i % 4 else "text") for i, tools in enumerate(sets)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
def test_random_weights_write_only_valid_calls_of_known_tools(engine: LlamaCppEngine, name: EngineName) -> None:
    compiler = GrammarCompiler(engine.vocabulary, name, "refuse", cache_size=1000)
    compiled = []
    for response_format in formats():
        try:
            compiled.append(compiler.compile(response_format))
        except UnsupportedSchemaError:
            continue  # said before any token is decoded; checked in the coverage tests
    assert len(compiled) >= 20
    prompt = engine.vocabulary.encode("call a tool")
    n_calls = 0
    for i in range(N_GENERATIONS):
        grammar = compiled[i % len(compiled)]
        request = GenerateRequest(
            prompt_ids=prompt,
            max_tokens=MAX_TOKENS,
            grammar=grammar.start(),
            sampling=SamplingParams(temperature=1.0, seed=i),
        )
        generation = engine.generate(request)
        text = engine.vocabulary.decode(generation.ids)
        assert generation.finish_reason == "end" or grammar.format.answer == "text", text
        if text[:1] != "[":
            continue
        parsed = parse_response(text, grammar.format)
        for tool_name, arguments in parsed.calls:
            schema = normalise(grammar.format.tool(tool_name).parameters, is_arguments=True)
            Draft202012Validator(schema).validate(json.loads(arguments))
            n_calls += 1
    assert n_calls >= N_GENERATIONS // 2


@pytest.mark.parametrize("name", ENGINES)
def test_a_tool_taken_away_is_unreachable_in_the_next_generation(engine: LlamaCppEngine, name: EngineName) -> None:
    none = {"type": "object", "properties": {}}
    both = (ToolSpec("delete_all", "", none), ToolSpec("list", "", none))
    compiler = GrammarCompiler(engine.vocabulary, name)
    prompt = engine.vocabulary.encode("go")
    seen: dict[int, set[str]] = {}
    for tools in (both, both[1:]):
        compiled = compiler.compile(ResponseFormat(tools=tools, answer=None))
        seen[len(tools)] = set()
        for seed in range(60):
            sampling = SamplingParams(temperature=1.0, seed=seed)
            request = GenerateRequest(prompt, 80, grammar=compiled.start(), sampling=sampling)
            text = engine.vocabulary.decode(engine.generate(request).ids)
            seen[len(tools)] |= {tool for tool, _ in parse_response(text, compiled.format).calls}
    assert seen == {2: {"delete_all", "list"}, 1: {"list"}}


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("name", ENGINES)
def test_every_convention_is_valid_from_random_weights(
    engine: LlamaCppEngine, name: EngineName, convention: str
) -> None:
    """Hermes's marks are special tokens of this model's vocabulary, those of the others are plain text."""
    compiler = GrammarCompiler(engine.vocabulary, name, convention=CONVENTIONS[convention])
    prompt = engine.vocabulary.encode("call a tool")
    kinds: Counter[str] = Counter()
    sets = tool_sets.inline()[ENGINES.index(name) :: 2]  # each set on one of the engines
    for i, tools in enumerate(sets):
        compiled = compiler.compile(ResponseFormat(tools=tools, answer="text" if i % 2 else None, max_calls=2))
        grammar = compiled.start()
        max_tokens = max(MAX_TOKENS, grammar.closing_reserve)  # marks in plain text take many tokens
        sampling = SamplingParams(temperature=1.0, seed=i)
        generation = engine.generate(GenerateRequest(prompt, max_tokens, grammar=grammar, sampling=sampling))
        parsed = compiled.parse(engine.vocabulary.decode(generation.ids))
        kinds[parsed.kind] += 1
        assert compiled.violations(parsed) == []
        choices = tool_choices(generation, engine.vocabulary, compiled.format, CONVENTIONS[convention])
        assert [choice.name for choice in choices if choice.name] == [call for call, _ in parsed.calls]
        for choice in choices:
            assert choice.probability + sum(choice.alternatives.values()) == pytest.approx(1, abs=1e-3)
    assert kinds["calls"] >= len(sets) // 2
