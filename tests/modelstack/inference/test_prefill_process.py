"""A second process reads prompts: replies are the same whether it answers, is late, lies or dies."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelstack.inference.engine import GenerateRequest
from modelstack.inference.pending_reply import PendingReply
from modelstack.inference.state_store import StateStore
from modelstack.inference.streams import Stream
from modelstack.inference.torch import prefill_process as module
from modelstack.inference.torch.engine import TorchEngine
from modelstack.inference.torch.prefill_process import PrefillProcess
from tests.modelstack.inference.stepping import run
from tests.modelstack.inference.torch_engines import engine_of, greedy, prompt_of, request

ROOT = Path(__file__).parents[3]
PROGRAM = """
import sys
from modelstack.inference.state_store import StateStore
from modelstack.inference.torch.prompt_reader import answer_prompts, protocol_streams
with protocol_streams() as (lines, answers):
    from tests.modelstack.inference.torch_engines import engine_of
    store = StateStore(sys.argv[1])
    with engine_of("llama", store=store, stores_conversations=True, max_step_tokens=64) as engine:
        answer_prompts(engine, lines, answers)
"""
N_REPLY = 6


def process(folder: Path) -> PrefillProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return PrefillProcess([sys.executable, "-c", PROGRAM, str(folder)], StateStore(folder), environment)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchEngine]:
    prefill = process(tmp_path_factory.mktemp("shared") / "blocks")
    found = engine_of("llama", prefill=prefill, max_step_tokens=64, n_cached_tokens=1500)
    yield found
    found.close()


def silent(folder: Path) -> PrefillProcess:
    """Return a process that never answers."""
    return PrefillProcess(["sleep", "1000"], StateStore(folder))


def long_prompt(number: int, n_tokens: int = 170) -> list[int]:
    return prompt_of(1000 + number, n_tokens)


def begin(engine: TorchEngine) -> PendingReply[Stream]:
    """Return a reply that is being written, so that prompts are sent away."""
    asked = engine.submit(request(prompt_of(1, 4), 200, conversation="running"))
    while not asked.reply.out.ids:
        engine.step()
    return asked


def asked(number: int, **keys: Any) -> GenerateRequest:
    return request(long_prompt(number), N_REPLY, conversation=str(number), **keys)


def expected(number: int) -> list[int]:
    return greedy("llama", long_prompt(number), N_REPLY)


def away(engine: TorchEngine, number: int) -> PendingReply[Stream]:
    """Submit a request whose prompt goes to the other process."""
    submission = engine.submit(asked(number))
    assert submission.stream is not None and submission.stream.is_away
    return submission


def test_prompts_come_back_in_blocks_while_replies_go_on(engine: TorchEngine) -> None:
    running = begin(engine)
    submissions = [away(engine, number) for number in range(3)]
    n_before = len(running.reply.out.ids)
    replies = run(engine, *submissions)
    assert [reply.ids for reply in replies] == [expected(number) for number in range(3)]
    assert len(running.reply.out.ids) > n_before
    for reply in replies:
        assert reply.stats.restored_tokens == reply.stats.reused_tokens == 168, "whole blocks of four"
        assert reply.stats.prefilled_tokens == 2
    engine.cancel(running)


def test_the_next_turn_of_a_conversation_is_read_from_where_it_was(engine: TorchEngine) -> None:
    running = begin(engine)
    first = run(engine, away(engine, 7))[0]
    prompt = long_prompt(7, 90) + long_prompt(8, 140)
    longer = engine.submit(request(prompt, N_REPLY, conversation="7"))
    assert longer.stream is not None and longer.stream.is_away
    assert run(engine, longer)[0].ids == greedy("llama", prompt, N_REPLY)
    assert first.ids == expected(7)
    short = engine.submit(request([*long_prompt(7), *first.ids, 3, 4], 2, conversation="7"))
    assert short.stream is not None and not short.stream.is_away, "the rest is short"
    run(engine, short)
    engine.cancel(running)


def test_a_prompt_alone_is_read_by_the_engine_itself(engine: TorchEngine) -> None:
    submission = engine.submit(asked(20))
    assert submission.stream is not None and not submission.stream.is_away
    assert run(engine, submission)[0].ids == expected(20)


def test_a_process_that_is_killed_loses_no_request_and_is_started_again(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RESTART_S", 0.0)
    assert engine._prefill is not None
    for number in (30, 31):
        running = begin(engine)
        submissions = [away(engine, number), away(engine, number + 5)]
        pid = engine._prefill.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        replies = run(engine, *submissions)
        assert [reply.ids for reply in replies] == [expected(number), expected(number + 5)]
        engine.cancel(running)
    running = begin(engine)
    reply = run(engine, away(engine, 40))[0]
    assert (reply.ids, reply.stats.restored_tokens) == (expected(40), 168)
    engine.cancel(running)


def test_blocks_that_were_altered_are_not_used(engine: TorchEngine) -> None:
    running = begin(engine)
    submission = away(engine, 50)
    assert engine._prefill is not None
    folder = engine._prefill.store.folder
    before = set(folder.glob("*.kv"))
    while not (new := set(folder.glob("*.kv")) - before):
        time.sleep(0.01)
    for path in new:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    reply = run(engine, submission)[0]
    assert (reply.ids, reply.stats.restored_tokens) == (expected(50), 0)
    engine.cancel(running)


def test_a_late_answer_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "START_S", 0.0)
    monkeypatch.setattr(module, "LEASE_S", 0.0001)
    with engine_of("llama", prefill=silent(tmp_path)) as engine:
        begin(engine)
        assert run(engine, away(engine, 60))[0].ids == expected(60)


def test_a_request_that_is_away_can_be_cancelled_and_the_engine_closed(tmp_path: Path) -> None:
    with engine_of("llama", prefill=silent(tmp_path)) as engine:
        running = begin(engine)
        gone, kept = away(engine, 70), away(engine, 71)
        engine.cancel(gone)
        assert gone.result().finish_reason == "cancelled"
        engine.step()
        engine.check_integrity()
        assert (engine.status.n_running, engine.status.n_waiting) == (1, 1)
        assert engine._prefill is not None
        pid = engine._prefill.pid
    assert running.result().finish_reason == kept.result().finish_reason == "cancelled"
    assert pid is not None and not Path(f"/proc/{pid}").exists()


def test_a_process_that_reads_nothing_holds_nobody_up(tmp_path: Path) -> None:
    with engine_of("llama", prefill=silent(tmp_path)) as engine:
        running = begin(engine)
        waiting = [away(engine, number) for number in range(150)]  # more than a pipe holds
        n_before = len(running.reply.out.ids)
        engine.step()
        assert len(running.reply.out.ids) > n_before
        for submission in waiting:
            engine.cancel(submission)
        engine.check_integrity()


def test_a_program_that_cannot_run_is_the_same_as_none(tmp_path: Path) -> None:
    prefill = PrefillProcess([sys.executable, "-c", "raise SystemExit(3)"], StateStore(tmp_path))
    with engine_of("llama", prefill=prefill) as engine:
        begin(engine)
        submissions = [engine.submit(asked(number)) for number in (80, 81)]
        assert [reply.ids for reply in run(engine, *submissions)] == [expected(80), expected(81)]
        later = engine.submit(asked(82))
        assert later.stream is not None and not later.stream.is_away
        assert run(engine, later)[0].ids == expected(82)


def test_no_request_is_lost_under_random_kills_and_cancellations(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RESTART_S", 0.2)
    rng = random.Random(0)
    open_ones: dict[PendingReply[Stream], int] = {}
    ended = 0
    assert engine._prefill is not None
    for number in range(120):
        submission = engine.submit(asked(number % 40))
        open_ones[submission] = number % 40
        if rng.random() < 0.1:
            engine.cancel(rng.choice(list(open_ones)))
        if rng.random() < 0.05 and engine._prefill.pid is not None:
            os.kill(engine._prefill.pid, signal.SIGKILL)
        for _ in range(rng.randrange(4)):
            engine.step()
            engine.check_integrity()
    run(engine, *open_ones)
    for submission, number in open_ones.items():
        reply = submission.result()
        if reply.finish_reason == "length":
            assert reply.ids == expected(number)
            ended += 1
        else:
            assert reply.finish_reason == "cancelled"
    assert ended > 90
    assert not engine._away and engine.status.n_free_blocks == engine.status.n_blocks
