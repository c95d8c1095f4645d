"""Separate environments of compared programs, whose packages this project must not depend on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def peer_python(env: Path, packages: Sequence[str], unwanted: Sequence[str] = ()) -> Path:
    """Return the interpreter of an environment with exactly these packages; it is created if missing or different.

    Args:
        env: Folder of the environment.
        packages: Packages with their versions, as pip takes them.
        unwanted: Dependencies to uninstall afterwards, because they break the packages.

    Raises:
        CalledProcessError: the packages cannot be installed.
    """
    python, marker = env / "bin" / "python", env / "peers.json"
    wanted = json.dumps([*packages, *(f"without {name}" for name in unwanted)])
    if not (marker.exists() and marker.read_text(encoding="utf-8") == wanted):
        print(f"installing {', '.join(packages)} into {env} (once) ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(env)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
        if unwanted:
            command = [str(python), "-m", "pip", "uninstall", "--quiet", "--yes", *unwanted]
            subprocess.run(command, check=True)
        marker.write_text(wanted, encoding="utf-8")
    return python


def printed_by(python: str | Path, module: str, *arguments: str) -> dict[str, Any]:
    """Run a module of this project in its own process and return the JSON of its last output line.

    Raises:
        RuntimeError: the process failed; the message ends with its error output.
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [str(python), "-m", module, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments)} failed\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])
