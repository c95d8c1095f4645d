"""An equal request with a seed gets an equal reply, whatever the engine did before and whatever runs beside it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest

from modelstack.inference.engine import GenerateRequest, Generation, SamplingParams
from modelstack.inference.llama.engine import LlamaCppEngine
from modelstack.inference.llama.library import library

SEEDED = SamplingParams(temperature=1.0, seed=11)
GREEDY = SamplingParams()
GREEDY_SEEDED = SamplingParams(seed=0)
ASKED = "Write a few sentences about the sea, and about the ships and the sailors that cross it."
N_TOKENS = 40


@pytest.fixture(scope="module", params=["Q4_1", "Q4_K"])
def engine(
    request: pytest.FixtureRequest, smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LlamaCppEngine]:
    """The default model, and the same with K-quants, whose logits depend on the size of a batch."""
    path = smollm2_gguf
    if request.param == "Q4_K":
        path = _in_k_quants(smollm2_gguf, tmp_path_factory.mktemp("k-quants") / "model.gguf")
    with LlamaCppEngine(path, context_window=1024, n_threads=1, n_threads_prefill=1, drafter="lookup") as loaded:
        yield loaded


def test_equal_requests_in_a_row_get_equal_replies(engine: LlamaCppEngine) -> None:
    _forget_all(engine)
    first = _reply(engine, "new", SEEDED)
    others = [_reply(engine, f"conversation {n}", SEEDED) for n in range(3)] + [_reply(engine, "new", SEEDED)]
    assert [_bits(other) for other in others] == [_bits(first)] * 4
    assert _reply(engine, "new", replace(SEEDED, seed=12)).ids != first.ids
    if engine.batch_invariant:
        assert all(other.stats.reused_tokens > 20 for other in others)  # the cache is not given up for a seed


def test_a_reply_with_a_seed_does_not_depend_on_what_else_was_cached(engine: LlamaCppEngine) -> None:
    _forget_all(engine)
    first = [_reply(engine, "first", sampling) for sampling in (SEEDED, GREEDY_SEEDED)]
    _forget_all(engine)
    _together(engine, [_request(engine, f"beside {n}", GREEDY, f"{ASKED} {n}") for n in range(3)])
    _together(engine, [_request(engine, f"equal {n}", GREEDY) for n in range(2)])
    later = [_reply(engine, f"later {n}", sampling) for n, sampling in enumerate((SEEDED, GREEDY_SEEDED))]
    assert [_bits(each) for each in later] == [_bits(each) for each in first]


def test_requests_that_arrive_meanwhile_do_not_change_a_reply_with_a_seed(engine: LlamaCppEngine) -> None:
    _forget_all(engine)
    alone = _reply(engine, "alone", SEEDED)
    requests = [_request(engine, f"beside {n}", GREEDY, f"{ASKED} {n}") for n in range(4)]
    requests[1:1] = [_request(engine, "equal 0", SEEDED)]
    requests.append(_request(engine, "equal 1", SEEDED))
    replies = _together(engine, requests)
    assert [_bits(replies[1]), _bits(replies[-1])] == [_bits(alone)] * 2
    assert all(len(reply.ids) > 0 for reply in replies)


def test_a_reply_with_a_seed_does_not_change_while_other_threads_score_texts(engine: LlamaCppEngine) -> None:
    _forget_all(engine)
    alone = _reply(engine, "alone", SEEDED)
    ids = engine.vocabulary.encode(ASKED)
    scored = list[float]()

    def score(written: list[int]) -> None:
        if not scoring.is_alive() and not scored:
            scoring.start()

    scoring = Thread(target=lambda: scored.extend(engine.score_tokens(ids, 3).logprobs))
    beside = engine.generate(_request(engine, "beside", SEEDED), on_tokens=score)
    scoring.join(60)
    assert _bits(beside) == _bits(alone)
    assert len(scored) == len(ids) - 3


def test_temperature_0_in_a_row_needs_no_seed(engine: LlamaCppEngine) -> None:
    if not engine.batch_invariant:
        pytest.skip("without a seed, cached prompts and drafts change the batches of K-quants")
    _forget_all(engine)
    replies = [_reply(engine, f"conversation {n}", GREEDY) for n in range(4)]
    assert [_bits(reply) for reply in replies] == [_bits(replies[0])] * 4


def test_a_conversation_that_was_parked_continues_with_its_cache(engine: LlamaCppEngine) -> None:
    _forget_all(engine)
    request = _request(engine, "parked", GREEDY)
    reply = engine.generate(request)
    _reply(engine, "another", GREEDY, "Which colours does the sky have in the evening?")
    told = [*request.prompt_ids, *reply.ids, *engine.vocabulary.encode(" And then?")]
    continued = engine.generate(replace(request, prompt_ids=told, max_tokens=2))
    engine.check_integrity()
    assert continued.stats.reused_tokens >= len(request.prompt_ids) + len(reply.ids) - 1
    assert set(engine.cached_tokens) == {"parked", "another"}


def _request(
    engine: LlamaCppEngine, conversation: str, sampling: SamplingParams, text: str = ASKED
) -> GenerateRequest:
    prompt = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
    ids = engine.encode_template(prompt)
    return GenerateRequest(ids, N_TOKENS, conversation=conversation, sampling=sampling)


def _reply(engine: LlamaCppEngine, conversation: str, sampling: SamplingParams, text: str = ASKED) -> Generation:
    return engine.generate(_request(engine, conversation, sampling, text))


def _together(engine: LlamaCppEngine, requests: list[GenerateRequest]) -> list[Generation]:
    submissions = [engine.submit(request) for request in requests]
    while not all(submission.is_done for submission in submissions):
        engine.step()
        engine.check_integrity()
    return [submission.result() for submission in submissions]


def _bits(reply: Generation) -> tuple[list[int], list[float]]:
    return reply.ids, reply.logprobs


def _forget_all(engine: LlamaCppEngine) -> None:
    for conversation in list(engine.cached_tokens):
        engine.forget(conversation)


def _in_k_quants(path: Path, target: Path) -> Path:
    parameters = library().llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread, parameters.allow_requantize = 15, 1, True
    assert library().llama_model_quantize(str(path).encode(), str(target).encode(), ctypes.byref(parameters)) == 0
    return target
