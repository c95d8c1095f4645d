"""Environment of the peers' packages, which uses the current environment's torch.

All programs must run on the same torch, otherwise two versions of torch are compared. The environment therefore
sees the current environment's packages through a path file, and installs only missing packages, without their
dependency on torch.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

PACKAGES = (
    "litgpt==0.5.13",
    "lightning==2.6.1",
    "lightning-utilities==0.15.3",
    "torchmetrics==1.9.0",
    "jsonargparse==4.41.0",
)
"""litgpt and the additional imports of its model file; all other packages come from the current environment."""


def peer_python(env: Path, packages: Sequence[str] = PACKAGES, *, with_dependencies: bool = False) -> Path:
    """Return the interpreter of the peers' environment, which is created if missing.

    Args:
        env: Folder of the environment.
        packages: Packages with their versions, as pip takes them.
        with_dependencies: Whether pip also installs what they need and the current environment lacks.

    Raises:
        subprocess.CalledProcessError: the environment cannot be created, or the packages cannot be installed.
    """
    python, marker = env / "bin" / "python", env / "peers.json"
    ours = sysconfig.get_path("purelib")
    wanted = json.dumps([*packages, ours])
    if marker.exists() and marker.read_text(encoding="utf-8") == wanted:
        return python
    print(f"installing {', '.join(packages)} into {env} (once) ...", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(env)], check=True)
    theirs = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    )
    Path(theirs.stdout.strip(), "training.pth").write_text(ours + "\n", encoding="utf-8")
    # After the path file: pip counts the current environment's packages as installed.
    needed = [f"torch=={version('torch')}"] if with_dependencies else ["--no-deps"]
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *needed, *packages], check=True)
    marker.write_text(wanted, encoding="utf-8")
    return python
