"""Requests that share llama.cpp's cache: read once, written together, sent back when cells run out, never lost."""

from __future__ import annotations

import random
from functools import cache

import pytest

from modelstack.inference.engine import ContextWindowError, EngineError, GenerateRequest
from modelstack.inference.llama.batch import MAX_REPLY_BATCH
from modelstack.inference.llama.sequence_queue import SequenceStream
from modelstack.inference.pending_reply import PendingReply
from tests.modelstack.inference.fakes import SPECIAL, FakeContext, FakeEngine, ScriptedGrammar, hashed_logits
from tests.modelstack.inference.stepping import run

NO_END: frozenset[int] = frozenset()
Pending = PendingReply[SequenceStream]


def ask(prompt: list[int], n_reply: int = 4, name: str = "", **keys: object) -> GenerateRequest:
    conversation = name or str(prompt)
    return GenerateRequest(prompt, n_reply, conversation=conversation, end_ids=NO_END, **keys)  # pyright: ignore[reportArgumentType]


def greedy(prompt: list[int], n_reply: int = 4) -> list[int]:
    """Return the reply of the fake model alone."""
    return list(_greedy(tuple(prompt), n_reply))


@cache
def _greedy(prompt: tuple[int, ...], n_reply: int) -> tuple[int, ...]:
    ids = list(prompt)
    for _ in range(n_reply):
        logits = hashed_logits(ids)
        logits[SPECIAL] = -100
        ids.append(int(logits.argmax()))
    return tuple(ids[len(prompt) :])


def prompt_of(seed: int, n_tokens: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(5, 40) for _ in range(n_tokens)]


def test_short_prompts_and_replies_of_several_requests_share_calls() -> None:
    context = FakeContext()
    engine = FakeEngine(context)
    prompts = [prompt_of(n, 5) for n in range(3)]
    replies = run(engine, *(engine.submit(ask(prompt)) for prompt in prompts))
    assert [reply.ids for reply in replies] == [greedy(prompt) for prompt in prompts]
    assert [[len(ids) for ids in call] for call in context.calls] == [[5, 5, 5], [1, 1, 1], [1, 1, 1], [1, 1, 1]]
    assert [(r.stats.prefilled_tokens, r.stats.forward_calls) for r in replies] == [(5, 3)] * 3


def test_a_long_prompt_is_read_in_turn_with_the_replies_of_others() -> None:
    context = FakeContext()
    engine = FakeEngine(context, n_batch=50)
    first = engine.submit(ask(prompt_of(1, 5), 8))
    engine.step()
    second = engine.submit(ask(prompt_of(2, 120), 2))
    replies = run(engine, first, second)
    assert [r.ids for r in replies] == [greedy(prompt_of(1, 5), 8), greedy(prompt_of(2, 120), 2)]
    assert [[len(ids) for ids in call] for call in context.calls] == (
        [[5], [50], [1], [50], [1, 20], [1, 1], [1], [1], [1], [1]]
    )


def test_equal_beginnings_that_arrive_together_are_read_once() -> None:
    context = FakeContext()
    engine = FakeEngine(context, n_batch=512)
    system = prompt_of(0, 200)
    prompts = [[*system, 5 + n, 6] for n in range(4)]
    replies = run(engine, *(engine.submit(ask(prompt)) for prompt in prompts))
    assert [reply.ids for reply in replies] == [greedy(prompt) for prompt in prompts]
    assert [reply.stats.reused_tokens for reply in replies] == [0, 200, 200, 200]
    assert sum(len(ids) for call in context.calls for ids in call) == 202 + 3 * 2 + 4 * 3


def test_while_one_of_a_group_reads_their_prompt_another_groups_first_reads_beside_it() -> None:
    context = FakeContext()
    engine = FakeEngine(context, n_batch=64, n_sequences=8)
    groups = [prompt_of(n, 12) for n in range(3)]
    run(engine, *(engine.submit(ask(prompt, 2, f"{n} {g}")) for n, prompt in enumerate(groups) for g in range(3)))
    lengths = [[len(ids) for ids in call] for call in context.calls]
    assert lengths[0] == [12, 12, MAX_REPLY_BATCH - 24], "as far as there is room"
    assert lengths[1] == [1, 1, 1, 1, 1, 1, 4, 4]  # the first of each group goes on; a short rest is read twice
    assert sum(map(sum, lengths)) == 3 * 12 + 4 * 1 + 4 + 1 + 9 * 1


def test_a_request_waits_for_a_free_sequence_and_an_urgent_one_goes_first() -> None:
    engine = FakeEngine(FakeContext(), n_sequences=1)
    first, second = (engine.submit(ask(prompt_of(n, 5))) for n in range(2))
    urgent = engine.submit(ask(prompt_of(2, 5), priority=1))
    order = [ended for _ in range(20) for ended in engine.step()]
    assert order == [urgent, first, second]


def test_two_replies_of_one_conversation_at_a_time_do_not_disturb_each_other() -> None:
    engine = FakeEngine(FakeContext())
    prompts = [prompt_of(n, 6) for n in range(3)]
    replies = run(engine, *(engine.submit(ask(prompt, name="same")) for prompt in prompts))
    assert [reply.ids for reply in replies] == [greedy(prompt) for prompt in prompts]
    engine.forget_all()
    assert engine.context.n_used == 0


def test_where_cells_run_out_the_last_request_is_evaluated_again_and_its_reply_is_the_same() -> None:
    context = FakeContext(n_cells=60)
    engine = FakeEngine(context)
    prompts = [prompt_of(n, 8) for n in range(4)]
    submissions = [engine.submit(ask(prompt, 30)) for prompt in prompts]
    streams = [submission.stream for submission in submissions]
    replies = run(engine, *submissions)
    assert [reply.ids for reply in replies] == [greedy(prompt, 30) for prompt in prompts]
    assert sum(stream.n_preempted for stream in streams if stream is not None) > 0
    for reply in replies:  # work that was done again is not counted again
        assert reply.stats.prefilled_tokens + reply.stats.reused_tokens == 8
    assert [s.n_preempted for s in streams if s is not None][0] == 0, "the first in the order keeps its cells"


def test_conversations_that_nobody_writes_in_give_way_first() -> None:
    context = FakeContext(n_cells=64)
    engine = FakeEngine(context)
    for n in range(3):
        engine.generate(ask(prompt_of(n, 12), 5, f"old {n}"))
    replies = [engine.submit(ask(prompt_of(n, 12), 12, f"new {n}")) for n in range(2)]
    run(engine, *replies)
    assert all(reply.stream is not None and reply.stream.n_preempted == 0 for reply in replies)


def test_a_request_that_fits_not_even_alone_ends_and_touches_no_other() -> None:
    context = FakeContext(n_cells=40)
    engine = FakeEngine(context)
    context.n_cells = 20  # fewer than the engine was told, as of a cache that pads
    small, large = engine.submit(ask(prompt_of(0, 6), 3)), engine.submit(ask(prompt_of(1, 30), 3))
    for _ in range(30):
        engine.step()
    assert small.result().ids == greedy(prompt_of(0, 6), 3)
    with pytest.raises(ContextWindowError, match="16 more do not fit into the 40 KV cells"):
        large.result()


def test_a_forced_block_gets_its_share_beside_others_and_all_of_it_is_evaluated() -> None:
    context = FakeContext()
    engine = FakeEngine(context, n_batch=64)
    others = [engine.submit(ask(prompt_of(n, 5), 30)) for n in range(3)]
    for _ in range(2):
        engine.step()
    block = [[20 + i % 5] for i in range(40)]
    forced = engine.submit(ask(prompt_of(9, 5), 44, grammar=ScriptedGrammar([[20, 21], *block, [22, 23]])))
    replies = run(engine, forced, *others)
    assert len(replies[0].ids) == 42
    assert [reply.ids for reply in replies[1:]] == [greedy(prompt_of(n, 5), 30) for n in range(3)]
    assert max(sum(map(len, call)) for call in context.calls) == MAX_REPLY_BATCH
    assert [1, 1, 1, MAX_REPLY_BATCH - 3] in [[len(ids) for ids in call] for call in context.calls]


def test_a_failed_evaluation_is_raised_and_all_requests_can_go_on() -> None:
    context = FakeContext()
    engine = FakeEngine(context)
    prompts = [prompt_of(n, 5) for n in range(3)]
    submissions = [engine.submit(ask(prompt, 6)) for prompt in prompts]
    for _ in range(3):
        engine.step()
    context.fails = True
    with pytest.raises(EngineError, match=r"failed to evaluate 3 tokens at position 7 \(code -3\)"):
        engine.step()
    with pytest.raises(EngineError, match="failed"):
        engine.generate(ask(prompt_of(9, 4)))
    context.fails = False
    assert (engine.queue.n_running, engine.queue.n_waiting, context.n_used) == (0, 3, 0)
    assert [reply.ids for reply in run(engine, *submissions)] == [greedy(prompt, 6) for prompt in prompts]


def test_a_step_that_was_interrupted_loses_no_reply() -> None:
    engine = FakeEngine(FakeContext())

    def interrupt(_: list[int]) -> None:
        raise KeyboardInterrupt

    first = engine.submit(ask(prompt_of(0, 5)), on_tokens=interrupt)
    second = engine.submit(ask(prompt_of(1, 5)))
    with pytest.raises(KeyboardInterrupt):  # after logits of both were computed
        engine.step()
    engine.cancel(first)
    assert run(engine, second)[0].ids == greedy(prompt_of(1, 5))


@pytest.mark.parametrize("seed", range(40))
def test_no_history_of_requests_changes_a_reply_or_loses_a_cell(seed: int) -> None:
    rng = random.Random(seed)
    context = FakeContext(n_cells=rng.choice([60, 90, 200]))
    engine = FakeEngine(context, n_batch=rng.choice([3, 16, 40]), n_sequences=rng.randrange(1, 5))
    systems = [prompt_of(n, rng.randrange(1, 25)) for n in range(2)]
    submissions = list[tuple[Pending, list[int], int]]()
    for _ in range(rng.randrange(50, 120)):
        event = rng.random()
        if event < 0.2:
            prompt = [*rng.choice(systems), *prompt_of(rng.randrange(4), rng.randrange(1, 20))]
            n_reply = rng.randrange(1, 14)
            request = ask(prompt, n_reply, rng.choice("abc"), fixed_tokens=rng.randrange(0, len(prompt)))
            submissions.append((engine.submit(request), prompt, n_reply))
        elif event < 0.24 and submissions:
            engine.cancel(rng.choice(submissions)[0])
        elif event < 0.28:
            engine.forget(rng.choice("abc"))
        else:
            engine.step()
    for reply, (_, prompt, n_reply) in zip(
        run(engine, *(pending for pending, _, _ in submissions)), submissions, strict=True
    ):
        expected = greedy(prompt, n_reply)
        assert reply.ids == expected[: len(reply.ids)]
        assert reply.finish_reason == "cancelled" or reply.ids == expected
    assert (engine.queue.n_running, engine.queue.n_waiting, engine.cache.n_open_cells) == (0, 0, 0)
    engine.forget_all()
    assert context.n_used == 0
