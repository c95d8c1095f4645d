"""Replies of an engine over a fake cache: what is emitted, what is evaluated, when it stops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from modelstack.inference.engine import ChoiceBias, EngineError, GenerateRequest, Generation, SamplingParams
from modelstack.inference.grammar import Grammar
from modelstack.inference.llama.batch import MAX_REPLY_BATCH
from tests.modelstack.inference.fakes import (
    END,
    N_VOCAB,
    BracketGrammar,
    FakeContext,
    FakeEngine,
    ScriptedGrammar,
    hashed_logits,
)

GREEDY = SamplingParams()
PROMPT = [5, 6, 7, 8, 9, 10, 11]


def run(
    context: FakeContext,
    *,
    grammar: Grammar | None = None,
    max_tokens: int = 8,
    params: SamplingParams = GREEDY,
    n_batch: int = 3,
    jump_ahead: bool = True,
    cancelled=None,
    on_tokens=None,
    choice_bias: ChoiceBias | None = None,
) -> Generation:
    request = GenerateRequest(
        PROMPT, max_tokens, grammar=grammar, sampling=params, jump_ahead=jump_ahead, choice_bias=choice_bias
    )
    return FakeEngine(context, n_batch=n_batch).generate(request, on_tokens=on_tokens, cancelled=cancelled)


def calls_of(context: FakeContext) -> list[list[int]]:
    """Return the tokens of each call, which had one part."""
    return [ids for (ids,) in context.calls]


def test_the_prompt_is_evaluated_in_batches_and_the_last_token_of_a_reply_not_at_all() -> None:
    context = FakeContext()
    generation = run(context, max_tokens=4)
    assert calls_of(context)[:3] == [[5, 6, 7], [8, 9, 10], [11]]
    assert context.tokens() == PROMPT + generation.ids[:-1]
    assert generation.finish_reason == "length"
    stats = generation.stats
    assert (stats.prefilled_tokens, stats.sampled_tokens, stats.forward_calls) == (7, 4, 3)


def test_greedy_takes_the_most_probable_token_that_is_not_special() -> None:
    generation = run(FakeContext())
    context = list(PROMPT)
    for token in generation.ids:
        logits = hashed_logits(context)
        logits[4] = -math.inf
        assert token == int(logits.argmax())
        context.append(token)


def test_an_end_token_stops_and_is_neither_emitted_nor_evaluated() -> None:
    def logits(tokens: list[int]) -> np.ndarray:
        wanted = END if len(tokens) == len(PROMPT) + 2 else 12
        return np.where(np.arange(N_VOCAB) == wanted, 9, 0).astype(np.float32)

    context = FakeContext(logits)
    generation = run(context)
    assert generation.ids == [12, 12]
    assert generation.finish_reason == "end"
    assert context.tokens() == [*PROMPT, 12, 12]


def test_the_mass_of_tokens_that_stand_for_another_is_that_tokens_and_its_log_probability_stays_its_own() -> None:
    def logits(tokens: list[int]) -> np.ndarray:
        found = np.full(N_VOCAB, -30, dtype=np.float32)
        found[[20, 21, 30, 31]] = [1.0, 3.0, 4.0, 2.0]  # 30 and 31 are not legal
        return found

    def grammar(stand_in: tuple[list[int], int] | None) -> ScriptedGrammar:
        return ScriptedGrammar([[20, 21], [22]], choosing=(0,), stand_in=stand_in)

    assert run(FakeContext(logits), grammar=grammar(None)).ids == [21, 22]
    generation = run(FakeContext(logits), grammar=grammar(([30, 31], 20)))
    assert generation.ids == [20, 22]
    (choice,) = generation.choices
    total = math.exp(1) + math.exp(4) + math.exp(2)
    assert choice.probabilities[0] == pytest.approx(total / (total + math.exp(3)), rel=1e-5)
    assert generation.logprobs[0] == pytest.approx(1 - math.log(total + math.exp(3)), rel=1e-5)


def test_a_sampled_token_and_the_forced_block_behind_it_are_evaluated_in_one_call() -> None:
    grammar = ScriptedGrammar([[20, 21], [22], [23], [24], [25, 26], [27]])
    context = FakeContext()
    blocks: list[list[int]] = []
    generation = run(context, grammar=grammar, n_batch=16, on_tokens=blocks.append)
    first, second = generation.ids[0], generation.ids[4]
    assert generation.ids == [first, 22, 23, 24, second, 27]
    assert generation.forced == [False, True, True, True, False, True]
    assert calls_of(context) == [PROMPT, [first, 22, 23, 24]]
    assert blocks == [[first], [22, 23, 24], [second], [27]]
    assert generation.finish_reason == "end"
    assert (generation.stats.forced_tokens, generation.stats.sampled_tokens) == (4, 2)
    assert [math.isnan(x) for x in generation.logprobs] == generation.forced
    assert generation.legal_counts == [2, 1, 1, 1, 2, 1]
    assert generation.masked_logprobs[1] == 0 > generation.masked_logprobs[0]


def test_a_block_forced_at_the_start_is_told_before_the_prompt_is_evaluated() -> None:
    context = FakeContext()
    calls_at_first_token: list[int] = []
    generation = run(
        context,
        grammar=ScriptedGrammar([[20], [21], [22, 23]]),
        n_batch=16,
        on_tokens=lambda _: calls_at_first_token.append(len(context.calls)),
    )
    assert calls_at_first_token == [0, 2]
    assert calls_of(context) == [PROMPT, [20, 21]]
    assert generation.stats.prefilled_tokens == len(PROMPT)
    assert generation.stats.forward_calls == 1


def test_a_long_forced_block_is_cut_where_the_kernels_would_change() -> None:
    context = FakeContext()
    block = [20 + i % 5 for i in range(MAX_REPLY_BATCH + 3)]
    run(context, grammar=ScriptedGrammar([*([token] for token in block), [22, 23]]), n_batch=512, max_tokens=100)
    assert calls_of(context) == [PROMPT, block[:MAX_REPLY_BATCH], block[MAX_REPLY_BATCH:]]


def test_without_jump_ahead_forced_tokens_are_sampled_one_by_one() -> None:
    grammar = ScriptedGrammar([[20, 21], [22], [23]])
    context = FakeContext()
    generation = run(context, grammar=grammar, jump_ahead=False)
    assert generation.ids[1:] == [22, 23]
    assert generation.forced == [False, False, False]
    assert generation.stats.forward_calls == 2


def test_a_forced_block_is_cut_at_the_budget() -> None:
    generation = run(FakeContext(), grammar=ScriptedGrammar([[20], [21], [22], [23]]), max_tokens=3)
    assert generation.ids == [20, 21, 22]
    assert generation.finish_reason == "length"


@pytest.mark.parametrize("at", range(12))
def test_cancelling_at_any_question_stops_there_and_keeps_lists_parallel(at: int) -> None:
    questions = itertools.count()
    context = FakeContext()
    grammar = ScriptedGrammar([[20, 21], [22], [23], [24, 25], [26, 27], [28]] * 3)
    generation = run(context, grammar=grammar, max_tokens=40, cancelled=lambda: next(questions) >= at)
    assert generation.finish_reason == "cancelled"
    n = len(generation.ids)
    assert len(generation.forced) == len(generation.logprobs) == len(generation.masked_logprobs) == n
    assert grammar.position == n
    everything = PROMPT + generation.ids
    assert context.tokens() == everything[: len(context.tokens())]
    assert generation.stats.prefilled_tokens == min(len(context.tokens()), len(PROMPT))
    assert next(questions) == at + 1, "it asked again after a yes"


@pytest.mark.parametrize("max_tokens", range(2, 14))
@pytest.mark.parametrize("seed", range(5))
def test_closing_mode_ends_every_reply_complete_within_the_budget(max_tokens: int, seed: int) -> None:
    grammar = BracketGrammar()
    params = SamplingParams(temperature=3.0, seed=seed)
    generation = run(FakeContext(), grammar=grammar, max_tokens=max_tokens, params=params)
    assert generation.finish_reason == "end"
    assert grammar.finished
    assert generation.ids == grammar.history
    assert len(generation.ids) <= max_tokens


def test_a_reply_that_is_closed_early_says_so_and_one_that_ends_by_itself_does_not() -> None:
    def greedy(max_tokens: int) -> Generation:
        return run(FakeContext(), grammar=BracketGrammar(), max_tokens=max_tokens, params=SamplingParams())

    free = greedy(300)
    assert not free.closed_early, "the fake model must end by itself for this to say anything"
    for max_tokens in range(2, len(free.ids) + 3):
        generation = greedy(max_tokens)
        assert generation.closed_early == (generation.ids != free.ids)


def test_choice_points_hold_the_masked_softmax() -> None:
    grammar = ScriptedGrammar([[20], [21, 22, 35], [23, 24]], choosing=[1])
    context = FakeContext()
    (choice,) = run(context, grammar=grammar).choices
    logits = hashed_logits([*PROMPT, 20])[[21, 22, 35]].astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum()
    assert choice.step == 1
    assert choice.token_ids.tolist() == [21, 22, 35]
    np.testing.assert_allclose(choice.probabilities, expected, rtol=1e-5)


def test_a_bias_is_asked_where_a_tool_is_chosen_and_moves_the_choice_but_no_log_probability() -> None:
    steps = [[20], [21, 22, 35], [23, 24], [25]]
    asked: list[tuple[list[int], list[int]]] = []

    def against_the_best(written, token_ids):
        asked.append((list(written), token_ids.tolist()))
        return np.where(token_ids == best, np.float32(-50), np.float32(0)).astype(np.float32)

    plain = run(FakeContext(), grammar=ScriptedGrammar(steps, choosing=[0, 1, 3]))
    best = plain.ids[1]
    moved = run(FakeContext(), grammar=ScriptedGrammar(steps, choosing=[0, 1, 3]), choice_bias=against_the_best)
    assert asked == [([20], [21, 22, 35])]
    logits = hashed_logits([*PROMPT, 20]).astype(np.float64)
    second = max((token for token in (21, 22, 35) if token != best), key=lambda token: logits[token])
    assert moved.ids[1] == second != best
    assert moved.logprobs[1] == pytest.approx(logits[second] - np.logaddexp.reduce(logits), abs=1e-5)
    assert moved.masked_logprobs[1] == pytest.approx(
        logits[second] - np.logaddexp.reduce(logits[[21, 22, 35]]), abs=1e-5
    )
    (choice,) = moved.choices
    assert choice.probabilities[choice.token_ids == best] == pytest.approx(0, abs=1e-15)


def test_a_dead_end_of_the_grammar_is_an_error_that_says_so() -> None:
    with pytest.raises(EngineError, match="dead end"):
        run(FakeContext(), grammar=ScriptedGrammar([[], [1]]))


def test_an_exception_of_the_callback_leaves_the_book_of_evaluated_tokens_exact() -> None:
    context = FakeContext()

    def fail(_: list[int]) -> None:
        raise RuntimeError("listener went away")

    with pytest.raises(RuntimeError, match="listener"):
        run(context, on_tokens=fail)
    assert context.tokens() == PROMPT
