"""Folders in shared memory: locked by their process, deleted after one that was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from modelstack.commands.torch_engines import own_folder

PROGRAM = """
import sys, time
from pathlib import Path
from modelstack.commands.torch_engines import own_folder
print(own_folder(Path(sys.argv[1])), flush=True)
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
        mine = aged(own_folder(tmp_path))
        assert theirs.is_dir() and mine != theirs
        other.send_signal(signal.SIGKILL)
        other.wait()
        new = tmp_path / f"{mine.name[:-8]}unlocked"
        new.mkdir()
        again = own_folder(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {mine.name, new.name, again.name}
