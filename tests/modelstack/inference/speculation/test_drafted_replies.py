"""Replies are the same with drafts of any quality, on both engines, with and without a grammar."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray

from modelstack.inference.engine import EngineError, GenerateRequest, SamplingParams
from modelstack.inference.llama.engine import LlamaCppEngine
from modelstack.inference.speculation.speculation import DraftedReply, LookupDrafter, Speculation
from modelstack.inference.torch.engine import TorchEngine
from modelstack.toolcalls import GrammarCompiler, ResponseFormat
from modelstack.toolcalls.conventions import CONVENTIONS
from modelstack.toolcalls.grammar.coverage import EngineName
from tests.modelstack.inference.fakes import (
    END,
    N_VOCAB,
    BracketGrammar,
    FakeContext,
    FakeEngine,
    ScriptedGrammar,
    hashed_logits,
)
from tests.modelstack.inference.speculation.no_costs import NoCosts
from tests.modelstack.inference.stepping import run
from tests.modelstack.inference.test_batch_adapters import engine_with
from tests.modelstack.inference.torch_engines import prompt_of, request
from tests.modelstack.toolcalls import tool_sets

AnyEngine = TorchEngine | LlamaCppEngine
PROMPTS = [prompt_of(n, length) for n, length in enumerate([5, 33, 18, 2, 33, 9])]
N_VALID = 60
"""Number of replies of random weights, for each engine of grammars."""
Follow = Callable[[DraftedReply], Sequence[int]]
"""Returns the tokens that a reply will have."""


class SpoiltDrafts(Speculation):
    """Drafts what a reply will have, with wrong tokens in between."""

    def __init__(self, follow: Follow, n_vocab: int, seed: int = 0) -> None:
        super().__init__(LookupDrafter())
        self._follow, self._n_vocab, self._rng = follow, n_vocab, random.Random(seed)
        self.n_drafted = 0

    def draft(self, replies: Sequence[DraftedReply], max_tokens: int) -> list[list[int]]:
        drafts = [self._one(each) for each in replies]
        self.n_drafted += sum(map(len, drafts))
        return drafts

    def _one(self, each: DraftedReply) -> list[int]:
        n_written = len(each.reply.out.ids)
        right = list(self._follow(each))[n_written : n_written + self._rng.randrange(9)]
        return [token if self._rng.random() < 0.9 else self._rng.randrange(self._n_vocab) for token in right]


@pytest.fixture(scope="module", params=["torch", "llama.cpp"])
def make(request: pytest.FixtureRequest, tiny_gguf: Path) -> Callable[..., AnyEngine]:
    def engine(*, rows: int = 8, chunk: int = 64, **options: Any) -> AnyEngine:
        if request.param == "torch":
            sizes: dict[str, Any] = {"max_rows": rows, "max_step_tokens": max(rows, chunk), "block_tokens": 4}
            return TorchEngine.load(tiny_gguf, context_window=512, seed=0, **sizes, **options)
        threads = {"n_threads": 1, "n_threads_prefill": 1}
        sizes = {"max_conversations": rows, "n_batch": chunk, "context_window": 512, "kv_type": "f32"}
        return LlamaCppEngine(tiny_gguf, seed=0, **threads, **sizes, **options)

    return engine


@pytest.fixture(scope="module")
def plain(make: Callable[..., AnyEngine]) -> Iterator[AnyEngine]:
    with make() as engine:
        yield engine


def asked(number: int, temperature: float = 0.0, n_tokens: int = 24, **keys: Any) -> GenerateRequest:
    sampling = SamplingParams(temperature, seed=number)
    return request(PROMPTS[number], n_tokens, conversation=str(number), sampling=sampling, **keys)


def follow_of(replies: dict[tuple[int, ...], list[int]]) -> Follow:
    return lambda each: replies[tuple(each.read_ids)]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("options", [{}, {"rows": 3, "chunk": 16}, {"rows": 1}], ids=str)
def test_replies_are_the_same_with_drafts_that_are_partly_wrong(
    make: Callable[..., AnyEngine], plain: AnyEngine, options: dict[str, int], temperature: float
) -> None:
    numbers = range(len(PROMPTS))
    expected = [plain.generate(asked(n, temperature, n_top_logprobs=3)) for n in numbers]
    with make(**options) as engine:
        known = {tuple(PROMPTS[n]): expected[n].ids for n in numbers}
        drafts = engine._speculation = SpoiltDrafts(follow_of(known), len(engine.vocabulary))
        replies = run(engine, *(engine.submit(asked(n, temperature, n_top_logprobs=3)) for n in numbers))
        assert [reply.ids for reply in replies] == [reply.ids for reply in expected]
        for reply, other in zip(replies, expected, strict=True):
            assert reply.logprobs == pytest.approx(other.logprobs, abs=1e-3)
            best, of_other = ([p for _, p in chain(*each.top_logprobs)] for each in (reply, other))
            assert best == pytest.approx(of_other, abs=1e-3) and len(best) == 3 * len(reply.ids)
        calls = [reply.stats.forward_calls for reply in replies]
        assert sum(calls) < 0.6 * sum(reply.stats.forward_calls for reply in expected)
        assert drafts.n_drafted > sum(calls)
        again = engine.generate(asked(5, temperature))  # from the cache that drafts have left behind
        assert again.ids == expected[5].ids
        assert again.stats.reused_tokens > 0


def test_prompt_lookup_writes_the_same_in_fewer_calls(make: Callable[..., AnyEngine], plain: AnyEngine) -> None:
    prompt = PROMPTS[1] * 3
    expected = plain.generate(request(prompt, 120))
    with make(drafter="lookup") as engine:
        assert engine._speculation is not None
        engine._speculation.costs = NoCosts()
        reply = engine.generate(request(prompt, 120))
        engine.check_integrity()
        assert reply.ids == expected.ids
        assert reply.stats.forward_calls < expected.stats.forward_calls
        assert reply.stats.sampled_tokens == expected.stats.sampled_tokens == 120


def test_an_expected_text_is_drafted_from(make: Callable[..., AnyEngine], plain: AnyEngine) -> None:
    whole = plain.generate(asked(3, n_tokens=60))
    with make(drafter="lookup") as engine:
        assert engine._speculation is not None
        engine._speculation.costs = NoCosts()
        reply = engine.generate(asked(3, n_tokens=60, expected_ids=whole.ids))
        assert reply.ids == whole.ids
        assert reply.stats.forward_calls < 12
        assert reply.stats.accepted_tokens > 0.8 * reply.stats.drafted_tokens
        other = engine.generate(asked(3, n_tokens=60, expected_ids=whole.ids[::-1]))
        assert other.ids == whole.ids


@pytest.mark.parametrize("name", get_args(EngineName))
@pytest.mark.parametrize("convention", ["ours", "hermes", "llama3", "qwen3-coder"])
def test_replies_under_a_grammar_are_the_same_and_valid(
    make: Callable[..., AnyEngine], plain: AnyEngine, name: Any, convention: str
) -> None:
    compiler = GrammarCompiler(plain.vocabulary, name, convention=CONVENTIONS[convention])
    prompt = plain.vocabulary.encode("call a tool")
    drafts = list[int]()
    with make() as engine:
        for number, tools in enumerate(tool_sets.inline()[::8]):
            compiled = compiler.compile(ResponseFormat(tools=tools, answer="text" if number % 2 else None))

            def asked_again(number: int = number, compiled: Any = compiled) -> GenerateRequest:
                grammar, sampling = compiled.start(), SamplingParams(1.0, seed=number)
                n_tokens = max(160, grammar.closing_reserve)
                return GenerateRequest(prompt, n_tokens, grammar=grammar, sampling=sampling, n_top_logprobs=1)

            expected = plain.generate(asked_again())
            follow = {tuple(prompt): expected.ids}
            spoilt = engine._speculation = SpoiltDrafts(follow_of(follow), len(engine.vocabulary), seed=number)
            reply = engine.generate(asked_again())
            assert (reply.ids, reply.forced) == (expected.ids, expected.forced)
            assert [not best for best in reply.top_logprobs] == reply.forced
            assert compiled.violations(compiled.parse(engine.vocabulary.decode(reply.ids))) == []
            drafts.append(spoilt.n_drafted)
            engine._speculation = Speculation(LookupDrafter())  # which proves its guesses by the grammar itself
            assert engine.generate(asked_again()).ids == expected.ids
            engine.check_integrity()
    assert sum(drafts) > 50


@pytest.mark.parametrize("name", get_args(EngineName))
def test_random_weights_with_drafts_write_only_valid_replies(tiny_gguf: Path, name: Any) -> None:
    """Each prompt holds the reply before, of the same tools, so that there is something to draft."""
    n_accepted = 0
    with LlamaCppEngine(tiny_gguf, n_threads=1, n_threads_prefill=1, seed=0) as engine:
        engine._speculation = always_drafting()
        compiler = GrammarCompiler(engine.vocabulary, name)
        sets = tool_sets.inline()
        before: dict[int, list[int]] = {}
        for seed in range(N_VALID):
            number = seed % len(sets)
            compiled = compiler.compile(ResponseFormat(tools=sets[number], answer=None if seed % 4 else "text"))
            prompt = [*engine.vocabulary.encode("call a tool"), *before.get(number, [])]
            grammar, sampling = compiled.start(), SamplingParams(1.0, seed=seed)
            reply = engine.generate(GenerateRequest(prompt, 160, grammar=grammar, sampling=sampling))
            text = engine.vocabulary.decode(reply.ids)
            if reply.finish_reason == "end":
                assert compiled.violations(compiled.parse(text)) == [], text
            else:
                assert compiled.format.answer == "text" and not text.startswith("["), text
            before[number] = reply.ids
            n_accepted += reply.stats.accepted_tokens
    assert n_accepted > N_VALID


def test_a_reply_that_ends_inside_its_draft_drops_the_rest(
    make: Callable[..., AnyEngine], plain: AnyEngine
) -> None:
    whole = plain.generate(asked(2)).ids
    end = whole[5]
    with make() as engine:
        known = {tuple(PROMPTS[2]): whole}
        engine._speculation = SpoiltDrafts(follow_of(known), 1)
        ended = engine.generate(asked(2, end_ids=frozenset({end})))
        assert (ended.ids, ended.finish_reason) == (whole[: whole.index(end)], "end")
        short = engine.generate(asked(2, n_tokens=7))
        assert (short.ids, short.finish_reason) == (whole[:7], "length")
        engine.check_integrity()

        told = list[int]()

        def stop(block: list[int]) -> None:
            told.extend(block)
            if len(told) == 9:
                raise ConnectionError("the client left")

        with pytest.raises(ConnectionError):
            engine.generate(asked(2), on_tokens=stop)
        assert told == whole[:9]
        engine.check_integrity()
        assert engine.generate(asked(2)).ids == whole


def test_an_unknown_drafter_is_refused(make: Callable[..., AnyEngine]) -> None:
    with pytest.raises(EngineError, match="drafter 'oracle' is not known; known are lookup, mtp"):
        make(drafter="oracle")


def always_drafting() -> Speculation:
    speculation = Speculation(LookupDrafter())
    speculation.costs = NoCosts()
    return speculation


def markov_logits(tokens: list[int]) -> NDArray[np.float32]:
    """Logits after the last token: five tokens with unequal probabilities."""
    rng = np.random.default_rng(tokens[-1])
    logits_V = np.full(N_VOCAB, -30, dtype=np.float32)
    logits_V[5:10] = rng.normal(size=5)
    return logits_V


def test_sampled_tokens_and_pairs_have_the_model_s_probabilities() -> None:
    engine = FakeEngine(FakeContext(markov_logits, n_cells=20_000))
    engine._speculation = always_drafting()
    sampling = SamplingParams(1.0, seed=1)
    reply = engine.generate(GenerateRequest([5, 6, 7, 8, 9] * 4, 4000, sampling=sampling, end_ids=frozenset()))
    assert reply.stats.forward_calls < 3000
    pairs = Counter(zip(reply.ids, reply.ids[1:], strict=False))
    for first in range(5, 10):
        seen = np.array([pairs[first, second] for second in range(5, 10)])
        weights = np.exp(markov_logits([first])[5:10].astype(np.float64))
        assert scipy.stats.chisquare(seen, seen.sum() * weights / weights.sum()).pvalue > 1e-3


def test_replies_under_a_grammar_have_the_masked_probabilities() -> None:
    """Brackets: at each place the probability of a token is its share among the legal ones."""
    shapes: dict[bool, Counter[tuple[int, ...]]] = {}
    for number, drafts in enumerate((False, True)):
        engine = FakeEngine(FakeContext(lambda tokens: np.zeros(N_VOCAB, np.float32)))
        engine._speculation = always_drafting() if drafts else None
        found = shapes[drafts] = Counter()
        for seed in range(800):
            sampling = SamplingParams(1.0, seed=number * 10_000 + seed)
            prompt, grammar = [1, 3, 3, 2, 1, 3, 2, 1, 1, 2, 2], BracketGrammar()
            reply = engine.generate(GenerateRequest(prompt, 24, grammar=grammar, sampling=sampling))
            found[tuple(reply.ids[:4])] += 1
            engine.forget_all()
    common = [shape for shape, n in (shapes[False] + shapes[True]).items() if n >= 20]
    table = [[each[shape] for shape in common] for each in shapes.values()]
    result: Any = scipy.stats.chi2_contingency(table)
    assert result.pvalue > 1e-3


def test_a_cache_that_cannot_drop_a_part_is_given_no_more_drafts() -> None:
    prompt = [5, 6, 7] * 6
    expected = FakeEngine(FakeContext()).generate(request(prompt, 30)).ids
    context = FakeContext()
    engine = FakeEngine(context)
    engine._speculation = SpoiltDrafts(lambda each: expected, N_VOCAB)
    context.drops_parts = False
    assert engine.generate(request(prompt, 30)).ids == expected
    engine.check_integrity()
    assert engine.queue.max_step_tokens == 0
    assert [len(ids) for call in context.calls[-8:] for ids in call] == [1] * 8


def test_drafts_are_given_up_before_any_request_is_sent_back() -> None:
    prompts = [[5, 6, 7, 8], [9, 10, 11, 12]]
    expected = [FakeEngine(FakeContext()).generate(request(prompt, 12)).ids for prompt in prompts]
    known = dict(zip(map(tuple, prompts), expected, strict=True))
    engine = FakeEngine(FakeContext(n_cells=30))
    engine._speculation = SpoiltDrafts(follow_of(known), N_VOCAB)
    submissions = [engine.submit(request(prompt, 12, conversation=str(prompt))) for prompt in prompts]
    assert [reply.ids for reply in run(engine, *submissions)] == expected
    assert [each.stream.n_preempted for each in submissions if each.stream] == [0, 0]


def test_forced_tokens_follow_a_draft_that_the_grammar_cuts() -> None:
    steps = [[20, 21], [22, 23], [24], [25], [26, 27], [28]]
    replies = FakeEngine(FakeContext())._replies
    reply = replies.make(GenerateRequest([1], 20, grammar=ScriptedGrammar(steps)), 20)
    assert reply.legal_beginning([20, 22, 24, 25, 27]) == [20, 22, 24, 25, 27]
    assert reply.legal_beginning([20, 22, 30, 30, 30]) == [20, 22, 24, 25]
    assert reply.legal_beginning([20, 22, 30]) == [20, 22, 24]
    assert reply.legal_beginning([30, 22]) == []
    assert reply.legal_beginning([20, END, 24]) == [20]
    assert reply.advance() and reply.out.ids == [], "nothing has changed"
    short = replies.make(GenerateRequest([1], 3), 3)
    assert short.legal_beginning([20, 21, 22]) == [20, 21]


def test_hashed_logits_are_followed_by_no_draft_of_a_text_without_repetition() -> None:
    engine = FakeEngine(FakeContext(hashed_logits), drafter="lookup")
    reply = engine.generate(request(list(range(5, 30)), 10))
    assert reply.ids == FakeEngine(FakeContext(hashed_logits)).generate(request(list(range(5, 30)), 10)).ids


def test_replies_of_several_adapters_in_a_batch_are_the_same() -> None:
    names = (None, "calls", "sums", None)
    known: dict[str, list[int]] = {}

    def asked(number: int) -> GenerateRequest:
        return request(PROMPTS[1][number:] * 2, 24, conversation=str(number), adapter=names[number])

    with engine_with("llama", "calls", "sums") as engine:
        for number in range(len(names)):
            known[str(number)] = engine.generate(asked(number)).ids
    assert known["0"] != known["1"]
    with engine_with("llama", "calls", "sums") as engine:
        numbers = {tuple(asked(number).prompt_ids): str(number) for number in range(len(names))}
        spoilt = SpoiltDrafts(lambda each: known[numbers[tuple(each.read_ids)]], len(engine.vocabulary))
        engine._speculation = spoilt
        replies = run(engine, *(engine.submit(asked(number)) for number in range(len(names))))
        assert [reply.ids for reply in replies] == [*known.values()]
        assert spoilt.n_drafted > 30
