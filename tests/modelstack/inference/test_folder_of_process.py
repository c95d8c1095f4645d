"""Folders in shared memory: locked by their process, deleted after one that was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from modelstack.inference.private_files import folder_of_process

PROGRAM = """
import sys, time
from pathlib import Path
from modelstack.inference.private_files import folder_of_process
print(folder_of_process(Path(sys.argv[1]), "of-a-test-"), flush=True)
time.sleep(100)
"""


def aged(folder: Path) -> Path:
    """Make a folder look old enough to have been locked."""
    long_ago = time.time() - 1_000
    os.utime(folder, (long_ago, long_ago))
    return folder


def test_folders_of_killed_processes_are_deleted_and_those_in_use_are_kept(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        theirs = Path(other.stdout.readline().strip())
        (theirs / "blocks").write_bytes(b"x")
        aged(theirs)
        mine = aged(folder_of_process(tmp_path, "of-a-test-"))
        assert theirs.is_dir() and mine != theirs
        other.send_signal(signal.SIGKILL)
        other.wait()
        new = tmp_path / f"{mine.name[:-8]}unlocked"
        new.mkdir()
        (tmp_path / "of-a-test-link").symlink_to(mine)
        again = folder_of_process(tmp_path, "of-a-test-")
    assert {path.name for path in tmp_path.iterdir()} == {mine.name, new.name, again.name, "of-a-test-link"}
