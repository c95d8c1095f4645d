"""Smoke test of the distribution: builds it, installs the wheel alone, and uses it outside the checkout.

    python -m tools.wheel_smoke [--folder DIR] [--wheel FILE] [--environment DIR]

Without options everything is made in a temporary folder: an environment for the build, one for the wheel with the
extras `local`, `servers` and `train`, and an empty folder in which the programs run, without PYTHONPATH. It needs
the package index, the npm registry for MCP's Inspector (skipped without npx), and the models' sources unless the
user's cache has the demo's model. `make wheel-smoke` sets the compiler's switches for llama-cpp-python.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("agentkit", "evals", "mcp_servers", "modelstack")
EXTRAS = "local,servers,train"
EXAMPLE = "limits_that_end_in_an_answer.py"
INSPECTOR = "@modelcontextprotocol/inspector@2.12.0"


class Smoke(RuntimeError):
    """A step failed; the message shows what was run and its output."""


def main() -> None:
    """Run all steps; exit status 1 at the first that fails."""
    parser = argparse.ArgumentParser(prog="python -m tools.wheel_smoke", description="Build the wheel and use it.")
    parser.add_argument("--folder", type=Path, help="where to work (a temporary folder, removed at the end)")
    parser.add_argument("--wheel", type=Path, help="a wheel that is built already")
    parser.add_argument("--environment", type=Path, help="an environment that has the wheel already")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wheel-smoke-") as temporary:
        folder = (given.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            environment = given.environment or install(given.wheel or build(folder), folder)
            use(environment.resolve() / "bin", folder / "empty")
        except Smoke as error:
            sys.exit(f"wheel-smoke: {error}")


def build(folder: Path) -> Path:
    """Return the wheel, built from the sdist, after checking the files of both."""
    python = environment(folder / "build-environment")
    run("pip install build", [python, "-m", "pip", "install", "-q", "build"])
    run("python -m build", [python, "-m", "build", "--outdir", folder / "dist", ROOT])
    (wheel,), (sdist,) = (folder / "dist").glob("*.whl"), (folder / "dist").glob("*.tar.gz")
    in_wheel = zipfile.ZipFile(wheel).namelist()
    with tarfile.open(sdist) as archive:
        in_sdist = [name.partition("/")[2] for name in archive.getnames()]
    for kind, names in (("wheel", in_wheel), ("sdist", in_sdist)):
        if missing := sorted(set(packaged_files()) - {*names}):
            raise Smoke(f"the {kind} lacks {len(missing)} files of the packages: {', '.join(missing[:20])}")
    if others := {name.split("/")[0] for name in in_wheel if ".dist-info/" not in name} - {*PACKAGES}:
        raise Smoke(f"the wheel holds more than its packages: {', '.join(sorted(others))}")
    print(f"    {wheel.name}: {wheel.stat().st_size / 1e6:.0f} MB, {len(in_wheel)} files")
    return wheel


def packaged_files() -> list[str]:
    """Return the tracked files that an installed package needs: all but reports about the code."""
    listed = run("git ls-files", ["git", "-C", ROOT, "ls-files", *PACKAGES], quiet=True).splitlines()
    return [name for name in listed if not is_report(name)]


def is_report(name: str) -> bool:
    """Return whether a file is documentation for readers of the repository, which no program opens."""
    path = Path(name)
    return name.endswith("LOG.md") or (
        path.parts[0] in ("evals", "mcp_servers") and (path.name == "README.md" or path.suffix == ".png")
    )


def install(wheel: Path, folder: Path) -> Path:
    """Return a new environment with the wheel and its extras."""
    python = environment(folder / "environment")
    run(
        f"pip install {wheel.name}[{EXTRAS}]",
        [python, "-m", "pip", "install", "-q", f"{wheel.resolve()}[{EXTRAS}]"],
    )
    return folder / "environment"


def environment(folder: Path) -> Path:
    """Return the Python of a new, empty environment."""
    run(f"python -m venv {folder.name}", [sys.executable, "-m", "venv", "--clear", folder])
    return folder / "bin" / "python"


def use(programs: Path, folder: Path) -> None:
    """Run the installed programs in an empty folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "notes.txt").write_text("buy bread\n", encoding="utf-8")

    def started(name: str, command: Sequence[str | Path], expected: str) -> None:
        output = run(name, [programs / command[0], *command[1:]], cwd=folder, programs=programs)
        if expected not in output:
            raise Smoke(f"{name} printed no {expected!r}:\n{output}")

    where = "import agentkit, modelstack, mcp_servers, evals; print(agentkit.__file__)"
    started("the packages are those of the environment", ["python", "-c", where], str(programs.parent))
    hint = "from mcp_servers.distribution import install_command; print(install_command('evals'))"
    started("hints name the distribution", ["python", "-c", hint], 'pip install "agentkit-modelstack[evals]"')
    started("agentkit --help", ["agentkit", "--help"], "chat")
    started("agentkit doctor", ["agentkit", "doctor"], "the library loads")
    started("agentkit demo", ["agentkit", "demo"], "4 of 4")
    started("agentkit-mcp", ["agentkit-mcp"], "filesystem")
    started("modelstack recipes", ["modelstack", "recipes"], "nano")
    started("modelstack sft --keys", ["modelstack", "sft", "--keys"], "data.training")
    started("modelstack train nano --dry-run", ["modelstack", "train", "nano", "--dry-run"], "parameters")
    if (example := ROOT / "examples" / EXAMPLE).is_file():
        shutil.copy(example, folder)
        started(f"examples/{EXAMPLE}", ["python", EXAMPLE], "")
    inspect_server(programs, folder)


def inspect_server(programs: Path, folder: Path) -> None:
    """List a server's tools by the official Inspector's command line."""
    if shutil.which("npx") is None:
        print("--  Inspector: npx is not installed")
        return
    command = ["npx", "-y", INSPECTOR, "--cli", "agentkit-mcp", "filesystem", folder, "--method", "tools/list"]
    output = run("Inspector lists the tools of agentkit-mcp filesystem", command, cwd=folder, programs=programs)
    if "read_text_file" not in output:
        raise Smoke(f"the Inspector lists no read_text_file:\n{output}")


def run(
    name: str,
    command: Iterable[str | Path],
    *,
    cwd: Path | None = None,
    programs: Path | None = None,
    quiet: bool = False,
) -> str:
    """Run a step, without the checkout in its path, and return what it printed; `programs` goes in front of PATH.

    Raises:
        Smoke: The command failed.
    """
    variables = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    if programs is not None:
        variables["PATH"] = f"{programs}{os.pathsep}{variables['PATH']}"
    started = time.perf_counter()
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=variables, text=True, capture_output=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise Smoke(f"{' '.join(words)} ended with status {done.returncode}:\n{done.stdout}{done.stderr}")
    if not quiet:
        print(f"ok  {name}  {time.perf_counter() - started:.1f} s", flush=True)
    return done.stdout + done.stderr


if __name__ == "__main__":
    main()
