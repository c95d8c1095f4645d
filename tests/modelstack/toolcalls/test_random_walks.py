"""A model that knows nothing, sampling any legal token, still ends complete and valid within its budget."""

from __future__ import annotations

import numpy as np
import pytest
import tool_sets
import vocabularies
from driving import ENGINES, compiler, random_reply

from modelstack.tokenizer.vocabulary import Vocabulary
from modelstack.toolcalls import ResponseFormat, ToolSpec
from modelstack.toolcalls.grammar.coverage import EngineName

BUDGETS = (200, 120, 80)
on_both_engines = pytest.mark.parametrize("engine", ENGINES)


def walk(engine: EngineName, vocabulary: Vocabulary, sets: list[tuple[ToolSpec, ...]], n_each: int) -> int:
    """Write random replies; return how many were written."""
    shared = compiler(engine, vocabulary=vocabulary)
    rng = np.random.default_rng(7)
    n_done = 0
    for tools in sets:
        names = {tool.name for tool in tools}
        for i in range(n_each):
            format_ = ResponseFormat(tools, answer=None, abstain=i % 3 == 2, parallel=i % 2 == 0, max_calls=3)
            compiled = shared.compile(format_)
            budget = max(BUDGETS[i % len(BUDGETS)], compiled.start().closing_reserve)
            text, grammar = random_reply(compiled, vocabulary, rng, budget, jump_ahead=i % 2 == 0)
            assert text is not None, f"cut at {budget} tokens: {tools[0].name}"
            assert not grammar.lost, text
            parsed = compiled.parse(text)
            assert compiled.violations(parsed) == [], text
            assert {name for name, _ in parsed.calls} <= names
            n_done += 1
    return n_done


@on_both_engines
def test_over_tool_sets_written_here(engine: EngineName) -> None:
    assert walk(engine, vocabularies.small(), tool_sets.inline(), 6) == 120


@on_both_engines
@pytest.mark.skipif(not tool_sets.bfcl(), reason="shared/data/evals/bfcl is not here")
def test_over_tool_sets_of_bfcl(engine: EngineName) -> None:
    assert walk(engine, vocabularies.small(), tool_sets.bfcl(), 4)


@on_both_engines
@pytest.mark.skipif(not tool_sets.servers(), reason="shared/data/tooluse or zstd is not here")
def test_over_tools_of_real_servers(engine: EngineName) -> None:
    assert walk(engine, vocabularies.small(), tool_sets.servers(), 4)


@pytest.mark.slow
@on_both_engines
@pytest.mark.usefixtures("smollm2_gguf")
def test_with_the_vocabulary_of_the_default_model(engine: EngineName) -> None:
    vocabulary = vocabularies.smollm2()
    sets = tool_sets.inline()[::3] + tool_sets.bfcl()[:2] + tool_sets.servers()[:3]
    assert walk(engine, vocabulary, sets, 3)


@on_both_engines
def test_text_answers_end_in_whole_characters(engine: EngineName) -> None:
    vocabulary = vocabularies.small()
    compiled = compiler(engine).compile(ResponseFormat(tool_sets.inline()[0], abstain=True))
    rng = np.random.default_rng(3)
    kinds = set()
    for budget in range(8, 68):
        text, _ = random_reply(compiled, vocabulary, rng, max(budget, compiled.start().closing_reserve))
        assert text is not None
        kinds.add(compiled.parse(text).kind)
        assert "\ufffd" not in text or "\ufffd".encode() in text.encode()
    assert "text" in kinds
