"""Folders that try to show files of others, to hang or to fill the memory."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from agentkit.skills import SkillRefused, files, read_skill
from agentkit.skills.files import read_files
from tests.agentkit.skills.skill_folders import HELLO, write_skill


@pytest.fixture
def skill(tmp_path: Path) -> Path:
    return write_skill(tmp_path / "skills", files={"scripts/hello.py": HELLO})


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "secret.txt"
    file.write_text("the key", encoding="utf-8")
    return file


def test_files_have_paths_bytes_and_executable_flags(skill: Path) -> None:
    (skill / "scripts/hello.py").chmod(0o755)
    found = read_files(skill).files
    assert [(each.path, each.is_executable) for each in found] == [("SKILL.md", False), ("scripts/hello.py", True)]
    assert found[1].data == HELLO.encode()


def test_the_hash_changes_with_a_byte_a_path_and_the_executable_flag_alone(skill: Path) -> None:
    script = skill / "scripts/hello.py"
    hashes = [read_files(skill).sha256]
    script.touch()
    assert read_files(skill).sha256 == hashes[0]
    for change in (
        lambda: script.write_text(HELLO + "#"),
        lambda: script.chmod(0o755),
        lambda: script.rename(skill / "scripts/hallo.py"),
        lambda: (skill / "new.md").write_text(""),
    ):
        change()
        hashes.append(read_files(skill).sha256)
    assert len(set(hashes)) == 5


def test_version_control_and_caches_are_not_part_of_a_skill(skill: Path) -> None:
    before = read_files(skill).sha256
    for name in (".git", "__pycache__", "scripts/__pycache__"):
        (skill / name).mkdir()
        (skill / name / "x").write_text("x")
    assert read_files(skill).sha256 == before


@pytest.mark.parametrize("path", ["references/key.md", "SKILL.md", "scripts/hello.py"])
def test_a_link_is_refused(path: str, skill: Path, secret: Path) -> None:
    link = skill / path
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(secret)
    assert f"{path!r} is a symbolic link" in read_skill(skill).refusal


def test_a_link_to_a_folder_and_a_link_inside_the_skill_are_refused(skill: Path, tmp_path: Path) -> None:
    (skill / "out").symlink_to(tmp_path)
    assert "'out' is a symbolic link" in read_skill(skill).refusal
    (skill / "out").unlink()
    (skill / "again.py").symlink_to("scripts/hello.py")
    assert "'again.py' is a symbolic link" in read_skill(skill).refusal


def test_the_folder_itself_may_be_a_link(skill: Path, tmp_path: Path) -> None:
    """Installers put skills in one place and link to them."""
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/greeting").symlink_to(skill)
    reading = read_skill(tmp_path / "linked/greeting")
    assert reading.skill is not None and reading.files.sha256 == read_files(skill).sha256


def test_a_hard_link_is_refused(skill: Path, secret: Path) -> None:
    os.link(secret, skill / "notes.md")
    assert "'notes.md' has 2 hard links" in read_skill(skill).refusal


def test_a_fifo_a_socket_and_a_device_are_refused_without_waiting(skill: Path) -> None:
    os.mkfifo(skill / "pipe.md")
    assert "'pipe.md' is a device, a FIFO or a socket" in read_skill(skill).refusal
    (skill / "pipe.md").unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(skill)  # the path of a socket is short
        try:
            listener.bind("talk")
        finally:
            os.chdir(here)
        assert "'talk' is a device" in read_skill(skill).refusal


def test_a_file_that_becomes_a_fifo_while_it_is_opened_is_refused(
    skill: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = skill / "scripts/hello.py"
    opened = os.open

    def swapped(name: str, *args: object, **kwargs: object) -> int:
        if name == "hello.py" and script.is_file():
            script.unlink()
            os.mkfifo(script)
        return opened(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(files.os, "open", swapped)
    monkeypatch.setattr(files.os, "supports_dir_fd", {swapped})
    with pytest.raises(SkillRefused, match="was replaced while it was opened"):
        read_files(skill)


def test_no_read_leaves_the_skill_while_a_folder_is_swapped_for_a_link(skill: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "hello.py").write_text("the key")
    scripts, parked, link = skill / "scripts", tmp_path / "parked", tmp_path / "link"
    link.symlink_to(outside)
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            scripts.rename(parked)
            link.rename(scripts)
            scripts.rename(link)
            parked.rename(scripts)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        n_read = 0
        for _ in range(2_000):
            try:
                found = read_files(skill)
            except SkillRefused:
                continue
            n_read += 1
            assert b"the key" not in b"".join(each.data for each in found.files)
    finally:
        done.set()
        thread.join()
    assert n_read > 0


def test_names_that_a_person_does_not_see_are_refused(skill: Path) -> None:
    (skill / "read\u200bme.md").write_text("x")
    assert "'read\\u200bme.md' has hidden characters" in read_skill(skill).refusal
    (skill / "read\u200bme.md").rename(skill / "two\nlines.md")
    assert "'two\\nlines.md' has hidden characters" in read_skill(skill).refusal


def test_a_name_that_is_not_utf_8_is_refused(skill: Path) -> None:
    with open(os.fsencode(skill) + b"/caf\xe9.md", "wb"):
        pass
    assert "has hidden characters" in read_skill(skill).refusal


def test_sizes_are_bounded(skill: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (skill / "data.bin").open("wb") as file:
        file.truncate(files.MAX_FILE_BYTES + 1)  # no block is written
    assert "'data.bin' is larger than 16 MiB" in read_skill(skill).refusal
    monkeypatch.setattr(files, "MAX_SKILL_BYTES", 1 << 20)
    assert "all files together are larger than 1 MiB" in read_skill(skill).refusal


def test_numbers_and_depths_are_bounded(skill: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = skill / "a/b/c/d/e/f/g/h"
    deep.mkdir(parents=True)
    assert "folders deep; a skill has at most 8" in read_skill(skill).refusal
    deep.rmdir()
    assert read_skill(skill).skill is not None
    monkeypatch.setattr(files, "MAX_FILES", 5)
    assert "more than 5 files and folders" in read_skill(skill).refusal


def test_a_long_skill_file_is_refused(skill: Path) -> None:
    with (skill / "SKILL.md").open("a") as file:
        file.write("x" * (1 << 20))
    assert "SKILL.md has 1,048" in read_skill(skill).refusal


def test_a_folder_that_is_missing_or_closed_is_refused(tmp_path: Path) -> None:
    assert "the folder cannot be opened: No such file" in read_skill(tmp_path / "none").refusal
