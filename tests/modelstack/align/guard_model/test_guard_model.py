"""Verdicts of a guard model, with random weights: always in the form of the grammar, whatever the weights."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("llama_cpp", reason="needs llama-cpp-python (extra `local`)")

from modelstack.align.guard_model.guard import WINDOW_CHARACTERS, GuardModel, windows
from modelstack.align.guard_model.policy import MLCOMMONS, Policy
from modelstack.align.guard_model.prompt import INSTRUCTIONS_FIRST, LLAMA_GUARD, GuardFormat, GuardTurn
from modelstack.align.guard_model.shipped import (
    OperatingPoints,
    WithClassifier,
    log_odds,
    read_points,
    shipped_guard,
)
from modelstack.align.guard_model.tokens import PromptTokens
from modelstack.align.guard_model.verdict_grammar import VerdictGrammar, VerdictTree
from modelstack.errors import UserError
from modelstack.inference.grammar import GrammarError
from modelstack.inference.llama.engine import LlamaCppEngine
from modelstack.tokenizer.chat_template import chat_encoder

POLICY = MLCOMMONS.of(["S1", "S2", "S10"])


@pytest.fixture(scope="module")
def engine(tiny_gguf: Path) -> Iterator[LlamaCppEngine]:
    with LlamaCppEngine(tiny_gguf, n_threads=1, n_threads_prefill=1, context_window=1024) as made:
        yield made


@pytest.fixture(scope="module", params=[INSTRUCTIONS_FIRST, LLAMA_GUARD], ids=["ours", "Llama Guard"])
def guard_format(request: pytest.FixtureRequest) -> GuardFormat:
    return request.param


def test_a_verdict_is_a_probability_with_categories_of_the_policy(
    engine: LlamaCppEngine, guard_format: GuardFormat
) -> None:
    guard = GuardModel(engine, POLICY, guard_format, POLICY)
    for text in ("How do I bake bread?", "a", "你好"):
        for role in ("user", "assistant"):
            verdict = guard.judge([GuardTurn("user", "Hello"), GuardTurn(role, text)])
            assert verdict is not None and 0 < verdict.probability < 1
            assert set(verdict.categories) <= set(POLICY.codes)
            assert bool(verdict.categories) <= (verdict.probability > 0.5)


def test_the_policy_is_read_once(engine: LlamaCppEngine) -> None:
    guard = GuardModel(engine, POLICY, trained_on=POLICY)
    guard.judge([GuardTurn("user", "Hello")])
    tokens = PromptTokens(chat_encoder(engine), INSTRUCTIONS_FIRST)
    prefix = tokens.prefix(POLICY)
    for turns in ([GuardTurn("user", "How?")], [GuardTurn("assistant", "So.")]):
        assert tokens.prompt(POLICY, turns) == prefix + tokens.conversation(POLICY, turns)
    assert engine.cached_tokens["guard"] >= len(prefix)


def test_the_probability_is_the_models_own_between_the_two_verdicts(engine: LlamaCppEngine) -> None:
    guard, turns = GuardModel(engine, POLICY, trained_on=POLICY), [GuardTurn("user", "What is this?")]
    verdict = guard.judge(turns)
    tree = VerdictTree(engine.vocabulary, POLICY, INSTRUCTIONS_FIRST)
    prompt = PromptTokens(chat_encoder(engine), INSTRUCTIONS_FIRST).prompt(POLICY, turns)
    logprobs = [
        engine.score_tokens([*prompt, token], len(prompt), conversation="x").logprobs[0]
        for token in (tree.safe_id, tree.unsafe_id)
    ]
    assert verdict is not None
    np.testing.assert_allclose(log_odds(verdict.probability), logprobs[1] - logprobs[0], atol=1e-3)


def test_a_category_that_the_policy_leaves_out_is_subtracted(engine: LlamaCppEngine) -> None:
    turns = [GuardTurn("user", "What is this?")]
    (whole,) = judged(engine, turns, POLICY)
    alone, others = judged(engine, turns, POLICY.of(["S1"]), POLICY.of(["S10", "S2"]))
    np.testing.assert_allclose(alone + others, whole, rtol=1e-5)
    prompt = PromptTokens(chat_encoder(engine), INSTRUCTIONS_FIRST)
    ids = prompt.prompt(POLICY, turns)
    odds = [
        sum(engine.score_tokens([*ids, *prompt.answer([code], unsafe=True)], len(ids)).logprobs)
        for code in POLICY.codes
    ]
    share = np.exp(odds[0]) / np.exp(odds).sum()
    np.testing.assert_allclose(alone, whole * share, rtol=1e-3)


def judged(engine: LlamaCppEngine, turns: list[GuardTurn], *policies: Policy) -> list[float]:
    """Return P(unsafe) under each policy, of a guard that was trained on `POLICY`."""
    verdicts = [GuardModel(engine, policy, trained_on=POLICY).judge(turns) for policy in policies]
    return [verdict.probability for verdict in verdicts if verdict is not None]


def test_the_least_safe_window_of_a_long_message_counts(engine: LlamaCppEngine) -> None:
    guard = GuardModel(engine, POLICY, trained_on=POLICY)
    text = "The quick brown fox jumps over the lazy dog. " * 60
    pieces = list(windows(text))
    found = [guard.judge([GuardTurn("user", piece)]) for piece in pieces]
    whole = guard.judge([GuardTurn("user", text)])
    assert len(pieces) > 1 and whole is not None
    assert whole.probability == max(each.probability for each in found if each is not None)


@pytest.mark.parametrize("n", [0, 1, WINDOW_CHARACTERS, WINDOW_CHARACTERS + 1, 3 * WINDOW_CHARACTERS, 9_999])
def test_windows_cover_a_text(n: int) -> None:
    text = "".join(random.Random(n).choices("abcdefgh ", k=n))
    pieces = list(windows(text))
    assert all(len(piece) <= WINDOW_CHARACTERS for piece in pieces)
    covered = pieces[0]
    for piece in pieces[1:]:
        overlap = next(k for k in range(len(piece), -1, -1) if covered.endswith(piece[:k]))
        covered += piece[overlap:]
    assert covered == text


def test_a_guard_that_is_cancelled_gives_no_verdict(engine: LlamaCppEngine) -> None:
    assert (
        GuardModel(engine, POLICY, trained_on=POLICY).judge([GuardTurn("user", "Hello")], cancelled=lambda: True)
        is None
    )


def test_random_walks_of_the_grammar_end_in_legal_answers(engine: LlamaCppEngine) -> None:
    tree = VerdictTree(engine.vocabulary, POLICY, INSTRUCTIONS_FIRST)
    legal = {"safe"} | {
        "unsafe\n" + ",".join(codes)
        for codes in (["S1"], ["S2"], ["S10"], ["S1", "S2"], ["S1", "S10"], ["S2", "S10"], ["S1", "S2", "S10"])
    }
    draw, seen = random.Random(0), set[str]()
    ends = set(engine.vocabulary.end_ids)
    for _ in range(300):
        grammar, ids = VerdictGrammar(tree), list[int]()
        while not grammar.finished:
            bits = np.unpackbits(grammar.mask().view(np.uint8), bitorder="little").nonzero()[0].tolist()
            if forced := grammar.forced():
                assert bits == forced[:1] and grammar.n_legal(forced) == len(forced)
            token = draw.choice(bits)
            if token in ends:
                assert grammar.accepting
                break
            grammar.advance(token)
            ids.append(token)
            if draw.random() < 0.2:
                grammar.rollback(1)
                grammar.advance(token)
            assert grammar.closing().any() and grammar.closing_reserve >= 0
        seen.add(engine.vocabulary.decode(ids))
    assert seen == legal
    with pytest.raises(GrammarError, match="does not continue"):
        VerdictGrammar(tree).advance(next(iter(ends)))


def test_operating_points_flag_by_log_odds(tmp_path: Path) -> None:
    points = OperatingPoints(base_sha256="0" * 64, thresholds={"fpr_1": 1.0, "fpr_0.1": 3.0}, n_ordinary=10)
    assert points.flagged_at(0.5) == () and points.flagged_at(0.8) == ("fpr_1",)
    assert points.flagged_at(1.0) == ("fpr_0.1", "fpr_1")
    assert points.flagged_at(0.8, 0.01) == ("fpr_1",)
    both = points.model_copy(update={"with_classifier": WithClassifier(weight=0.5, thresholds={"fpr_1": 1.0})})
    assert both.flagged_at(0.8) == ("fpr_1",)
    assert both.flagged_at(0.8, 0.5) == ("fpr_1",) and both.flagged_at(0.8, 0.1) == ()
    (tmp_path / "points.json").write_text(points.model_dump_json())
    assert read_points(tmp_path) == points


@pytest.mark.parametrize("text", ["", "{}", '{"thresholds": {"fpr_1": NaN}}'])
def test_broken_operating_points_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "points.json").write_text(text)
    with pytest.raises(UserError, match=r"points\.json"):
        read_points(tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        read_points(tmp_path / "nowhere")


def test_a_base_without_a_guard_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="no guard for 'llama-9'"):
        shipped_guard("llama-9")
