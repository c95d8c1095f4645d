"""A path that does not exist: the first missing part and the nearest name in its folder."""

from __future__ import annotations

from pathlib import Path

from mcp_servers.near_paths import near_path, nearest_path


def test_a_missing_path_names_the_nearest_one_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "missing.gguf").touch()
    models = tmp_path / "models"
    assert near_path(models / "mising.gguf") == (
        f"'{models}/mising.gguf' does not exist; did you mean '{models}/missing.gguf'?"
    )
    assert near_path(tmp_path / "modls" / "missing.gguf") == (
        f"'{tmp_path}/modls/missing.gguf': the folder '{tmp_path}/modls' does not exist; did you mean '{models}'?"
    )
    assert near_path(models / "qwertz") == f"'{models}/qwertz' does not exist."
    assert near_path(models / "missing.gguf" / "x") == f"'{models}/missing.gguf/x' does not exist."
    assert nearest_path(models / "mising.gguf") == models / "missing.gguf"
    assert nearest_path(models / "qwertz") is None
