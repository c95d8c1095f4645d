"""Moderation of a stream: the states of given tokens, the same verdicts however the text is cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("llama_cpp", reason="needs llama-cpp-python (extra `local`)")

from modelstack.align.monitor.moderation import MAX_WORD_CHARACTERS, StreamModeration
from modelstack.align.monitor.probe import REPLY, REQUEST, Direction, Probe
from modelstack.errors import UserError
from modelstack.inference.engine import ContextWindowError, EngineError, GenerateRequest
from modelstack.inference.llama.engine import LlamaCppEngine

REPLY_TEXT = "The quick brown fox jumps over the lazy dog. You may call a tool and then answer please."


@pytest.fixture
def engine(tiny_gguf: Path) -> Iterator[LlamaCppEngine]:
    with LlamaCppEngine(
        tiny_gguf, n_threads=1, n_threads_prefill=1, context_window=256, state_layers=(0,)
    ) as loaded:
        yield loaded


def probe_for(engine: LlamaCppEngine, request: float = 1e9, reply: float = 1e9) -> Probe:
    weights = np.random.default_rng(0).normal(size=(1, 64)).astype(np.float32)
    points = {"fpr_0.1": 1e9, "fpr_0.5": 1e9, "fpr_1": 1e9, "fpr_5": 1e9}
    return Probe(
        (0,),
        Direction(weights, 0.0),
        Direction(-weights, 0.0),
        window=4,
        thresholds={REQUEST: points | {"fpr_5": request}, REPLY: points | {"fpr_0.1": reply}},
        fingerprints=(engine.fingerprint,),
    )


def parts(text: str, n: int) -> list[str]:
    return [text[start : start + n] for start in range(0, len(text), n)]


class Seen:
    """A watch that keeps the states that it is shown."""

    def __init__(self) -> None:
        self.states: list[NDArray[np.float32]] = []

    def __call__(self, states_LD: NDArray[np.float32], written: Sequence[int]) -> bool:
        self.states.append(states_LD.copy())
        return True


def test_the_states_of_given_tokens_are_those_of_written_ones(engine: LlamaCppEngine) -> None:
    ids, seen = engine.vocabulary.encode("The quick brown fox"), Seen()
    reply = engine.generate(GenerateRequest(ids, 12, watch=seen, end_ids=frozenset()))
    states_TLD = engine.read_states([*ids, *reply.ids], len(ids) - 1)
    assert states_TLD.shape == (13, 1, 64)
    np.testing.assert_allclose(states_TLD[:-1], np.stack(seen.states[:12]), atol=1e-3)
    np.testing.assert_allclose(engine.read_states([*ids, *reply.ids], 0)[-13:], states_TLD, atol=1e-3)
    engine.check_integrity()


@pytest.mark.parametrize("n", [1, 3, 11, 1000])
def test_the_verdict_does_not_depend_on_how_the_stream_is_cut(engine: LlamaCppEngine, n: int) -> None:
    whole, cut = (StreamModeration(engine, probe_for(engine), conversation=name) for name in "ab")
    assert whole.ask("May I?").log_odds == pytest.approx(cut.ask("May I?").log_odds, abs=1e-3)
    whole.read(REPLY_TEXT)
    risks = [cut.read(part) for part in parts(REPLY_TEXT, n)]
    assert [each.n_tokens for each in risks] == sorted(each.n_tokens for each in risks)
    first, second = whole.end(), cut.end()
    assert first.n_tokens == second.n_tokens == len(engine.vocabulary.encode(REPLY_TEXT))
    assert first.log_odds == pytest.approx(second.log_odds, abs=1e-3)


def test_a_level_follows_the_operating_points(engine: LlamaCppEngine) -> None:
    odds = StreamModeration(engine, probe_for(engine)).ask("May I?").log_odds
    asked = StreamModeration(engine, probe_for(engine, request=odds - 0.1)).ask("May I?")
    assert asked.level == "controversial" and asked.probability == pytest.approx(1 / (1 + np.exp(-odds)))
    moderation = StreamModeration(engine, probe_for(engine, reply=-1e6))
    moderation.ask("May I?")
    levels = [moderation.read(f" word{n}").level for n in range(9)]
    assert levels[0] == "safe" and levels[-1] == "unsafe"  # few tokens are not judged


def test_a_second_question_is_judged_after_the_first_answer(engine: LlamaCppEngine) -> None:
    moderation = StreamModeration(engine, probe_for(engine), system="Be brief.")
    moderation.ask("May I?")
    moderation.read("Yes, you may")
    again = moderation.ask("And now?")
    alone = StreamModeration(engine, probe_for(engine), conversation="other").ask("And now?")
    assert again.log_odds != pytest.approx(alone.log_odds, abs=1e-4)
    assert moderation.read("No").n_tokens == 0 and moderation.end().n_tokens > 0


def test_a_text_without_spaces_is_judged_before_it_ends(engine: LlamaCppEngine) -> None:
    moderation = StreamModeration(engine, probe_for(engine))
    moderation.ask("May I?")
    assert moderation.read("x" * MAX_WORD_CHARACTERS).n_tokens == 0
    assert moderation.read("x").n_tokens > 0


def test_what_cannot_be_read_is_refused(engine: LlamaCppEngine, tiny_gguf: Path) -> None:
    with pytest.raises(EngineError, match="n_context is 3 of 3"):
        engine.read_states([5, 6, 7], 3)
    with pytest.raises(ContextWindowError, match="300 tokens"):
        engine.read_states([5] * 300, 0)
    with pytest.raises(EngineError, match="cancelled"):
        engine.read_states([5, 6, 7], 0, cancelled=lambda: True)
    with LlamaCppEngine(tiny_gguf, n_threads=1, n_threads_prefill=1, context_window=64) as plain:
        with pytest.raises(EngineError, match="load the engine with state_layers"):
            plain.read_states([5, 6], 0)
        with pytest.raises(UserError, match="reads layers"):
            StreamModeration(plain, probe_for(plain))
