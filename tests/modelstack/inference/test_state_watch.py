"""Watches of hidden states: the same states in both engines, alone and in batches, with drafts and without."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch", reason="needs torch (extra `train`)")
pytest.importorskip("llama_cpp", reason="needs llama-cpp-python (extra `local`)")

from modelstack.inference.engine import EngineError, GenerateRequest, SamplingParams
from modelstack.inference.llama.engine import LlamaCppEngine
from modelstack.inference.torch.engine import TorchEngine
from tests.modelstack.inference.fakes import ScriptedGrammar

LAYERS = (0,)
AnyEngine = LlamaCppEngine | TorchEngine
Made = Callable[..., AnyEngine]


class Recorded:
    """A watch that keeps what it was shown, and stops after a number of tokens."""

    def __init__(self, n_most: int = 1_000) -> None:
        self.states: list[NDArray[np.float32]] = []
        self.written: list[list[int]] = []
        self._n_most = n_most

    def __call__(self, states_LD: NDArray[np.float32], written: Sequence[int]) -> bool:
        self.states.append(states_LD.copy())
        self.written.append(list(written))
        return len(written) < self._n_most


@pytest.fixture(params=["llama.cpp", "torch"])
def made(request: pytest.FixtureRequest, tiny_gguf: Path) -> Iterator[Made]:
    engines: list[AnyEngine] = []

    def make(**options: Any) -> AnyEngine:
        options = {"state_layers": LAYERS, "context_window": 256} | options
        if request.param == "torch":
            engines.append(TorchEngine.load(tiny_gguf, **options))
        else:
            engines.append(LlamaCppEngine(tiny_gguf, n_threads=1, n_threads_prefill=1, **options))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


def ask(engine: AnyEngine, text: str, watch: Recorded | None, **changes: Any) -> GenerateRequest:
    ids = engine.vocabulary.encode(text)
    return GenerateRequest(ids, 12, watch=watch, conversation=text, end_ids=frozenset(), **changes)


def test_a_watch_sees_the_end_of_the_prompt_and_each_token(made: Made) -> None:
    engine, watch = made(), Recorded()
    reply = engine.generate(ask(engine, "The quick brown fox", watch))
    assert watch.written == [reply.ids[:n] for n in range(12)]
    assert {states.shape for states in watch.states} == {(1, 64)}


def test_both_engines_show_the_same_states(tiny_gguf: Path) -> None:
    seen: list[NDArray[np.float32]] = []
    for engine in (
        LlamaCppEngine(tiny_gguf, n_threads=1, n_threads_prefill=1, context_window=256, state_layers=LAYERS),
        TorchEngine.load(tiny_gguf, context_window=256, state_layers=LAYERS),
    ):
        with engine:
            watch = Recorded()
            engine.generate(ask(engine, "How many lines does todo.md have?", watch))
            seen.append(np.stack(watch.states))
    np.testing.assert_allclose(seen[0], seen[1], atol=0.02 * np.abs(seen[1]).max())


def test_a_cached_prompt_still_shows_its_end(made: Made) -> None:
    engine = made()
    first, again = Recorded(), Recorded()
    for watch in (first, again):
        engine.generate(ask(engine, "Bonjour, where is the library?", watch))
    np.testing.assert_array_equal(first.states[0], again.states[0])


def test_requests_together_show_what_each_shows_alone(made: Made) -> None:
    texts = ["The lazy dog", "You may call a tool", "system user assistant"]
    alone = []
    for text in texts:
        engine, watch = made(), Recorded()
        engine.generate(ask(engine, text, watch))
        alone.append(np.stack(watch.states))
    engine, watches = made(), [Recorded() for _ in texts]
    submitted = [engine.submit(ask(engine, text, watch)) for text, watch in zip(texts, watches, strict=True)]
    while not all(each.is_done for each in submitted):
        engine.step()
    for found, watch in zip(alone, watches, strict=True):
        np.testing.assert_allclose(np.stack(watch.states), found, atol=1e-3)


def test_drafts_that_a_reply_does_not_take_are_not_shown(made: Made) -> None:
    text = "yes no yes no yes no yes no yes no yes no"
    plain, drafted = Recorded(), Recorded()
    for drafter, watch in ((None, plain), ("lookup", drafted)):
        engine = made(drafter=drafter)
        sampling = SamplingParams(temperature=1.0, seed=3)
        engine.generate(ask(engine, text, watch, sampling=sampling, expected_ids=engine.vocabulary.encode(text)))
    assert drafted.written == plain.written
    np.testing.assert_allclose(np.stack(drafted.states), np.stack(plain.states), atol=1e-3)


def test_a_watch_stops_its_own_reply_alone(made: Made) -> None:
    engine, watch = made(), Recorded(n_most=3)
    stopped, other = (engine.submit(ask(engine, text, each)) for text, each in (("a b c", watch), ("d e f", None)))
    while not (stopped.is_done and other.is_done):
        engine.step()
    assert stopped.result().finish_reason == "content_filter" and len(stopped.result().ids) == 3
    assert other.result().finish_reason == "length" and len(other.result().ids) == 12
    engine.check_integrity()


def test_a_watch_can_refuse_before_the_first_token(made: Made) -> None:
    engine = made()
    reply = engine.generate(ask(engine, "a b c", Recorded(n_most=0)))
    assert reply.finish_reason == "content_filter" and reply.ids == []


def test_a_forced_opening_is_written_after_the_watch_has_read_the_prompt(made: Made) -> None:
    engine = made()
    steps = [[5], [6], range(3, 40), [7], range(3, 40)]

    def grammar() -> Any:
        return ScriptedGrammar([list(step) for step in steps], n_vocab=len(engine.vocabulary))

    plain = engine.generate(ask(engine, "a b c", None, grammar=grammar()))
    watch, refusing = Recorded(), Recorded(n_most=0)
    watched = engine.generate(ask(engine, "a b c", watch, grammar=grammar()))
    assert (watched.ids, watched.forced) == (plain.ids, plain.forced)
    assert watch.written[:2] == [[], plain.ids[:2]]
    stopped = engine.generate(ask(engine, "a b c", refusing, grammar=grammar()))
    assert stopped.finish_reason == "content_filter" and stopped.ids == [] and len(refusing.states) == 1


def test_an_engine_without_state_layers_refuses_a_watch(made: Made) -> None:
    engine = made(state_layers=())
    with pytest.raises(EngineError, match="state_layers"):
        engine.generate(ask(engine, "a", Recorded()))


@pytest.mark.parametrize("layer", [-1, 1, 7])
def test_a_layer_that_cannot_be_read_is_refused(made: Made, layer: int) -> None:
    with pytest.raises(EngineError, match=f"{layer}.*layers 0 to 0"):
        made(state_layers=(layer,))
