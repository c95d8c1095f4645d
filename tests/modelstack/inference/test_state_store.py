"""The store of KV states: what comes back is what was put there, or nothing; whatever a disk or a process does."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from modelstack.inference import private_files, state_store
from modelstack.inference.state_store import StateStore, StoreUsage

KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))
TOKENS = list(range(100, 180))
STATE = np.frombuffer(np.random.default_rng(0).bytes(40_000), dtype=np.uint8)


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    return StateStore(tmp_path / "prompts", 1_000_000)


def only_file(store: StateStore) -> Path:
    [path] = store.folder.glob("*.kv")
    return path


def found(store: StateStore, tokens: list[int] = TOKENS) -> bool:
    state = store.get(KEY, tokens)
    if state is None:
        return False
    assert state.tokens == tokens and np.array_equal(state.state, STATE)
    return True


def test_a_state_comes_back_in_another_process_s_store(store: StateStore) -> None:
    assert store.get(KEY, TOKENS) is None
    assert store.put(KEY, TOKENS, STATE)
    again = StateStore(store.folder, 1_000_000)
    assert found(again) and again.has(KEY, TOKENS)
    assert again.usage() == StoreUsage(1, only_file(store).stat().st_size)


def test_other_tokens_and_other_keys_have_no_state(store: StateStore) -> None:
    store.put(KEY, TOKENS, STATE)
    assert store.get(KEY, TOKENS[:-1]) is None and store.get(OTHER_KEY, TOKENS) is None
    assert store.closest(OTHER_KEY, TOKENS, 1) is None
    assert found(store)


def test_the_longest_shared_beginning_wins(store: StateStore) -> None:
    for tokens in (TOKENS[:40], [*TOKENS[:60], 7, 7], [*TOKENS[:50], 8], [9, *TOKENS]):
        store.put(KEY, tokens, STATE)
    closest = store.closest(KEY, TOKENS, 30)
    assert closest is not None and closest.tokens == [*TOKENS[:60], 7, 7]
    assert store.closest(KEY, TOKENS, 61) is None


def test_a_damaged_closest_state_leaves_the_next_one(store: StateStore) -> None:
    store.put(KEY, [*TOKENS[:60], 7], STATE)
    damage(only_file(store), -1)
    store.put(KEY, TOKENS[:40], STATE)
    closest = store.closest(KEY, TOKENS, 30)
    assert closest is not None and closest.tokens == TOKENS[:40]
    assert store.usage().n_states == 1


def test_folder_and_files_are_private(store: StateStore) -> None:
    store.folder.mkdir(mode=0o755)
    store.put(KEY, TOKENS, STATE)
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in store.folder.iterdir()} == {0o600}


# -- bad files --------------------------------------------------------------------------------------------------


def damage(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def claim(path: Path, offset: int, number: int) -> None:
    """Write a huge number into the head."""
    content = bytearray(path.read_bytes())
    content[offset : offset + 4] = number.to_bytes(4, "little")
    path.write_bytes(content)


BAD: dict[str, Callable[[Path], object]] = {
    "magic": lambda path: damage(path, 0),
    "key": lambda path: damage(path, 8 + 31),
    "token": lambda path: damage(path, 52 + 4 * 79),
    "state": lambda path: damage(path, 30_000),
    "hash": lambda path: damage(path, -1),
    "cut": lambda path: os.truncate(path, 20_000),
    "cut in the head": lambda path: os.truncate(path, 20),
    "empty": lambda path: os.truncate(path, 0),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "four billion tokens": lambda path: claim(path, 40, 0xFFFFFFFF),
    "no token": lambda path: claim(path, 40, 0),
    "huge state": lambda path: claim(path, 48, 0xFFFFFFFF),
    "another file": lambda path: path.write_bytes(os.urandom(50_000)),
    "writable by all": lambda path: path.chmod(0o666),
    "writable by a group": lambda path: path.chmod(0o620),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("is_exact", [True, False])
def test_a_bad_file_is_no_state_and_is_removed(store: StateStore, kind: str, is_exact: bool) -> None:
    store.put(KEY, TOKENS, STATE)
    path = only_file(store)
    BAD[kind](path)
    assert (store.get(KEY, TOKENS) if is_exact else store.closest(KEY, TOKENS, 30)) is None
    assert not path.exists()
    assert store.put(KEY, TOKENS, STATE) and found(store)


def test_a_state_under_the_name_of_other_tokens_is_refused(store: StateStore) -> None:
    store.put(KEY, TOKENS, STATE)
    path = only_file(store)
    store.put(KEY, TOKENS[:-1], STATE)
    [other] = set(store.folder.glob("*.kv")) - {path}
    os.replace(path, other)
    assert store.get(KEY, TOKENS[:-1]) is None and not other.exists()


def test_a_link_is_refused_and_removed_and_its_target_stays(store: StateStore, tmp_path: Path) -> None:
    store.put(KEY, TOKENS, STATE)
    target = tmp_path / "elsewhere"
    os.replace(only_file(store), target)
    store.put(KEY, TOKENS, STATE)
    path = only_file(store)
    path.unlink()
    path.symlink_to(target)
    assert store.get(KEY, TOKENS) is None
    assert not path.is_symlink() and target.is_file()


def test_a_pipe_under_the_name_of_a_state_blocks_nobody(store: StateStore) -> None:
    store.put(KEY, TOKENS, STATE)
    path = only_file(store)
    path.unlink()
    os.mkfifo(path)
    assert store.get(KEY, TOKENS) is None and not path.exists()


def test_a_folder_that_others_can_write_or_that_is_a_link_is_not_used(store: StateStore, tmp_path: Path) -> None:
    store.put(KEY, TOKENS, STATE)
    store.folder.chmod(0o777)
    assert store.get(KEY, TOKENS) is None and store.usage().n_states == 0
    store.folder.chmod(0o700)
    link = StateStore(tmp_path / "link", 1_000_000)
    link.folder.symlink_to(store.folder)
    assert link.get(KEY, TOKENS) is None and not link.put(KEY, TOKENS[:-1], STATE)
    assert found(store)


def test_a_file_in_the_place_of_the_folder_is_an_empty_store(store: StateStore) -> None:
    store.folder.write_text("")
    assert store.get(KEY, TOKENS) is None and not store.put(KEY, TOKENS, STATE)
    assert store.clear() == StoreUsage(0, 0)


# -- size -------------------------------------------------------------------------------------------------------


def test_the_state_used_longest_ago_makes_room(store: StateStore) -> None:
    small = StateStore(store.folder, 3 * 41_000)
    for n, tokens in enumerate((TOKENS[:50], TOKENS[:60], TOKENS[:70])):
        small.put(KEY, tokens, STATE)
        os.utime(small._path(KEY, tokens), (n, n))
    assert found(small, TOKENS[:50])  # used now
    assert small.put(KEY, TOKENS, STATE)
    assert small.get(KEY, TOKENS[:60]) is None
    assert all(found(small, tokens) for tokens in (TOKENS[:50], TOKENS[:70], TOKENS))
    assert small.usage().n_bytes <= small.max_bytes


def test_a_state_larger_than_the_store_is_not_stored_and_removes_nothing(store: StateStore) -> None:
    store.put(KEY, TOKENS, STATE)
    assert not StateStore(store.folder, 10_000).put(KEY, TOKENS[:-1], STATE)
    assert found(store)


def test_the_number_of_files_is_bounded(store: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_store, "MAX_FILES", 3)
    for n in range(40, 50):
        store.put(KEY, TOKENS[:n], STATE[:10])
    assert store.usage().n_states == 3


def test_clearing_leaves_nothing_that_was_written(store: StateStore) -> None:
    store.put(KEY, TOKENS, STATE)
    (store.folder / ".write-left").write_text("half")
    assert store.clear().n_states == 1
    assert [path.name for path in store.folder.iterdir()] == [".lock"]


def test_a_store_without_room_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="max_bytes is 0"):
        StateStore("anywhere", 0)


# -- disks and processes ----------------------------------------------------------------------------------------


def test_a_read_only_folder_still_serves(store: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put(KEY, TOKENS, STATE)

    def refuse(*_arguments: object, **_options: object) -> None:
        raise PermissionError(13, "read-only")

    for name in ("utime", "replace", "unlink", "chmod", "mkdir"):  # root may write whatever a mode says
        monkeypatch.setattr(os, name, refuse)
    monkeypatch.setattr(state_store, "locked", refuse)
    assert found(store)
    assert not store.put(KEY, TOKENS[:-1], STATE)
    store.clear()
    assert found(store)


WRITER = """
import sys, numpy as np
from modelstack.inference.state_store import StateStore
store = StateStore(sys.argv[1], 1 << 30)
tokens = list(range(100, 180))
{body}
"""


def process(store: StateStore, body: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER.format(body=body), str(store.folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_full_disk_leaves_nothing_behind(store: StateStore) -> None:
    """A limit on the size of files fails a write in the middle, as a full disk does."""
    body = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
    body += f"print(store.put({KEY!r}, tokens, np.zeros(40_000, np.uint8)))"
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    writer = process(store, body)
    assert writer.communicate()[0].strip() == "False" and writer.returncode == 0
    assert [path.name for path in store.folder.iterdir()] == [".lock"]


def test_a_process_killed_while_writing_leaves_no_state_and_its_leftover_goes(store: StateStore) -> None:
    body = "import os, signal\nfrom modelstack.inference import private_files\n"
    body += "private_files.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
    body += f"store.put({KEY!r}, tokens, np.zeros(40_000, np.uint8))"
    writer = process(store, body)
    writer.communicate()
    assert writer.returncode == -signal.SIGKILL
    assert len(list(store.folder.glob(".write-*"))) == 1 and store.usage().n_states == 0
    assert store.get(KEY, TOKENS) is None
    assert store.put(KEY, TOKENS, STATE) and found(store)
    assert not list(store.folder.glob(".write-*"))


def test_processes_that_write_and_read_at_once_see_whole_states_only(store: StateStore) -> None:
    body = f"""
for n in range(60):
    assert store.put({KEY!r}, tokens, np.full(40_000, 5, np.uint8))
    found = store.get({KEY!r}, tokens)
    assert found is not None and (found.state == 5).all()
print("done")
"""
    writers = [process(store, body) for _ in range(3)]
    assert [writer.communicate()[0].strip() for writer in writers] == ["done"] * 3
    assert store.usage().n_states == 1


def test_a_reader_waits_for_no_writer_and_a_writer_gives_up(
    store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(KEY, TOKENS, STATE)
    monkeypatch.setattr(private_files, "LOCK_WAIT_S", 0.05)
    hold = """
import signal
from modelstack.inference.private_files import locked
with locked(store.folder):
    print("held", flush=True)
    signal.pause()
"""
    with process(store, hold) as holder:
        assert holder.stdout is not None and holder.stdout.readline().strip() == "held"
        assert found(store)
        assert not store.put(KEY, TOKENS[:-1], STATE)
        holder.kill()
    assert store.put(KEY, TOKENS[:-1], STATE)
