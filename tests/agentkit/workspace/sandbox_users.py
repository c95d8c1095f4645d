"""Sandboxed commands as two users: the tests' own, and an ordinary one where the tests run as root.

An ordinary user cannot start this process's Python, or read the repository, where they lie in root's home folder.
So the driver of the ordinary user starts in a mount namespace in which such a folder shows nothing but these.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from modelstack.errors import UserError
from modelstack.sandbox.commands import CommandResult, start_command
from modelstack.sandbox.limits import CommandLimits

ORDINARY = 65533
"""Neither root nor "nobody", which root's commands become."""
USERS = ("own", "ordinary") if os.geteuid() == 0 else ("own",)
REPOSITORY = Path(__file__).parents[3]
QUICK = CommandLimits(wall_s=30.0, cpu_s=20, memory_bytes=512 << 20, processes=64)
DRIVER = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); from {__name__} import serve; serve()"


class Sandbox:
    """Runs programs in a folder, as one user."""

    def __init__(self, folder: Path, driver: subprocess.Popen[bytes] | None) -> None:
        self.folder, self._driver = folder, driver

    def run(self, *command: str, limits: CommandLimits = QUICK, **options: Any) -> CommandResult:
        """Run a command to its end."""
        if self._driver is None:
            return start_command(
                command, folder=self.folder, seen_as="/workspace", limits=limits, **options
            ).wait()
        options = {
            key: [str(path) for path in value] if key == "readable" else value for key, value in options.items()
        }
        options["stdin"] = base64.b64encode(options.get("stdin", b"")).decode()
        request = {"command": command, "folder": str(self.folder), "limits": list(limits), "options": options}
        assert self._driver.stdin is not None and self._driver.stdout is not None
        self._driver.stdin.write(json.dumps(request).encode() + b"\n")
        self._driver.stdin.flush()
        found = json.loads(self._driver.stdout.readline())
        found.update({name: base64.b64decode(found[name]) for name in ("stdout", "stderr")})
        return CommandResult(**found)

    def python(self, code: str, *, limits: CommandLimits = QUICK, **options: Any) -> CommandResult:
        """Run Python code to its end."""
        program = textwrap.dedent(code).encode()
        return self.run("python3", "-I", "-S", "-", limits=limits, stdin=program, **options)

    def found(self, code: str, *, limits: CommandLimits = QUICK, **options: Any) -> Any:
        """Return the last line of what Python code prints, which is JSON."""
        result = self.python(code, limits=limits, **options)
        assert result.exit_status == 0, (result.stopped_by, result.signal, result.stderr.decode()[-2000:])
        return json.loads(result.stdout.splitlines()[-1])


def serve() -> None:
    """Answer requests on standard input until it ends."""
    for line in sys.stdin.buffer:
        request = json.loads(line)
        options = request["options"]
        options["stdin"] = base64.b64decode(options["stdin"])
        if "readable" in options:
            options["readable"] = [Path(each) for each in options["readable"]]
        limits = CommandLimits(*request["limits"])
        folder = Path(request["folder"])
        command = start_command(request["command"], folder=folder, seen_as="/workspace", limits=limits, **options)
        found = asdict(command.wait())
        for name in ("stdout", "stderr"):
            found[name] = base64.b64encode(found[name]).decode()
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


def start_driver() -> subprocess.Popen[bytes]:
    """Start a driver as the ordinary user."""
    lines = [
        "set -e",
        f"kept=$(mktemp -d -p {os.environ.get('TMPDIR', '/tmp')})",
        "mount -t tmpfs -o mode=755 tmpfs $kept",
    ]
    closed = [(path, parent) for path in _needed() if (parent := _closed_parent(path))]
    for number, (path, _) in enumerate(closed):
        lines += [f"mkdir $kept/{number}", f"mount --bind {path} $kept/{number}"]
    lines += [f"mount -t tmpfs -o mode=755 tmpfs {parent}" for parent in sorted({parent for _, parent in closed})]
    for number, (path, _) in enumerate(closed):
        lines += [f"mkdir -p {path}", f"mount --bind $kept/{number} {path}"]
    lines.append(f'exec setpriv --reuid {ORDINARY} --regid {ORDINARY} --clear-groups "$@"')
    command = ["unshare", "-m", "sh", "-c", "\n".join(lines), "sh", sys.executable, "-c", DRIVER]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY)


def _needed() -> list[str]:
    """Return the folders that the driver reads, each after those around it."""
    return sorted({os.path.realpath(path) for path in (sys.base_prefix, sys.prefix, REPOSITORY)})


def _closed_parent(path: str) -> str | None:
    """Return the outermost folder above a path that other users may not enter."""
    parents = [parent for parent in reversed(Path(path).parents) if not parent.stat().st_mode & 0o001]
    return str(parents[0]) if parents else None


def make_sandboxes(user: str, folder: Path) -> Iterator[Sandbox]:
    """Yield a sandbox of a user in a folder; skip where the machine has none."""
    try:
        if start_command(["true"], folder=folder).wait().exit_status != 0:
            pytest.fail("the sandbox does not run `true`")
    except UserError as error:
        pytest.skip(str(error))
    if user == "own":
        yield Sandbox(folder, None)
        return
    if not (shutil.which("setpriv") and shutil.which("unshare")):
        pytest.skip("setpriv and unshare of util-linux are needed to become another user")
    os.chown(folder, ORDINARY, ORDINARY)
    driver = start_driver()
    try:
        yield Sandbox(folder, driver)
    finally:
        driver.communicate()
