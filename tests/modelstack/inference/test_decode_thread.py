"""llama.cpp and PyTorch share a process where both use AMX; without AMX the same holds of any thread."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path

import pytest

from modelstack.inference.llama.decode_thread import DecodeThread

BETWEEN_TWO_REPLIES = """
import sys
from pathlib import Path

import torch

from modelstack.inference.engine import GenerateRequest
from modelstack.inference.llama.engine import LlamaCppEngine

with LlamaCppEngine(Path(sys.argv[1]), context_window=512, n_threads=1) as engine:
    ids = engine.vocabulary.encode("The quick brown fox jumps over the lazy dog.")
    replies = []
    for _ in range(3):
        engine.forget("default")
        replies.append(engine.generate(GenerateRequest(ids, 4)).logprobs)
        square = torch.ones(256, 256, dtype=torch.bfloat16)
        assert (square @ square == 256).all()
print(replies[0] == replies[1] == replies[2])
"""


def test_products_of_torch_between_replies_change_nothing(smollm2_gguf: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BETWEEN_TWO_REPLIES, str(smollm2_gguf)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr[-2000:]


def test_all_calls_are_on_one_thread_that_is_not_the_callers() -> None:
    seen: list[int] = []
    call = DecodeThread(lambda code: seen.append(threading.get_ident()) or code)
    assert [call(0), call(1)] == [0, 1]
    assert len(set(seen)) == 1
    assert seen[0] != threading.get_ident()
    call.close()
    call.close()


def test_an_interrupted_caller_waits_for_the_end_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    may_end, ended = threading.Event(), threading.Event()

    def decode() -> int:
        may_end.wait()
        ended.set()
        return 0

    def interrupted(self: Future[int], timeout: float | None = None) -> int:
        threading.Timer(0.05, may_end.set).start()
        raise KeyboardInterrupt

    call = DecodeThread(decode)
    with monkeypatch.context() as patch:
        patch.setattr(Future, "result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            call()
    assert ended.is_set()
    call.close()
