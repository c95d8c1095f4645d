"""Creates AgentDojo's own virtual environment: `python -m evals.injection.agentdojo_setup [FOLDER]`.

AgentDojo requires the clients of several providers and pins their versions, which must not affect this project's
packages. pip is called without special options, so an index, proxy or cache configured by the user applies. Pinned
are AgentDojo and the packages that affect its verdicts; the providers' clients are imported but never used.
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
"""Release for which the bridge was written; the bridge uses one of its private methods."""
REQUIREMENT = f"agentdojo=={VERSION}"
PINNED = (REQUIREMENT, "deepdiff==9.1.0", "pydantic==2.14.4", "pyyaml==6.0.4")
"""deepdiff compares states, pydantic validates arguments and dumps results, PyYAML formats results for the
model."""
BENCHMARK = "v1.2.2"
"""AgentDojo's newest benchmark version; older ones can be selected."""
BRIDGE = Path(__file__).with_name("agentdojo_bridge.py")
COMMAND = "python -m evals.injection.agentdojo_setup"
DESCRIPTION = "Create a virtual environment with AgentDojo."


def default_folder() -> Path:
    """Return the default folder of the environment."""
    return cache_dir() / f"agentdojo-{VERSION}"


def python_in(folder: Path) -> Path:
    """Return the interpreter of a virtual environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def bridge_command(python: str | None) -> tuple[str, ...]:
    """Return the command that starts the bridge with `python`.

    Default: the interpreter of the created environment.

    Raises:
        UserError: the interpreter does not exist.
    """
    found = Path(python).expanduser() if python else python_in(default_folder())
    if not found.is_file():
        raise UserError(
            f"AgentDojo's environment has no interpreter at {str(found)!r}. Create it with `{COMMAND}`, or name "
            f"another with the option python=PATH; it must have {REQUIREMENT} installed."
        )
    # -I excludes user packages, PYTHON* variables, and this package's folder from the path.
    return (str(found), "-I", str(BRIDGE))


def check(command: Sequence[str]) -> dict[str, str]:
    """Return the versions that the bridge reports.

    Raises:
        UserError: the environment cannot run the bridge, or has another release.
    """
    try:
        bridge = Bridge(command)
        try:
            versions = bridge.ask("hello")
        finally:
            bridge.close()
    except BridgeError as error:
        raise UserError(f"{command[0]!r} cannot run AgentDojo: {error}. `{COMMAND}` creates it again.") from error
    if versions["agentdojo"] != VERSION:
        raise UserError(
            f"{command[0]!r} has agentdojo {versions['agentdojo']}; the bridge needs {VERSION}: "
            f"`{command[0]} -m pip install {' '.join(PINNED)}`."
        )
    return versions


def count_tasks(command: Sequence[str], benchmark: str = BENCHMARK) -> dict[str, int]:
    """Load AgentDojo's suites, and return the number of user tasks, injection tasks, and pairs of both.

    Raises:
        UserError: the suites cannot be loaded.
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
    """Create the environment in `folder` and install the pinned packages; an existing environment is kept.

    Raises:
        UserError: pip failed.
    """
    if not python_in(folder).is_file():
        venv.create(folder, with_pip=True)
    command = (str(python_in(folder)), "-m", "pip", "install", "--disable-pip-version-check", *PINNED)
    if subprocess.run(command, check=False).returncode != 0:
        raise UserError(
            f"pip could not install {REQUIREMENT} into {str(folder)!r}; its messages are above. If the folder "
            f"holds an incomplete environment, remove it and try again."
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Create the environment, check it, and print its location."""
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
