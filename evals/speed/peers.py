"""Environments of programs that are measured beside ours: packages that ours must not have, installed once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def peer_python(env: Path, packages: Sequence[str]) -> Path:
    """Return the interpreter of an environment with exactly these packages, made if it is missing or has others.

    Raises:
        CalledProcessError: the packages cannot be installed.
    """
    python, marker = env / "bin" / "python", env / "peers.json"
    wanted = json.dumps(list(packages))
    if not (marker.exists() and marker.read_text(encoding="utf-8") == wanted):
        print(f"installing {', '.join(packages)} into {env} (once) ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(env)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
        marker.write_text(wanted, encoding="utf-8")
    return python
