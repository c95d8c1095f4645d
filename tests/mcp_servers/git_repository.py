"""Repositories for the tests, made by plain git with nothing of the machine's configuration."""

from __future__ import annotations

import functools
import os
import stat
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    **{f"GIT_{role}_NAME": "Ann Lee" for role in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{role}_EMAIL": "ann@example.org" for role in ("AUTHOR", "COMMITTER")},
    "GIT_AUTHOR_DATE": "2026-03-01T10:00:00+01:00",
    "GIT_COMMITTER_DATE": "2026-03-01T10:00:00+01:00",
}


def git(folder: Path, *arguments: str, given: bytes | None = None, check: bool = True) -> str:
    """Run plain git, as a person would."""
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=ENVIRONMENT, input=given, capture_output=True, check=False
    )
    if check and done.returncode:
        raise AssertionError(f"git {arguments}: {done.stderr.decode()}")
    return done.stdout.decode("utf-8", "replace")


def commit_all(folder: Path, message: str) -> str:
    """Commit every file and return the commit."""
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "--allow-empty", "-m", message)
    return git(folder, "rev-parse", "HEAD").strip()


def new_repository(folder: Path) -> Path:
    """Return a repository with two commits: a copy of one that plain git made."""
    for path, content, mode in _made_by_git():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            target.mkdir(exist_ok=True)
        else:
            target.write_bytes(content)
            target.chmod(mode)
    git(folder, "update-index", "-q", "--refresh")  # the index has inodes and times
    return folder


@functools.cache
def _made_by_git() -> tuple[tuple[str, bytes | None, int], ...]:
    """Return path, content (None: a folder) and mode of everything in the repository; ten processes of git."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        git(folder, "init", "-q", "-b", "main")
        (folder / "src").mkdir()
        (folder / "src/main.py").write_text("print('one')\nprint('two')\n")
        (folder / "readme.md").write_text("# Title\n")
        commit_all(folder, "First\n\nThe body.")
        (folder / "src/main.py").write_text("print('one')\nprint('three')\n")
        commit_all(folder, "Second")
        return tuple(
            (
                str(path.relative_to(folder)),
                None if path.is_dir() else path.read_bytes(),
                stat.S_IMODE(path.stat().st_mode),
            )
            for path in sorted(folder.rglob("*"))
        )
