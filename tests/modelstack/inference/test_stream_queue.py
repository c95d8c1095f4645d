"""Streams: none is lost, none starves, and the blocks add up after any sequence of steps."""

from __future__ import annotations

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from modelstack.inference.blocks import BlockPool
from modelstack.inference.scheduler import StepLimits
from modelstack.inference.streams import StepRow, Stream, StreamQueue

B = 4


def queue_of(n_blocks: int = 16, max_rows: int = 4, max_tokens: int = 16) -> StreamQueue:
    return StreamQueue(BlockPool(n_blocks, B), StepLimits(max_rows, max_tokens))


class Replies:
    """Streams with the lengths that their replies will have; evaluates a step like an engine.

    The memory holds for each slot the tokens that its key and value depend on.
    """

    def __init__(self, queue: StreamQueue, alphabet: int = 2, seed: int = 0, *, drafts: bool = False) -> None:
        self.queue, self.drafts = queue, drafts
        self.memory: dict[tuple[int, int], int] = {}
        self.n_accepted = 0
        self.longest: dict[Stream, int] = {}
        self.finished: list[Stream] = []
        self.rng = random.Random(seed)
        self.alphabet = alphabet
        self.n_evaluated: dict[Stream, int] = {}

    def submit(self, n_prompt: int, n_reply: int, *, priority: int = 0) -> Stream:
        prompt = [self.rng.randrange(self.alphabet) for _ in range(n_prompt)]
        stream = self.queue.submit(prompt, n_prompt + n_reply, priority=priority)
        self.longest[stream] = n_prompt + n_reply
        return stream

    def step(self) -> list[Stream]:
        rows = self.queue.next_step()
        assert sum(row.n_evaluated for row in rows) <= self.queue.limits.max_tokens
        assert len({row.stream for row in rows}) == len(rows)
        for row in rows:
            assert row.stream.table.n_tokens == row.start + row.n_tokens
            assert len(row.stream.table.blocks) * B >= row.stream.table.n_tokens + len(row.draft)
            self._evaluate(row)
        self.queue.settle(rows)
        for row in rows:
            self.n_evaluated[row.stream] = self.n_evaluated.get(row.stream, 0) + row.n_tokens
            if row.is_last:
                written = self._written(row)
                self.queue.extend(row.stream, written)
                self.n_accepted += len(written) - 1
                if len(row.stream.tokens) == self.longest[row.stream]:
                    self.queue.remove(row.stream)
                    self.finished.append(row.stream)
                elif self.drafts and self.rng.random() < 0.7:
                    n_left = self.longest[row.stream] - len(row.stream.tokens) - 1
                    draft = [self.rng.randrange(self.alphabet) for _ in range(self.rng.randrange(9))]
                    row.stream.draft = draft[:n_left]
            self._verify(row.stream)
        return [row.stream for row in rows]

    def _evaluate(self, row: StepRow) -> None:
        blocks, known = row.stream.table.blocks, [*row.stream.tokens[: row.start], *row.ids]
        for place in range(row.start, len(known)):
            self.memory[blocks[place // B], place % B] = hash(tuple(known[: place + 1]))

    def _verify(self, stream: Stream) -> None:
        for place in range(stream.table.n_tokens):
            held = self.memory[stream.table.blocks[place // B], place % B]
            assert held == hash(tuple(stream.tokens[: place + 1])), "a slot holds another token's key"

    def _written(self, row: StepRow) -> list[int]:
        """Return a token, and more as long as they follow the draft."""
        written = [self.rng.randrange(self.alphabet)]
        while len(written) <= len(row.draft) and written == row.draft[: len(written)]:
            written.append(self.rng.randrange(self.alphabet))
        return written

    def run(self, limit: int = 10_000) -> None:
        for _ in range(limit):
            if not len(self.queue):
                return
            self.step()
            self.queue.check()
        raise AssertionError(f"{len(self.queue)} streams are left after {limit} steps")


def test_streams_start_and_leave_the_batch_at_any_step() -> None:
    replies = Replies(queue_of(64))
    first = replies.submit(5, 3)
    assert replies.step() == [first]
    second = replies.submit(5, 8)
    assert replies.step() == [first, second]
    replies.run()
    assert replies.finished == [first, second]
    assert replies.queue.pool.n_free == 64


def test_equal_prompts_of_one_step_are_evaluated_once() -> None:
    replies = Replies(queue_of(64, max_tokens=64), alphabet=1)
    streams = [replies.submit(14, 3) for _ in range(4)]
    replies.step()
    assert [replies.n_evaluated[stream] for stream in streams] == [14, 2, 2, 2]
    assert [stream.n_reused for stream in streams] == [0, 12, 12, 12]
    replies.run()


def test_the_first_in_line_is_not_overtaken_by_a_smaller_one() -> None:
    replies = Replies(queue_of(16))
    blocking = replies.submit(30, 8)
    for _ in range(2):  # a step reads 16 tokens of the prompt
        replies.step()
    large, small = replies.submit(40, 2), replies.submit(2, 2)
    assert replies.step() == [blocking]  # the small one would fit
    replies.run()
    assert set(replies.finished) == {blocking, large, small}


def test_a_preempted_stream_goes_on_with_its_own_tokens_and_most_of_its_blocks() -> None:
    replies = Replies(queue_of(10, max_tokens=40), alphabet=1000)
    first, second = replies.submit(16, 22), replies.submit(14, 22)
    replies.run()
    assert replies.finished == [first, second]
    assert (first.n_preempted, second.n_preempted) == (0, 1)
    assert replies.n_evaluated[first] == 16 + 22 - 1
    assert 14 + 22 - 1 <= replies.n_evaluated[second] < 2 * (14 + 22)


def test_an_urgent_stream_takes_the_place_of_a_less_urgent_one() -> None:
    replies = Replies(queue_of(64, max_rows=2), alphabet=1000)
    first, second = replies.submit(6, 20), replies.submit(6, 20)
    replies.step()
    replies.submit(6, 2)
    assert set(replies.step()) == {first, second}
    urgent = replies.submit(6, 2, priority=1)
    assert set(replies.step()) == {first, urgent}
    replies.run()
    assert replies.finished[0] is urgent
    assert (first.n_preempted, second.n_preempted) == (0, 1)


def test_no_stream_starves_behind_a_flood_of_urgent_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelstack.inference.scheduler.PRIORITY_LEAD", 20)
    replies = Replies(queue_of(8, max_rows=1))
    patient = replies.submit(4, 4)
    n_urgent = 0
    while patient not in replies.finished and n_urgent < 200:
        replies.submit(3, 2, priority=1)
        replies.step()
        n_urgent += 1
    assert 20 < n_urgent < 200


def test_cancelling_at_any_step_frees_exactly_its_blocks() -> None:
    for n_steps in range(12):
        replies = Replies(queue_of(20), alphabet=1000)
        kept, gone = replies.submit(9, 6), replies.submit(21, 6)
        for _ in range(n_steps):
            replies.step()
        held = set(gone.table.blocks) - set(kept.table.blocks)
        free = replies.queue.pool.n_free
        replies.queue.remove(gone)
        replies.queue.remove(gone)
        assert replies.queue.pool.n_free == free + len(held)
        replies.queue.check()
        replies.run()
        assert kept in replies.finished


def test_a_failed_step_returns_all_streams_to_the_line_and_forgets_what_it_might_have_written() -> None:
    replies = Replies(queue_of(20))
    streams = [replies.submit(9, 4) for _ in range(3)]
    replies.queue.next_step()
    replies.queue.fail()
    replies.queue.check()
    assert (replies.queue.n_waiting, replies.queue.n_running) == (3, 0)
    assert (replies.queue.pool.n_free, replies.queue.pool.n_cached) == (20, 0)
    replies.run()
    assert set(replies.finished) == set(streams)


@pytest.mark.parametrize(("n_blocks", "max_tokens", "n_drafted"), [(9, 6, 5), (2, 32, 2), (9, 32, 8)])
def test_a_draft_takes_only_tokens_and_blocks_that_are_left_over(
    n_blocks: int, max_tokens: int, n_drafted: int
) -> None:
    replies = Replies(queue_of(n_blocks, max_tokens=max_tokens), alphabet=1000)
    stream = replies.submit(5, 3)
    replies.step()
    stream.draft = list(range(8))
    (row,) = replies.queue.next_step()
    assert (row.start, row.n_tokens, row.draft) == (5, 1, list(range(n_drafted)))


def test_what_can_never_run_is_refused() -> None:
    queue = queue_of(4)
    with pytest.raises(ValueError, match="a stream of 17 tokens needs 5 blocks of 4; there are 4"):
        queue.submit([1, 2], 17)
    with pytest.raises(ValueError, match="at least one token"):
        queue.submit([], 4)
    stream = queue.submit([1], 16)
    queue.next_step()
    with pytest.raises(ValueError, match="stream 0 has no token to evaluate"):
        queue.next_step()
    queue.remove(stream)
    assert queue.next_step() == []


@pytest.mark.parametrize("drafts", [False, True], ids=["plain", "drafts"])
def test_ten_thousand_random_steps_lose_no_stream_and_no_block(drafts: bool) -> None:
    rng = random.Random(1)
    replies = Replies(queue_of(24, max_rows=5, max_tokens=20 if drafts else 12), seed=2, drafts=drafts)
    cancelled: set[Stream] = set()
    n_preempted = n_failed = 0
    for _ in range(10_000):
        action = rng.random()
        if action < 0.25 and len(replies.queue) < 12:
            replies.submit(rng.randrange(1, 40), rng.randrange(1, 50), priority=rng.choice((-1, 0, 0, 0, 1)))
        elif action < 0.28 and len(replies.queue):
            alive = [s for s in replies.longest if s not in cancelled and s not in replies.finished[-200:]]
            gone = rng.choice(alive[-12:])
            if gone not in replies.finished:
                replies.queue.remove(gone)
                cancelled.add(gone)
        elif action < 0.281:
            replies.queue.next_step()
            replies.queue.fail()
            n_failed += 1
        else:
            replies.step()
        replies.queue.check()
    replies.run()
    finished = set(replies.finished)
    assert len(finished) == len(replies.finished)
    assert finished | cancelled == set(replies.longest) and not finished & cancelled
    assert all(len(stream.tokens) == replies.longest[stream] for stream in finished)
    assert replies.queue.pool.n_free == 24
    n_preempted = sum(stream.n_preempted for stream in replies.longest)
    assert min(n_preempted, len(finished), len(cancelled), n_failed) > 3
    assert (replies.n_accepted > 1000) == drafts


class AnySteps(RuleBasedStateMachine):
    """Any order of submissions, steps, cancellations and failures."""

    def __init__(self) -> None:
        super().__init__()
        self.replies = Replies(queue_of(12, max_rows=3, max_tokens=7), drafts=True)
        self.alive: list[Stream] = []

    @rule(n_prompt=st.integers(1, 30), n_reply=st.integers(1, 18), priority=st.integers(-1, 1))
    def submit(self, n_prompt: int, n_reply: int, priority: int) -> None:
        self.alive.append(self.replies.submit(n_prompt, n_reply, priority=priority))

    @rule(n=st.integers(1, 6))
    def step(self, n: int) -> None:
        for _ in range(n):
            self.replies.step()
        self.alive = [stream for stream in self.alive if stream not in self.replies.finished]

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        stream = data.draw(st.sampled_from(self.alive))
        self.alive.remove(stream)
        self.replies.queue.remove(stream)

    @rule()
    def fail(self) -> None:
        self.replies.queue.next_step()
        self.replies.queue.fail()

    @invariant()
    def nothing_is_lost(self) -> None:
        self.replies.queue.check()
        assert len(self.replies.queue) == len(self.alive)

    def teardown(self) -> None:
        self.replies.run()
        assert self.replies.queue.pool.n_free == 12


TestAnySteps = AnySteps.TestCase
TestAnySteps.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
