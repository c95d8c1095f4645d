"""Clients of protocols from npm, installed on first use; without npm or its registry their tests are skipped."""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import anyio.to_thread
import platformdirs
import pytest

HERE = Path(__file__).parent


@cache
def _folder(package: str, version: str) -> Path:
    if shutil.which("npm") is None:
        pytest.skip(f"npm is not installed; it brings the protocol's own client, {package}")
    folder = Path(platformdirs.user_cache_dir("agentkit")) / f"{package.replace('/', '-')}-{version}"
    if not (folder / "node_modules" / package).is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text('{"private": true}')
        command = ["npm", "install", "--silent", "--no-audit", "--no-fund", f"{package}@{version}"]
        installed = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
        if installed.returncode:
            pytest.skip(f"npm cannot install {package}: {installed.stderr[-300:]}")
    return folder


async def printed_by(program: str, package: str, version: str, *arguments: str) -> Any:
    """Return the JSON that a program of this folder prints, run by node beside a package."""
    folder = _folder(package, version)
    shutil.copy(HERE / program, folder)  # node looks for packages beside the program

    def run() -> subprocess.CompletedProcess[str]:
        command = ["node", program, *arguments]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)

    done = await anyio.to_thread.run_sync(run)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
