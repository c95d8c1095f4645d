"""A module that is not installed: the error names the extra that brings it and the command."""

from __future__ import annotations

import re
import sys
import tomllib

import pytest

from agentkit.models.local.model import LocalModel
from mcp_servers.distribution import install_command
from mcp_servers.missing_modules import MODULES_OF_EXTRAS, how_to_install
from tests.agentkit.cli.conftest import Agentkit, agentkit, own_directories
from tests.mcp_servers.server_harness import REPOSITORY

__all__ = ["agentkit", "own_directories"]

COMBINED = ("all", "dev")
"""Extras for which no module is missing: they repeat others, or are for development."""
OTHER_NAMES = {
    "a2a-sdk": "a2a",
    "ag-ui-protocol": "ag_ui",
    "agent-client-protocol": "acp",
    "fasttext-predict": "fasttext",
    "llama-cpp-python": "llama_cpp",
    "lm-format-enforcer": "lmformatenforcer",
    "pyyaml": "yaml",
    "scikit-learn": "sklearn",
}
"""Modules whose name differs from that of their distribution."""


def module_of(requirement: str) -> str:
    name = re.split(r"[\[=<>!~ ]", requirement)[0]
    return OTHER_NAMES.get(name, name.replace("-", "_"))


def test_the_table_has_the_modules_of_each_extra() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {
        extra: {module_of(each) for each in requirements}
        for extra, requirements in project["optional-dependencies"].items()
        if extra not in COMBINED
    }
    assert {extra: set(modules) for extra, modules in MODULES_OF_EXTRAS.items()} == wanted


def test_the_extra_that_the_command_needs_is_named_before_others() -> None:
    missing = ModuleNotFoundError("No module named 'numpy.linalg'", name="numpy.linalg")
    assert how_to_install(missing) == (
        f"numpy is not installed; the extra 'local' brings it: {install_command('local')}"
    )
    assert how_to_install(missing, prefer=["data"]) == (
        f"numpy is not installed; the extra 'data' brings it: {install_command('data')}"
    )
    assert how_to_install(ModuleNotFoundError("No module named 'mine'", name="mine")) is None
    assert how_to_install(ImportError("cannot import name 'x' from 'numpy'", name="numpy")) is None


def forget(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Forget an imported module, which is later its package's again, whatever was imported meanwhile."""
    package, _, leaf = name.rpartition(".")
    if package in sys.modules and hasattr(sys.modules[package], leaf):
        monkeypatch.setattr(sys.modules[package], leaf, sys.modules[name])
    monkeypatch.delitem(sys.modules, name)


def without(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """Make imports of modules fail as if they were not installed."""
    for name in list(sys.modules):
        if name.partition(".")[0] in modules:
            forget(monkeypatch, name)
    for name in modules:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize(
    ("command", "module", "extra"),
    [
        (["eval", "bfcl", "-m", "test"], "inspect_ai", "evals"),
        (["specialise", "--mcp", "python", "--out", "x"], "torch", "train"),
    ],
)
def test_a_command_without_its_extra_names_it(
    agentkit: Agentkit, monkeypatch: pytest.MonkeyPatch, command: list[str], module: str, extra: str
) -> None:
    without(monkeypatch, module)
    done = agentkit(*command)
    assert done.returncode == 1
    assert f"needs {module.replace('_', '-')}: pip install" in done.stderr and f"[{extra}]" in done.stderr


def test_any_command_that_lacks_a_module_names_its_extra(
    agentkit: Agentkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'playwright'", name="playwright")

    monkeypatch.setattr("agentkit.cli.doctor.examine", fails)
    done = agentkit("doctor")
    assert done.returncode == 1
    assert done.stderr == (
        f"error: `agentkit doctor`: playwright is not installed; the extra 'browser' brings it: "
        f"{install_command('browser')}\n"
    )


def test_a_local_model_without_its_engine_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from agentkit import Agent, UserError

    without(monkeypatch, "numpy")
    for name in list(sys.modules):
        if name.startswith(("modelstack.inference", "modelstack.toolcalls", "agentkit.models.local.transcript")):
            forget(monkeypatch, name)
    with pytest.raises(UserError, match=r"needs numpy: .*\[local\]"):
        Agent(LocalModel("smollm2-135m")).run_sync("x")
