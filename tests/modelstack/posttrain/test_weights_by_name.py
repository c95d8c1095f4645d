"""Weights by a path, or by the name of a model in a catalog that an installed package offers."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from modelstack.errors import UserError
from modelstack.posttrain import weights_by_name
from modelstack.posttrain.weights_by_name import GROUP, weights_path

FETCHED = Path(__file__)
OFFERED = {"small-model": FETCHED, "large-model": FETCHED.with_name("nowhere.gguf")}


def offered() -> dict[str, Path]:
    return OFFERED


@pytest.fixture(autouse=True)
def catalog_of_two(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    point = EntryPoint("models", f"{__name__}:offered", GROUP)
    monkeypatch.setattr(weights_by_name, "entry_points", lambda group: [point] if group == GROUP else [])
    monkeypatch.chdir(tmp_path)


def test_a_name_means_the_file_of_the_catalog() -> None:
    assert weights_path("small-model") == FETCHED
    assert weights_path(Path("small-model")) == FETCHED


def test_a_model_that_was_not_fetched_names_the_command_that_fetches_it() -> None:
    with pytest.raises(
        UserError, match="model 'large-model' is not on this machine: `agentkit models pull large-m"
    ):
        weights_path("large-model")


def test_an_unknown_name_names_the_nearest_model() -> None:
    with pytest.raises(UserError, match="'smal-model' is missing: it is neither .* nearest model: 'small-model'"):
        weights_path("smal-model")


def test_an_unknown_name_names_the_nearest_path_here_too(tmp_path: Path) -> None:
    (tmp_path / "smol-model").mkdir()
    with pytest.raises(UserError) as refused:
        weights_path("smal-model")
    assert "nearest path: 'smol-model'; nearest model: 'small-model'." in str(refused.value)


def test_paths_are_paths(tmp_path: Path) -> None:
    (tmp_path / "small-model").mkdir()
    assert weights_path("small-model") == Path("small-model")
    for path in ("model.gguf", "runs/tools", "./large-model", str(tmp_path / "absent")):
        assert weights_path(path) == Path(path)


def test_the_catalog_of_agentkit_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    from agentkit.models.catalog.entries import CATALOG, model_files

    monkeypatch.undo()
    assert weights_by_name.catalog() == model_files()
    assert model_files().keys() == CATALOG.keys()
