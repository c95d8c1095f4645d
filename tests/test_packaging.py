"""The wheel holds every file that the packages need; a whole build is `make wheel-smoke`."""

from __future__ import annotations

import glob
import tomllib
from pathlib import Path

import pytest

from tools.wheel_smoke import PACKAGES, ROOT, packaged_files

SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]

needs_git = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="git lists the files of the packages")


@needs_git
def test_each_file_of_the_packages_is_a_module_or_package_data() -> None:
    data = {
        f"{package}/{name}"
        for package, patterns in SETUPTOOLS["package-data"].items()
        for pattern in patterns
        for name in glob.glob(pattern, root_dir=ROOT / package, recursive=True)
    }
    assert [name for name in packaged_files() if not name.endswith(".py") and name not in data] == []


@needs_git
def test_each_module_lies_in_a_package() -> None:
    folders = {parent for name in packaged_files() if name.endswith(".py") for parent in Path(name).parents[:-1]}
    assert [folder for folder in sorted(folders) if not (ROOT / folder / "__init__.py").is_file()] == []


def test_only_the_four_packages_are_installed() -> None:
    assert sorted(pattern.removesuffix("*") for pattern in SETUPTOOLS["packages"]["find"]["include"]) == [
        *PACKAGES
    ]
