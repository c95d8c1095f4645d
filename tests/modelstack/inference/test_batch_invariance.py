"""How a prompt was cut and cached, and what was jumped over, does not change a reply by a single bit."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelstack.inference.engine import GenerateRequest
from modelstack.inference.llama.engine import LlamaCppEngine
from modelstack.inference.llama.library import library
from modelstack.toolcalls import GrammarCompiler, ResponseFormat, ToolSpec
from tests.modelstack.inference.tiny_gguf import TinyShape, write_tiny_gguf

TEXT = "The quick brown fox jumps over the lazy dog, and then it thinks about what to do next. " * 16
TOOLS = (
    ToolSpec(
        "book_table",
        "Book a table.",
        {
            "type": "object",
            "properties": {
                "restaurant": {"type": "string"},
                "guests": {"type": "integer"},
                "terrace": {"type": "boolean"},
            },
            "required": ["restaurant", "guests"],
        },
    ),
    ToolSpec(
        "bake", "Bake.", {"type": "object", "properties": {"what": {"type": "string"}}, "required": ["what"]}
    ),
)


@pytest.fixture(scope="module", params=["tiny", "smollm2"])
def engine(request: pytest.FixtureRequest) -> Iterator[LlamaCppEngine]:
    path: Path = request.getfixturevalue("tiny_gguf" if request.param == "tiny" else "smollm2_gguf")
    with LlamaCppEngine(path, context_window=None if request.param == "smollm2" else 512, n_threads=1) as loaded:
        if not loaded.batch_invariant:
            pytest.skip("built with llamafile's kernels; the Makefile's CMAKE_SWITCHES leave them out")
        yield loaded


def test_a_reply_does_not_depend_on_how_its_prompt_was_cached(engine: LlamaCppEngine) -> None:
    """Of one conversation at a time: what other conversations hold in the cache moves the order of sums."""
    ids = engine.vocabulary.encode(TEXT)[:264]  # llama.cpp reads its cache in steps of 256 cells
    replies = []
    for cut in (0, 17, 263):
        engine.forget("default")
        if cut:
            engine.generate(GenerateRequest(ids[:cut], 1))
        generation = engine.generate(GenerateRequest(ids, 12))
        assert generation.stats.reused_tokens == cut
        replies.append((generation.ids, generation.logprobs))
    assert all(reply == replies[0] for reply in replies)


def test_jump_ahead_changes_nothing_but_the_number_of_model_calls(engine: LlamaCppEngine) -> None:
    compiled = GrammarCompiler(engine.vocabulary).compile(ResponseFormat(tools=TOOLS, answer=None))
    for text in ("Book a table for four at Luigi's.", "Bake bread.", TEXT):
        prompt = engine.vocabulary.encode(text)[:60]
        replies = []
        for jump_ahead in (True, False):
            engine.forget("default")
            request = GenerateRequest(prompt, 48, grammar=compiled.start(), jump_ahead=jump_ahead)
            replies.append(engine.generate(request))
        with_jump, without = replies
        assert engine.vocabulary.decode(with_jump.ids) == engine.vocabulary.decode(without.ids)
        assert with_jump.ids == without.ids
        sampled = [i for i, forced in enumerate(with_jump.forced) if not forced]
        assert [with_jump.logprobs[i] for i in sampled] == [without.logprobs[i] for i in sampled]
        assert with_jump.stats.forward_calls < without.stats.forward_calls


@pytest.mark.parametrize("file_type", {"Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q4_K": 15, "Q6_K": 18}.items())
def test_the_engine_measures_whether_batches_change_a_reply(tmp_path: Path, file_type: tuple[str, int]) -> None:
    """Kernels of some formats sum up otherwise for several rows; for which formats depends on the processor."""
    plain = write_tiny_gguf(tmp_path / "plain.gguf", shape=TinyShape(width=256, feed_forward=512, n_vocab=512))
    quantised = tmp_path / f"{file_type[0]}.gguf"  # width 256: K-quants come in blocks of as many
    parameters = library().llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread = file_type[1], 1
    files = (str(plain).encode(), str(quantised).encode())
    assert library().llama_model_quantize(*files, ctypes.byref(parameters)) == 0
    with LlamaCppEngine(quantised, context_window=512, n_threads=1, n_threads_prefill=1) as engine:
        ids = engine.vocabulary.encode(TEXT)[:101]
        replies = []
        for cut in (0, 1, 2, 3, 50, 99, 100):
            engine.forget("default")
            if cut:
                engine.generate(GenerateRequest(ids[:cut], 1))
            generation = engine.generate(GenerateRequest(ids, 6, end_ids=frozenset({999_999})))
            replies.append((generation.ids, generation.logprobs))
        assert engine.batch_invariant == all(reply == replies[0] for reply in replies)
