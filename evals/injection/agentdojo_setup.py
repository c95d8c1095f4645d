"""AgentDojo in a virtual environment of its own: `python -m evals.injection.agentdojo_setup [FOLDER]`.

It brings the clients of half a dozen providers and pins among them, which must not meet our packages. pip is asked
in the ordinary way, so an index, proxy or cache that the user has configured holds. Besides AgentDojo itself the
packages are pinned that decide its verdicts; the others, providers' clients, are imported and never used.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

from agentkit.errors import UserError
from agentkit.models.catalog.store import cache_dir
from evals.injection.bridge_process import Bridge, BridgeError

VERSION = "0.1.35"
"""The release that the bridge was written against; it uses one private method of it."""
REQUIREMENT = f"agentdojo=={VERSION}"
PINNED = (REQUIREMENT, "deepdiff==9.1.0", "pydantic==2.14.4", "pyyaml==6.0.4")
"""deepdiff compares states, pydantic checks arguments and dumps results, PyYAML writes them for the model."""
BENCHMARK = "v1.2.2"
"""AgentDojo's newest benchmark version; older ones can be chosen."""
BRIDGE = Path(__file__).with_name("agentdojo_bridge.py")
COMMAND = "python -m evals.injection.agentdojo_setup"
DESCRIPTION = "Make a virtual environment with AgentDojo in it."


def default_folder() -> Path:
    """Return where the environment is unless one is named."""
    return cache_dir() / f"agentdojo-{VERSION}"


def python_in(folder: Path) -> Path:
    """Return the interpreter of a virtual environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def bridge_command(python: str | None) -> tuple[str, ...]:
    """Return the command that starts the bridge with `python`, by default that of the set-up environment.

    Raises:
        UserError: there is no such interpreter.
    """
    found = Path(python).expanduser() if python else python_in(default_folder())
    if not found.is_file():
        raise UserError(
            f"AgentDojo's environment has no interpreter at {str(found)!r}. Make one with `{COMMAND}`, or name "
            f"another with the option python=PATH; it must have {REQUIREMENT} installed."
        )
    # -I: no user packages, no PYTHON* variables, and not this package's folder on the path.
    return (str(found), "-I", str(BRIDGE))


def check(command: Sequence[str]) -> dict[str, str]:
    """Return the versions that the bridge reports.

    Raises:
        UserError: the environment cannot run it, or has another release.
    """
    try:
        bridge = Bridge(command)
        try:
            versions = bridge.ask("hello")
        finally:
            bridge.close()
    except BridgeError as error:
        raise UserError(f"{command[0]!r} cannot run AgentDojo: {error}. `{COMMAND}` makes it anew.") from error
    if versions["agentdojo"] != VERSION:
        raise UserError(
            f"{command[0]!r} has agentdojo {versions['agentdojo']}; the bridge needs {VERSION}: "
            f"`{command[0]} -m pip install {' '.join(PINNED)}`."
        )
    return versions


def count_tasks(command: Sequence[str], benchmark: str = BENCHMARK) -> dict[str, int]:
    """Load AgentDojo's suites, and return how many user tasks, injection tasks and pairs of them there are.

    Raises:
        UserError: they cannot be loaded.
    """
    try:
        bridge = Bridge(command)
        try:
            suites = bridge.ask("catalog", version=benchmark)["suites"].values()
        finally:
            bridge.close()
    except BridgeError as error:
        raise UserError(f"{command[0]!r} cannot load AgentDojo's suites: {error}") from error
    counts = [(len(suite["user_tasks"]), len(suite["injection_tasks"])) for suite in suites]
    return {
        "user tasks": sum(users for users, _ in counts),
        "injection tasks": sum(injections for _, injections in counts),
        "pairs": sum(users * injections for users, injections in counts),
    }


def set_up(folder: Path) -> None:
    """Make the environment in `folder` and install what is pinned; an environment that is there is kept.

    Raises:
        UserError: pip failed.
    """
    if not python_in(folder).is_file():
        venv.create(folder, with_pip=True)
    command = (str(python_in(folder)), "-m", "pip", "install", "--disable-pip-version-check", *PINNED)
    if subprocess.run(command, check=False).returncode != 0:
        raise UserError(
            f"pip could not install {REQUIREMENT} into {str(folder)!r}; its messages are above. If the folder is "
            f"a half-made environment, remove it and try again."
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Set up, check, and say where it is."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=DESCRIPTION)
    parser.add_argument("folder", nargs="?", type=Path, default=default_folder(), help="default: %(default)s")
    folder: Path = parser.parse_args(arguments).folder.expanduser()
    try:
        set_up(folder)
        command = bridge_command(str(python_in(folder)))
        versions = check(command)
        counts = count_tasks(command)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"AgentDojo {versions['agentdojo']} on Python {versions['python']}: {python_in(folder)}")
    print(f"benchmark {BENCHMARK}: " + ", ".join(f"{n} {what}" for what, n in counts.items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
