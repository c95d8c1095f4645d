"""Promises of both engines, torch's and llama.cpp's: replies are independent, errors stay apart, nothing leaks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelstack.inference.engine import BatchingEngine, EngineError, SamplingParams
from modelstack.inference.grammar import GrammarError
from modelstack.inference.llama.engine import LlamaCppEngine
from modelstack.inference.pending_reply import PendingReply
from modelstack.inference.torch.engine import TorchEngine
from tests.modelstack.inference.fakes import ScriptedGrammar
from tests.modelstack.inference.stepping import run
from tests.modelstack.inference.torch_engines import engine_of, prompt_of, request

PROMPTS = [prompt_of(n, length) for n, length in enumerate([5, 33, 18, 2, 33, 9])]
AnyEngine = TorchEngine | LlamaCppEngine


class Engines:
    """Makes engines of one kind, and knows the replies of one that is asked alone."""

    def __init__(self, kind: str, gguf: Path) -> None:
        self.kind, self._gguf = kind, gguf
        self._alone = self.make()
        self._replies: dict[tuple[int, ...], list[int]] = {}

    def make(self, *, rows: int = 8, chunk: int = 64) -> AnyEngine:
        if self.kind == "torch":
            return engine_of(max_rows=rows, max_step_tokens=max(rows, chunk))
        options: dict[str, Any] = {"n_threads": 1, "n_threads_prefill": 1, "kv_type": "f32", "seed": 0}
        return LlamaCppEngine(self._gguf, max_conversations=rows, n_batch=chunk, context_window=256, **options)

    def reply(self, prompt: list[int], n_tokens: int) -> list[int]:
        """Return the greedy reply to a prompt alone."""
        key = (*prompt, n_tokens)
        if key not in self._replies:
            self._replies[key] = self._alone.generate(request(prompt, n_tokens)).ids
        return self._replies[key]

    def close(self) -> None:
        self._alone.close()


@pytest.fixture(scope="module", params=["torch", "llama.cpp"])
def engines(request: pytest.FixtureRequest, tiny_gguf: Path) -> Iterator[Engines]:
    engines = Engines(request.param, tiny_gguf)
    yield engines
    engines.close()


def is_whole(engine: AnyEngine) -> bool:
    """Whether no request holds a part of the cache, or waits."""
    if isinstance(engine, LlamaCppEngine):
        return len(engine._queue) == 0 and engine._cache.n_open_cells == 0
    status = engine.status
    return (status.n_running, status.n_waiting, status.n_free_blocks) == (0, 0, status.n_blocks)


def n_vocab(engine: AnyEngine) -> int:
    return len(engine.vocabulary)


@pytest.mark.parametrize("options", [{}, {"rows": 3, "chunk": 7}, {"rows": 1}], ids=str)
def test_greedy_replies_are_the_same_alone_and_together(engines: Engines, options: dict[str, int]) -> None:
    with engines.make(**options) as engine:
        batching: BatchingEngine = engine
        submissions = [batching.submit(request(prompt, 10, conversation=str(prompt))) for prompt in PROMPTS]
        while not all(submission.is_done for submission in submissions):
            batching.step()
        assert [s.result().ids for s in submissions] == [engines.reply(prompt, 10) for prompt in PROMPTS]


def test_sampled_replies_do_not_depend_on_the_others_of_their_batch(engines: Engines) -> None:
    def asked(number: int) -> Any:
        return request(PROMPTS[number], 12, conversation=str(number), sampling=SamplingParams(1.0, seed=number))

    with engines.make() as engine, engines.make() as single:
        replies = run(engine, *(engine.submit(asked(n)) for n in range(len(PROMPTS))))
        for n, reply in enumerate(replies):
            alone = single.generate(asked(n))
            assert reply.ids == alone.ids
            assert reply.logprobs == pytest.approx(alone.logprobs, abs=1e-3)


def test_a_reply_that_its_grammar_forces_whole_needs_no_evaluation(engines: Engines) -> None:
    with engines.make() as engine:
        grammar = ScriptedGrammar([[20], [21]], n_vocab=n_vocab(engine))
        forced = engine.submit(request([1], 8, grammar=grammar))
        assert forced.is_done and forced.result().ids == [20, 21]
        assert engine.step() == [] and is_whole(engine)
        assert engine.generate(request([1], 0)).finish_reason == "length"


def test_tokens_are_told_as_they_come_and_an_end_token_ends_the_reply(engines: Engines) -> None:
    told = list[list[int]]()
    with engines.make() as engine:
        reply = engine.generate(request(PROMPTS[0], 6), on_tokens=told.append)
        assert [token for block in told for token in block] == reply.ids
        assert (len(told), reply.finish_reason) == (6, "length")
        end = reply.ids[3]
        ended = engine.generate(request(PROMPTS[0], 6, end_ids=frozenset({end})))
        assert (ended.ids, ended.finish_reason) == (reply.ids[: reply.ids.index(end)], "end")
        stats = reply.stats
        assert (stats.sampled_tokens, stats.forward_calls) == (6, 5)
        assert min(stats.first_token_s, stats.prefill_s, stats.decode_s) > 0


@pytest.mark.parametrize("n_steps", range(0, 14, 2))
def test_cancelling_at_any_step_touches_no_other_reply(engines: Engines, n_steps: int) -> None:
    with engines.make(rows=4, chunk=32) as engine:
        kept = engine.submit(request(PROMPTS[1], 10, conversation="kept"))
        gone = engine.submit(request(prompt_of(9, 50), 10, conversation="gone"))
        for _ in range(n_steps):
            engine.step()
        engine.cancel(gone)
        engine.cancel(gone)
        engine.check_integrity()
        assert gone.result().finish_reason in ("cancelled", "length")
        assert run(engine, kept)[0].ids == engines.reply(PROMPTS[1], 10)
        assert is_whole(engine)


def test_a_reply_is_cancelled_by_its_caller_between_steps_and_from_its_own_callback(engines: Engines) -> None:
    with engines.make() as engine:
        n = iter(range(100))
        reply = engine.generate(request(PROMPTS[0], 50), cancelled=lambda: next(n) > 6)
        assert reply.finish_reason == "cancelled" and 0 < len(reply.ids) < 7
        submission: PendingReply[Any] | None = None

        def enough(block: list[int]) -> None:
            assert submission is not None
            engine.cancel(submission)

        submission = engine.submit(request(PROMPTS[0], 50), on_tokens=enough)
        (reply,) = run(engine, submission)
        assert (len(reply.ids), reply.finish_reason) == (1, "cancelled")
        assert is_whole(engine)
        with pytest.raises(EngineError, match="was not submitted to this engine"):
            engine.cancel(None)  # pyright: ignore[reportArgumentType]


def failing(kind: str, n_vocab: int) -> dict[str, Any]:
    """Return the arguments of a request that fails while it runs."""
    if kind == "callback":

        def broken(block: list[int]) -> None:
            raise ConnectionError("the client left")

        return {"request": request(PROMPTS[2], 9), "on_tokens": broken}
    if kind == "dead end":
        return {"request": request(PROMPTS[2], 9, grammar=ScriptedGrammar([[20, 21], []], n_vocab=n_vocab))}
    refusing = ScriptedGrammar([[20, 21], [22, 23]], n_vocab=n_vocab)
    refusing.advance = lambda token_id: _refuse(token_id)  # pyright: ignore
    return {"request": request(PROMPTS[2], 9, grammar=refusing)}


def _refuse(token_id: int) -> None:
    raise GrammarError(f"{token_id} is refused")


@pytest.mark.parametrize(
    ("kind", "error"), [("callback", ConnectionError), ("dead end", EngineError), ("refusal", GrammarError)]
)
def test_an_error_of_one_reply_ends_only_that_one(engines: Engines, kind: str, error: type[Exception]) -> None:
    with engines.make() as engine:
        others = [engine.submit(request(prompt, 10, conversation=str(prompt))) for prompt in PROMPTS[:2]]
        broken = engine.submit(**failing(kind, n_vocab(engine)))
        replies = run(engine, *others)
        assert [reply.ids for reply in replies] == [engines.reply(p, 10) for p in PROMPTS[:2]]
        with pytest.raises(error):
            broken.result()
        arguments = failing(kind, n_vocab(engine))
        with pytest.raises(error):
            engine.generate(arguments["request"], on_tokens=arguments.get("on_tokens"))
        assert is_whole(engine)


def test_requests_of_several_threads_share_batches(engines: Engines) -> None:
    expected = [engines.reply(prompt, 12) for prompt in PROMPTS]
    found: dict[int, list[int]] = {}
    with engines.make() as engine:
        n_pending = list[int]()
        step = engine._step

        def counted() -> Any:
            while not n_pending and len(engine._pending) + engine._lock.n_waiting < len(PROMPTS):
                pass  # until all have come
            n_pending.append(len(engine._pending))
            return step()

        engine._step = counted  # pyright: ignore[reportAttributeAccessIssue]

        def ask(number: int) -> None:
            found[number] = engine.generate(request(PROMPTS[number], 12, conversation=str(number))).ids

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(PROMPTS))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [found[number] for number in range(len(PROMPTS))] == expected
    assert len(n_pending) < sum(map(len, expected)), "there are fewer steps than tokens"


def test_a_callback_cannot_use_the_engine_and_a_closed_engine_says_so(engines: Engines) -> None:
    engine = engines.make()
    with pytest.raises(EngineError, match="called from a callback"):
        engine.generate(request(PROMPTS[0]), on_tokens=lambda block: engine.forget("default"))
    with pytest.raises(EngineError, match="cancel the request instead"):
        engine.generate(request(PROMPTS[0]), on_tokens=lambda block: engine.close())
    open_one = engine.submit(request(PROMPTS[0]))
    engine.step()
    engine.close()
    engine.close()
    assert open_one.result().finish_reason == "cancelled"
    with pytest.raises(EngineError, match="the engine is closed"):
        engine.generate(request(PROMPTS[0]))


def test_an_urgent_request_goes_ahead_of_the_line(engines: Engines) -> None:
    with engines.make(rows=1) as engine:
        usual = [engine.submit(request(prompt, 3)) for prompt in PROMPTS[:3]]
        urgent = engine.submit(request(PROMPTS[3], 3, priority=1))
        order = [ended for _ in range(40) for ended in engine.step()]
        assert order == [urgent, *usual]
