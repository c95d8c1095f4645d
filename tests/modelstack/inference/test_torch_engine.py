"""The torch engine: replies that no batch, chunk, cache or preemption changes; an error ends one reply only."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from modelstack.inference.engine import (
    BatchingEngine,
    ContextWindowError,
    EngineError,
    Generation,
    SamplingParams,
)
from modelstack.inference.grammar import Grammar
from modelstack.inference.reply import ReplyMaker
from modelstack.inference.torch.engine import TorchEngine
from modelstack.toolcalls.convention import ResponseFormat, ToolSpec
from modelstack.toolcalls.grammar.compiler import GrammarCompiler
from modelstack.toolcalls.grammar.coverage import UnsupportedSchemaError
from tests.modelstack.architecture.gguf_models import toy_chat_tokenizer
from tests.modelstack.inference.fakes import write_alone
from tests.modelstack.inference.stepping import run
from tests.modelstack.inference.torch_engines import (
    FAMILIES,
    engine_of,
    greedy,
    model_of,
    prompt_of,
    request,
)
from tests.modelstack.reasoning.policy.toy_policy import TOOLS

SAMPLED = SamplingParams(temperature=1.0, top_p=0.95, seed=7)


def is_whole(engine: TorchEngine) -> bool:
    """Whether no request holds a block."""
    status = engine.status
    return (status.n_running, status.n_waiting, status.n_free_blocks) == (0, 0, status.n_blocks)


PROMPTS = [prompt_of(n, length) for n, length in enumerate([5, 33, 18, 2, 33, 9])]


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_replies_are_the_same_alone_together_and_in_any_chunks(name: str) -> None:
    expected = [greedy(name, prompt, 10) for prompt in PROMPTS]
    for options in ({}, {"max_rows": 3, "max_step_tokens": 7}, {"max_rows": 1}, {"block_tokens": 1}):
        with engine_of(name, **options) as engine:
            replies = run(engine, *(engine.submit(request(prompt, 10)) for prompt in PROMPTS))
            assert [reply.ids for reply in replies] == expected
            assert is_whole(engine)
    with engine_of(name) as engine:
        assert [engine.generate(request(prompt, 10)).ids for prompt in PROMPTS] == expected


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_replies_are_the_same_with_a_cached_prompt_and_the_hit_is_reported(name: str) -> None:
    prompt = prompt_of(3, 33)
    with engine_of(name) as engine:
        first, second = (engine.generate(request(prompt, 10)) for _ in range(2))
        assert first.ids == second.ids == greedy(name, prompt, 10)
        assert (first.stats.reused_tokens, first.stats.prefilled_tokens) == (0, 33)
        assert (second.stats.reused_tokens, second.stats.prefilled_tokens) == (32, 1)
        longer = [*prompt, *first.ids, 7, 8]  # the next turn of the conversation
        third = engine.generate(request(longer, 10))
        assert third.ids == greedy(name, longer, 10)
        assert third.stats.reused_tokens == (33 + 9) // 4 * 4


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_replies_are_the_same_after_a_preemption(name: str) -> None:
    prompts = [prompt_of(n, 12) for n in range(4)]
    with engine_of(name, n_cached_tokens=72) as engine:
        submissions = [engine.submit(request(prompt, 40)) for prompt in prompts]
        replies = run(engine, *submissions)
        assert sum(s.stream.n_preempted for s in submissions if s.stream is not None) > 0
        assert [reply.ids for reply in replies] == [greedy(name, prompt, 40) for prompt in prompts]
        assert is_whole(engine)


def test_a_reply_does_not_depend_on_the_others_of_its_batch() -> None:
    with engine_of() as engine:
        wanted = request(PROMPTS[0], 20, sampling=SAMPLED)
        alone = engine.generate(wanted)
        others = [
            engine.submit(request(p, 20, sampling=SamplingParams(1.5, seed=n))) for n, p in enumerate(PROMPTS)
        ]
        engine.step()
        together, *_ = run(engine, engine.submit(wanted), *others)
        assert together.ids == alone.ids
        assert together.logprobs == pytest.approx(alone.logprobs, abs=1e-4)
        other_seed = engine.generate(request(PROMPTS[0], 20, sampling=SamplingParams(1.0, top_p=0.95, seed=8)))
        assert other_seed.ids != alone.ids


def test_log_probabilities_are_those_of_a_training_pass() -> None:
    with engine_of() as engine:
        reply = engine.generate(request(PROMPTS[1], 12, sampling=SAMPLED))
    ids = [*PROMPTS[1], *reply.ids]
    with torch.no_grad():
        logits = model_of("llama")(torch.tensor([ids])).logits_BTV[0, len(PROMPTS[1]) - 1 : -1]
    expected = torch.log_softmax(logits[:, : len(toy_chat_tokenizer().vocabulary)], -1)[
        range(len(reply.ids)), reply.ids
    ]
    assert reply.logprobs == pytest.approx(expected.tolist(), abs=1e-4)


def grammar() -> Grammar:
    return GrammarCompiler(toy_chat_tokenizer().vocabulary).compile(tools()).start()


def tools(*more: ToolSpec) -> ResponseFormat:
    return ResponseFormat((*TOOLS, *more), answer=None)


def by_loop(prompt: list[int], max_tokens: int, **keys: Any) -> Generation:
    """Return the reply by whole passes of the model."""

    def next_logits(tokens: list[int]) -> np.ndarray:
        with torch.no_grad():
            logits_V = model_of("llama")(torch.tensor([tokens])).logits_BTV[0, -1]
        return logits_V[: len(toy_chat_tokenizer().vocabulary)].numpy()

    maker = ReplyMaker(toy_chat_tokenizer().vocabulary, np.random.default_rng(0))
    return write_alone(prompt, maker.make(request(prompt, max_tokens, **keys), max_tokens), next_logits)


@pytest.mark.parametrize("sampling", [SamplingParams(), SAMPLED])
@pytest.mark.parametrize("jump_ahead", [True, False])
def test_grammars_and_forced_blocks_give_the_replies_of_the_loop(
    sampling: SamplingParams, jump_ahead: bool
) -> None:
    keys = {"sampling": sampling, "jump_ahead": jump_ahead, "end_ids": None}
    expected = by_loop(PROMPTS[0], 120, grammar=grammar(), **keys)
    with engine_of() as engine:
        submissions = [engine.submit(request(PROMPTS[0], 120, grammar=grammar(), **keys)) for _ in range(2)]
        engine.submit(request(PROMPTS[1], 30))
        for reply in run(engine, *submissions):
            assert reply.ids == expected.ids
            assert (reply.forced, reply.finish_reason) == (expected.forced, expected.finish_reason)
            assert any(reply.forced) == jump_ahead
            assert reply.stats.forced_tokens == expected.stats.forced_tokens
            assert reply.stats.sampled_tokens == expected.stats.sampled_tokens
            assert reply.stats.forward_calls < reply.stats.sampled_tokens


def test_a_failed_evaluation_is_raised_and_the_replies_can_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with engine_of() as engine:
        submissions = [engine.submit(request(prompt, 10)) for prompt in PROMPTS[:3]]
        for _ in range(4):
            engine.step()
        with monkeypatch.context() as patch:
            patch.setattr(model_of("llama"), "logits", lambda hidden: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                engine.step()
            with pytest.raises(ZeroDivisionError):
                engine.generate(request(PROMPTS[3], 10))
        engine.check_integrity()
        assert engine.status.n_waiting == 3  # the one whose caller was told is gone
        replies = run(engine, *submissions)
        assert [reply.ids for reply in replies] == [greedy("llama", prompt, 10) for prompt in PROMPTS[:3]]


def test_what_cannot_run_is_refused_and_touches_no_other_reply() -> None:
    with engine_of(context_window=48, n_cached_tokens=40) as engine:
        other = engine.submit(request(PROMPTS[1], 7))
        with pytest.raises(ContextWindowError, match="48 tokens .* may hold 40.* larger n_cached_tokens"):
            engine.submit(request(prompt_of(0, 48)))
        with pytest.raises(EngineError, match="the prompt is empty"):
            engine.submit(request([]))
        with pytest.raises(EngineError, match="outside the vocabulary"):
            engine.submit(request([5, 10_000]))
        with pytest.raises(EngineError, match="temperature must be 0"):
            engine.submit(request([5], sampling=SamplingParams(temperature=-1)))
        odd = ToolSpec(
            "odd", "", {"type": "object", "properties": {"n": {"type": "integer", "not": {"const": 3}}}}
        )
        with pytest.raises(UnsupportedSchemaError):
            GrammarCompiler(engine.vocabulary).compile(tools(odd))
        assert run(engine, other)[0].ids == greedy("llama", PROMPTS[1], 7)
        full = engine.generate(request(PROMPTS[1], 100))
        assert (len(full.ids), full.finish_reason) == (7, "length")  # as many as fit
        with pytest.raises(EngineError, match="has not ended"):
            engine.submit(request([5])).result()
    with pytest.raises(ContextWindowError, match="larger context_window"), engine_of(context_window=20) as engine:
        engine.submit(request(prompt_of(0, 20)))
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"context_window": 1000}, "more than the 256 tokens"),
        ({"n_cached_tokens": 0}, "n_cached_tokens is 0"),
        ({"max_rows": 9, "max_step_tokens": 8}, "max_rows is 9"),
    ]
    for options, message in wrong:
        with pytest.raises(EngineError, match=message):
            engine_of(**options)


def test_a_forgotten_conversation_is_evaluated_again() -> None:
    with engine_of() as engine:

        def reused() -> int:
            return engine.generate(request(PROMPTS[1], 4, conversation="a")).stats.reused_tokens

        assert (reused(), reused()) == (0, 32)
        engine.forget("unknown")
        assert engine.status.n_cached_blocks > 0
        engine.forget("a")
        assert engine.status.n_cached_blocks == 0
        assert reused() == 0


def test_the_engine_is_of_the_protocol_and_names_its_weights() -> None:
    with engine_of() as engine, engine_of("qwen2") as other:
        batching: BatchingEngine = engine
        assert batching.vocabulary is toy_chat_tokenizer().vocabulary
        assert batching.encode_template("<|im_start|>") == [len(toy_chat_tokenizer().vocabulary) - 2]
        assert (batching.context_window, batching.chat_template) == (256, toy_chat_tokenizer().chat_template)
        assert len(engine.fingerprint) == 64 and engine.fingerprint != other.fingerprint
        with pytest.raises(EngineError, match="was not submitted to this engine"):
            engine.cancel(None)  # pyright: ignore
