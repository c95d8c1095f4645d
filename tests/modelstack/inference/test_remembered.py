"""Facts kept between processes: believed only while the file, the machine and the day are the same."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from modelstack.inference import remembered
from modelstack.inference.llama import measuring
from modelstack.inference.llama.engine import LlamaCppEngine
from modelstack.inference.llama.threads import ThreadCounts
from modelstack.inference.remembered import RememberedFacts
from modelstack.inference.state_store import StateStore


@pytest.fixture
def facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RememberedFacts:
    monkeypatch.setattr(remembered, "SETTLED_NS", 0)
    return RememberedFacts(tmp_path / "facts")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    return path


def facts_file(tmp_path: Path) -> Path:
    return tmp_path / "facts" / remembered.FILE_NAME


def test_a_hash_is_known_once_it_was_computed(facts: RememberedFacts, file: Path, tmp_path: Path) -> None:
    assert facts.sha256(file) is None
    digest = hashlib.sha256(b"one").hexdigest()
    assert facts.learn_sha256(file) == digest
    assert facts.sha256(file) == RememberedFacts(tmp_path / "facts").sha256(file) == digest
    assert stat.S_IMODE(facts_file(tmp_path).stat().st_mode) == 0o600


def test_a_changed_file_is_hashed_again_even_under_its_old_times(facts: RememberedFacts, file: Path) -> None:
    facts.learn_sha256(file)
    before = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert facts.sha256(file) is None
    assert facts.learn_sha256(file) == hashlib.sha256(b"two").hexdigest()


def test_a_file_that_changed_just_now_is_not_remembered(
    facts: RememberedFacts, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "SETTLED_NS", 10**12)
    assert facts.learn_sha256(file) == hashlib.sha256(b"one").hexdigest()
    monkeypatch.setattr(remembered, "SETTLED_NS", 0)
    assert facts.sha256(file) is None


@pytest.mark.parametrize("content", ["", "[", "[1]", "null", "[" * 100_000, '{"a": "b"}', "\\xff"])
def test_damaged_facts_are_unknown_and_replaced(
    facts: RememberedFacts, file: Path, tmp_path: Path, content: str
) -> None:
    facts.learn_sha256(file)
    facts_file(tmp_path).write_text(content)
    assert facts.sha256(file) is None
    facts.learn_sha256(file)
    assert facts.sha256(file) is not None


@pytest.mark.parametrize("value", [None, 3, "short", ["a"], {}])
def test_a_value_that_is_no_hash_is_unknown(
    facts: RememberedFacts, file: Path, tmp_path: Path, value: object
) -> None:
    facts.learn_sha256(file)
    known = json.loads(facts_file(tmp_path).read_text())
    facts_file(tmp_path).write_text(json.dumps(dict.fromkeys(known, value)))
    assert facts.sha256(file) is None


def test_facts_that_others_could_have_written_are_not_believed(
    facts: RememberedFacts, file: Path, tmp_path: Path
) -> None:
    facts.learn_sha256(file)
    facts_file(tmp_path).chmod(0o666)
    assert facts.sha256(file) is None


def test_the_oldest_facts_are_dropped(facts: RememberedFacts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "MAX_FACTS", 3)
    for name in "abcd":
        facts.learn_threads(name, ThreadCounts(1, 2))
    assert [facts.threads(name) is not None for name in "abcd"] == [False, True, True, True]


def test_what_several_threads_learn_at_once_is_all_kept(facts: RememberedFacts, tmp_path: Path) -> None:
    keys = [bytes([index]) * 32 for index in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: RememberedFacts(tmp_path / "facts").learn_invariance(key, True), keys))
    assert all(facts.invariance(key) for key in keys)


def test_thread_counts_hold_for_a_day(facts: RememberedFacts, monkeypatch: pytest.MonkeyPatch) -> None:
    facts.learn_threads("here", ThreadCounts(decode=2, prefill=4))
    assert facts.threads("here") == ThreadCounts(decode=2, prefill=4)
    assert facts.threads("there") is None
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 25 * 3600)
    assert facts.threads("here") is None
    monkeypatch.setattr(time, "time", lambda: now - 3600)  # a clock that was put back
    assert facts.threads("here") is None


@pytest.mark.parametrize("value", [[0, 1, 1e9], [1, "2", 1e9], [1, 2], "1 2", [1, 99999, 1e9], None])
def test_thread_counts_that_make_no_sense_are_unknown(
    facts: RememberedFacts, tmp_path: Path, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts.learn_threads("here", ThreadCounts(1, 2))
    facts_file(tmp_path).write_text(json.dumps({"threads here": value}))
    monkeypatch.setattr(time, "time", lambda: 1e9 + 1)
    assert facts.threads("here") is None


@pytest.mark.parametrize(
    ("loadavg", "is_idle"),
    [
        ("0.10 0.20 0.30 1/200 4711", True),
        ("1.40 0.20 0.30 1/200 4711", True),
        ("1.60 0.20 0.30 1/200 4711", False),
        ("0.10 0.20 0.30 2/200 4711", False),
        ("0.00 0.00 0.00 0/0 0", False),
        ("", False),
    ],
)
def test_two_cores_are_idle_if_nothing_else_runs_now_and_little_did(
    monkeypatch: pytest.MonkeyPatch, loadavg: str, is_idle: bool
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_arguments, **_options: loadavg)
    assert remembered.is_idle(2) == is_idle


def test_an_idle_machine_measures_thread_counts_once(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []
    measure = measuring._measure_threads
    monkeypatch.setattr(measuring, "_measure_threads", lambda *given: measured.append(1) or measure(*given))
    for is_idle, n_measured in ((False, 1), (False, 2), (True, 3), (True, 3), (False, 4)):
        monkeypatch.setattr(measuring, "is_idle", lambda _cores, idle=is_idle: idle)
        with LlamaCppEngine(tiny_gguf, states=StateStore(tmp_path / "facts")) as engine:
            assert engine.threads.decode >= 1
        assert len(measured) == n_measured
