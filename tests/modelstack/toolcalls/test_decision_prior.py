"""A prior in the decode loop, over real grammars and a model of random logits."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import pytest
import vocabularies
from driving import ENGINES, compiler
from numpy.typing import NDArray

from modelstack.inference.engine import ChoiceBias, Generation, SamplingParams
from modelstack.inference.legal_tokens import LegalTokens
from modelstack.inference.reply import Reply, ReplyParts
from modelstack.inference.sampling import Sampler
from modelstack.tokenizer.vocabulary import Vocabulary
from modelstack.toolcalls import NO_TOOL, ResponseFormat, ToolChoice, ToolSpec, tool_choices
from modelstack.toolcalls.grammar.coverage import EngineName
from modelstack.toolcalls.prior.choice import ToolBias
from modelstack.toolcalls.prior.lexical import DecisionPrior, lexical_scores
from tests.modelstack.inference.fakes import write_alone

NOTHING = {"type": "object", "properties": {}}
APART = tuple(ToolSpec(name, "", NOTHING) for name in ("alarm", "mail", "weather_report"))
SHARING = tuple(ToolSpec(name, "", NOTHING) for name in ("get", "get_mail", "get_weather", "set_alarm"))
REQUEST = "What does the weather report say of the mail?"
PRIOR = DecisionPrior(lexical_weight=5.0, abstain_bias=1.5)
GREEDY = SamplingParams()
PROMPT = [1, 2, 3]


@lru_cache
def vocabulary() -> Vocabulary:
    """Return the small one with tokens in which an abstention and a call part at once."""
    small = vocabularies.small()
    tokens = (*small.token_bytes, b"[]", b'[{"name":"')
    return Vocabulary(tokens, small.special_ids, small.end_ids, small.encode)


class RandomModel:
    """Logits that depend on the tokens so far; `raised` adds to some of them."""

    def __init__(self, seed: int, raised: dict[bytes, float] | None = None) -> None:
        self.seed = seed
        self.raised = raised or {}

    def __call__(self, tokens: list[int]) -> NDArray[np.float32]:
        state = self.seed
        for token in tokens:
            state = (state * 31 + token + 1) % 2**32
        logits = np.random.default_rng(state).normal(scale=2, size=len(vocabulary())).astype(np.float32)
        for token, more in self.raised.items():
            logits[vocabulary().token_bytes.index(token)] += np.float32(more)
        return logits


def run(
    model: RandomModel,
    format_: ResponseFormat,
    bias: ChoiceBias | None,
    *,
    engine: EngineName = "llguidance",
    params: SamplingParams = GREEDY,
    jump_ahead: bool = True,
    max_tokens: int = 80,
) -> Generation:
    words = vocabulary()
    parts = ReplyParts(
        sampler=Sampler(len(words), params, np.random.default_rng(params.seed)),
        text_tokens=LegalTokens.all_except(words.special_ids, len(words)),
        end_ids=frozenset(words.end_ids),
        n_vocab=len(words),
        grammar=compiler(engine, vocabulary=words).compile(format_).start(),
        jump_ahead=jump_ahead,
        choice_bias=bias,
    )
    return write_alone(PROMPT, Reply(max_tokens, parts), model)


def bias_of(format_: ResponseFormat, prior: DecisionPrior = PRIOR) -> ToolBias:
    return ToolBias(prior, REQUEST, format_, vocabulary())


def first_choice(generation: Generation, format_: ResponseFormat) -> dict[tuple[str, ...], float]:
    choice: ToolChoice = tool_choices(generation, vocabulary(), format_)[0]
    return {(choice.name,): choice.probability, **choice.alternatives}


def weights(format_: ResponseFormat) -> dict[str, float]:
    scores = lexical_scores(REQUEST, format_.tools)
    factors = {name: math.exp(PRIOR.lexical_weight * score) for name, score in scores.items()}
    return factors | {NO_TOOL: math.exp(PRIOR.abstain_bias)}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("seed", range(5))
def test_each_tool_has_its_probability_times_exp_of_its_bias(engine: EngineName, seed: int) -> None:
    format_ = ResponseFormat(APART, answer=None)
    model = RandomModel(seed)
    before = first_choice(run(model, format_, None, engine=engine), format_)
    after = first_choice(run(model, format_, bias_of(format_), engine=engine), format_)
    assert before.keys() == after.keys() == {(tool.name,) for tool in APART}
    factors = weights(format_)
    total = sum(p * factors[name] for (name,), p in before.items())
    assert after == pytest.approx({(name,): p * factors[name] / total for (name,), p in before.items()}, rel=1e-4)
    assert max(after.values()) - max(before.values()) != pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_the_odds_of_abstaining_move_by_its_bias_and_the_best_score(seed: int) -> None:
    format_ = ResponseFormat(APART, answer=None, abstain=True)
    model = RandomModel(seed, {b"[]": 20, b'[{"name":"': 20})
    odds: list[float] = []
    for bias in (None, bias_of(format_)):
        choice = tool_choices(run(model, format_, bias), vocabulary(), format_)[0]
        odds.append((1 - choice.p_call) / choice.p_call)
    best = max(lexical_scores(REQUEST, APART).values())
    moved = math.exp(PRIOR.abstain_bias - PRIOR.lexical_weight * best)
    assert odds[1] == pytest.approx(odds[0] * moved, rel=1e-2)


@pytest.mark.parametrize("seed", range(5))
def test_names_with_a_common_beginning_stand_at_the_best_of_them_until_they_part(seed: int) -> None:
    format_ = ResponseFormat(SHARING, answer=None, parallel=False)
    words, model = vocabulary(), RandomModel(seed)
    generation = run(model, format_, bias_of(format_))
    scores = lexical_scores(REQUEST, SHARING)
    written = b""
    for step, token in enumerate(generation.ids):
        point = next((point for point in generation.choices if point.step == step), None)
        if point is not None and len(point.token_ids) > 1 and written.endswith((b'"name":"', b'"name":"get')):
            logits = model([*PROMPT, *generation.ids[:step]])
            name = written.rpartition(b'"')[2]
            expected = []
            for other in point.token_ids.tolist():
                beginning = (name + words.token_bytes[other]).decode()
                reached = [n for n in scores if f'{n}"'.startswith(beginning) or beginning.startswith(f'{n}"')]
                best = max(scores[n] for n in reached)
                expected.append(float(logits[other]) + PRIOR.lexical_weight * best)
            share = np.exp(np.array(expected) - max(expected))
            np.testing.assert_allclose(point.probabilities, share / share.sum(), rtol=1e-3, atol=1e-6)
        written += words.token_bytes[token]
    assert sum(first_choice(generation, format_).values()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("params", [GREEDY, SamplingParams(temperature=1.0, seed=5)])
@pytest.mark.parametrize("seed", range(3))
def test_jump_ahead_does_not_change_the_reply(engine: EngineName, params: SamplingParams, seed: int) -> None:
    format_ = ResponseFormat(SHARING, answer=None, abstain=True)
    model = RandomModel(seed)
    with_it, without = (
        run(model, format_, bias_of(format_), engine=engine, params=params, jump_ahead=jump_ahead)
        for jump_ahead in (True, False)
    )
    if params.temperature == 0:  # sampling draws a number for each token that is not jumped over
        assert with_it.ids == without.ids
    for generation in (with_it, without):
        assert sum(first_choice(generation, format_).values()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("params", [GREEDY, SamplingParams(temperature=0.8, top_p=0.9, seed=3)])
@pytest.mark.parametrize("abstain", [True, False])
def test_a_prior_of_zeros_changes_nothing_bit_for_bit(params: SamplingParams, abstain: bool) -> None:
    format_ = ResponseFormat(SHARING, abstain=abstain)
    nothing = DecisionPrior(lexical_weight=0.0, abstain_bias=0.0)
    for seed in range(4):
        model = RandomModel(seed, {b'[{"name":"': 15, b"[]": 14})
        without, with_it = (run(model, format_, bias, params=params) for bias in (None, bias_of(format_, nothing)))
        assert with_it.ids == without.ids
        for mine, theirs in (
            (with_it.logprobs, without.logprobs),
            (with_it.masked_logprobs, without.masked_logprobs),
        ):
            assert np.array(mine).tobytes() == np.array(theirs).tobytes()
        for mine, theirs in zip(with_it.choices, without.choices, strict=True):
            assert mine.probabilities.tobytes() == theirs.probabilities.tobytes()


@pytest.mark.parametrize("params", [GREEDY, SamplingParams(temperature=1.0, seed=1)])
def test_log_probabilities_stay_the_models_own(params: SamplingParams) -> None:
    format_ = ResponseFormat(SHARING, answer=None, abstain=True)
    model = RandomModel(4)
    generation = run(model, format_, bias_of(format_), params=params)
    for point in generation.choices:
        logits = model([*PROMPT, *generation.ids[: point.step]]).astype(np.float64)
        token = generation.ids[point.step]
        legal = logits[point.token_ids]
        assert generation.logprobs[point.step] == pytest.approx(
            logits[token] - np.logaddexp.reduce(logits), abs=1e-4
        )
        assert generation.masked_logprobs[point.step] == pytest.approx(
            logits[token] - np.logaddexp.reduce(legal), abs=1e-4
        )


def test_a_strong_prior_makes_a_greedy_reply_call_the_tool_that_the_words_name() -> None:
    format_ = ResponseFormat(SHARING, answer=None, abstain=True)
    strong = DecisionPrior(lexical_weight=90.0, abstain_bias=-90.0)
    never = DecisionPrior(lexical_weight=0.0, abstain_bias=90.0)
    for seed in range(6):
        model = RandomModel(seed)
        (name, *_) = [
            c.name for c in tool_choices(run(model, format_, bias_of(format_, strong)), vocabulary(), format_)
        ]
        assert name in ("get_weather", "get_mail")
        assert run(model, format_, bias_of(format_, never)).ids in (
            [vocabulary().token_bytes.index(b"[]")],
            vocabulary().encode("[]"),
        )


@pytest.mark.parametrize("seed", range(4))
def test_a_reply_ends_complete_within_its_budget_under_a_prior(seed: int) -> None:
    format_ = ResponseFormat(SHARING, answer=None, abstain=True)
    compiled = compiler("llguidance", vocabulary=vocabulary()).compile(format_)
    for max_tokens in (12, 30, 60):
        generation = run(RandomModel(seed), format_, bias_of(format_), max_tokens=max_tokens)
        if generation.finish_reason == "end":
            compiled.parse(vocabulary().decode(generation.ids))
    assert generation.finish_reason == "end"
