"""The command that installs an extra: of the distribution, or of a checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mcp_servers.distribution import NAME, install_command
from tests.mcp_servers.server_harness import REPOSITORY


def hint_of_a_copy(folder: Path, *, cwd: Path) -> str:
    """Return the hint that a copy of the module below `folder` gives."""
    package = folder / "mcp_servers"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "distribution.py").write_bytes((REPOSITORY / "mcp_servers" / "distribution.py").read_bytes())
    script = "from mcp_servers.distribution import install_command; print(install_command('local', 'code'))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(folder)},
    )
    return done.stdout.strip()


def test_the_metadata_and_the_extras_that_name_others_have_the_name_of_the_distribution() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == NAME
    every = [name for names in project["optional-dependencies"].values() for name in names]
    assert not [name for name in every if name.startswith(("agentkit[", "modelstack"))]


def test_in_a_checkout_the_checkout_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert install_command("local") == 'pip install -e ".[local]"'
    assert install_command() == 'pip install -e "."'
    monkeypatch.chdir(tmp_path)
    assert install_command("train", "data") == f'pip install -e "{REPOSITORY}[train,data]"'


def test_an_installed_package_names_the_distribution(tmp_path: Path) -> None:
    assert hint_of_a_copy(tmp_path / "site", cwd=tmp_path) == 'pip install "agentkit-modelstack[local,code]"'


def test_a_package_in_the_folder_of_another_project_is_no_checkout(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "theirs"\n', encoding="utf-8")
    assert hint_of_a_copy(tmp_path, cwd=tmp_path) == 'pip install "agentkit-modelstack[local,code]"'
