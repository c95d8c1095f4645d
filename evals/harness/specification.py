"""Specification of an evaluation: all settings that decide its figures, hashed and checked on a resume."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from agentkit.errors import UserError
from agentkit.models.base import ModelSettings
from evals.case import Case, json_line
from mcp_servers.distribution import NAME

PACKAGES = (NAME, "inspect-ai", "llama-cpp-python", "llguidance", "pydantic", "numpy")
SPECIFICATION_FILE = "run.json"


@dataclass(frozen=True, slots=True)
class Specification:
    """Settings of one evaluation."""

    suite: str
    model: str
    """A model string as in `agentkit.models.resolve`, `inspect:PROVIDER/NAME`, or `none`."""
    options: dict[str, str] = field(default_factory=dict[str, str])
    """Options of the suite."""
    limit: int | None = None
    """Maximum number of cases, taken from the groups in turn; None takes all."""
    epochs: int = 1
    """Number of runs of each case."""
    seed: int = 0
    temperature: float = 0.0
    max_tokens: int | None = None
    case_timeout_s: float | None = None
    """Wall-clock seconds per case; None takes the suite's limit."""

    def __post_init__(self) -> None:
        """Check that counts and times are positive.

        Raises:
            UserError: `limit` or `epochs` is below 1, or a time-out is not positive.
        """
        for name in ("limit", "epochs", "case_timeout_s"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"{name}={value!r}: it must be above zero.")

    def settings(self, epoch: int) -> ModelSettings:
        """Return the sampling settings of one epoch; each epoch has its own seed."""
        return ModelSettings(temperature=self.temperature, max_tokens=self.max_tokens, seed=self.seed + epoch - 1)


def select(cases: Sequence[Case], limit: int | None) -> list[Case]:
    """Return at most `limit` cases, taken from the groups in turn; the original order is kept.

    Raises:
        UserError: two cases have the same id, or there are no cases.
    """
    ids = [case.id for case in cases]
    if len(set(ids)) != len(ids):
        twice = next(id_ for id_ in ids if ids.count(id_) > 1)
        raise UserError(f"case id {twice!r} occurs twice; ids must be unique in a suite.")
    if not cases:
        raise UserError("the suite has no cases for these options.")
    if limit is None or limit >= len(cases):
        return list(cases)
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.group, []).append(case)
    chosen: set[str] = set()
    turn = 0
    while len(chosen) < limit:
        for group in groups.values():
            if turn < len(group) and len(chosen) < limit:
                chosen.add(group[turn].id)
        turn += 1
    return [case for case in cases if case.id in chosen]


def cases_sha256(cases: Sequence[Case]) -> str:
    """Return the SHA-256 over all fields of the cases, in order."""
    digest = hashlib.sha256()
    for case in cases:
        digest.update(json_line(asdict(case)).encode("utf-8", errors="surrogatepass") + b"\n")
    return digest.hexdigest()


def describe(specification: Specification, suite_version: int, cases: Sequence[Case]) -> dict[str, Any]:
    """Return the record of an evaluation; `identity` must match on a resume, the rest is for readers."""
    return {
        "identity": {
            **asdict(specification),
            "suite_version": suite_version,
            "n_cases": len(cases),
            "cases_sha256": cases_sha256(cases),
        },
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "machine": {"system": platform.platform(), "processor": processor_name()},
        "git_commit": _git_commit(),
    }


def check_identity(folder: Path, record: dict[str, Any]) -> None:
    """Check that `folder` holds the same evaluation as `record`.

    Raises:
        UserError: the evaluations differ, or the old record cannot be read; the message names the difference.
    """
    path = folder / SPECIFICATION_FILE
    try:
        before = json.loads(path.read_text(encoding="utf-8"))["identity"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read as the record of an evaluation: {error}.") from error
    now = json.loads(json.dumps(record["identity"]))
    for key in {**before, **now}:
        if before.get(key) != now.get(key):
            raise UserError(
                f"{folder} holds another evaluation: {key} was {before.get(key)!r} and is now {now.get(key)!r}. "
                f"Name another folder, or repeat the options of the first."
            )


def processor_name() -> str:
    """Return the number and name of the CPUs, or the architecture if the system does not report a name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Return the commit of this source tree, with `+` if files differ from it; None outside a repository."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12"],
            cwd=here, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() or None
