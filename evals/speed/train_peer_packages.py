"""The peers' packages: an environment of their own, with this environment's torch.

All programs must run on the same torch, or the comparison is of two torches; so the environment sees this one's
packages by a path file, and gets what is missing there, without its dependencies on torch.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

PACKAGES = (
    "litgpt==0.5.13",
    "lightning==2.6.1",
    "lightning-utilities==0.15.3",
    "torchmetrics==1.9.0",
    "jsonargparse==4.41.0",
)
"""litgpt and what its model file imports that training needs nowhere else; the rest is in this environment."""


def peer_python(env: Path) -> Path:
    """Return the interpreter of the peers' environment, made if it is missing.

    Raises:
        subprocess.CalledProcessError: It cannot be made, or the packages cannot be installed.
    """
    python, marker = env / "bin" / "python", env / "peers.json"
    ours = sysconfig.get_path("purelib")
    wanted = json.dumps([*PACKAGES, ours])
    if marker.exists() and marker.read_text(encoding="utf-8") == wanted:
        return python
    print(f"installing {', '.join(PACKAGES)} into {env} (once) ...", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(env)], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--no-deps", *PACKAGES], check=True)
    theirs = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    )
    Path(theirs.stdout.strip(), "training.pth").write_text(ours + "\n", encoding="utf-8")
    marker.write_text(wanted, encoding="utf-8")
    return python
