"""Downloads over HTTP from a real server: resumed, checked, and never anywhere but over HTTPS or loopback."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from file_server import FileServer
from model_files import MODEL, SHA256, entry_of

from agentkit.errors import UserError
from agentkit.models.catalog import download
from agentkit.models.catalog.download import HubFile, UrlFile, fetch_over_http
from agentkit.models.catalog.entries import is_present, local_path, pull, slot_of, verify
from agentkit.models.catalog.store import ModelFileError

pytestmark = pytest.mark.usefixtures("cache")


def fetch(source: UrlFile | HubFile) -> Path:
    slot = slot_of(source)
    with slot.locked():
        return fetch_over_http(source, slot, None, pause=lambda _: None)


def test_a_url_with_its_hash_is_fetched_once(cache: Path) -> None:
    with FileServer(MODEL) as server:
        spec = f"{server.url('folder/model.gguf')}#sha256={SHA256}"
        path = local_path(spec)
        assert path.read_bytes() == MODEL and path.name == "model.gguf"
        assert local_path(spec) == path and len(server.requests) == 1
    assert verify(spec) == "ok" and cache in path.parents


def test_a_download_that_breaks_off_is_resumed() -> None:
    with FileServer(MODEL, cuts=[1000, 5000], statuses=[503]) as server:
        path = fetch(UrlFile(server.url(), SHA256))
        assert path.read_bytes() == MODEL
        assert server.ranges == [None, None, "bytes=1000-", "bytes=6000-"]


def test_a_server_that_cannot_resume_is_asked_from_the_start() -> None:
    with FileServer(MODEL, cuts=[1000], ignore_range=True) as server:
        assert fetch(UrlFile(server.url(), SHA256)).read_bytes() == MODEL


def test_a_part_that_is_complete_is_not_fetched_again() -> None:
    with FileServer(MODEL) as server:
        source = UrlFile(server.url(), SHA256)
        part = slot_of(source).part(SHA256)
        part.parent.mkdir(parents=True)
        part.write_bytes(MODEL)
        assert fetch(source).read_bytes() == MODEL
        assert server.ranges == [f"bytes={len(MODEL)}-"]


def test_a_server_that_never_sends_the_rest_is_given_up() -> None:
    with FileServer(MODEL, cuts=[1000, 0, 0, 0, 0, 0]) as server, pytest.raises(ModelFileError, match="is kept"):
        fetch(UrlFile(server.url(), SHA256))


@pytest.mark.parametrize("body", [MODEL[:-1] + b"!", b"<html>not a model</html>"])
def test_other_bytes_than_the_hash_says_are_thrown_away(body: bytes) -> None:
    with FileServer(body) as server:
        source = UrlFile(server.url(), SHA256)
        with pytest.raises(ModelFileError, match="has SHA-256"):
            fetch(source)
        assert [p.name for p in slot_of(source).directory.iterdir()] == [".lock"]


def test_what_is_no_gguf_file_is_refused_even_with_its_hash() -> None:
    page = b"<html></html>"
    with FileServer(page) as server, pytest.raises(ModelFileError, match="not a GGUF file"):
        fetch(UrlFile(server.url(), hashlib.sha256(page).hexdigest()))


@pytest.mark.parametrize(("status", "message"), [(404, "check the name"), (401, "HF_TOKEN"), (403, "HF_TOKEN")])
def test_a_refusal_is_explained(status: int, message: str) -> None:
    with FileServer(MODEL, statuses=[status]) as server, pytest.raises(ModelFileError, match=message):
        fetch(UrlFile(server.url(), SHA256))


def test_a_file_beyond_the_bound_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "MAX_FILE_BYTES", 1000)
    with FileServer(MODEL) as server, pytest.raises(ModelFileError, match="at most 1000 are expected"):
        fetch(UrlFile(server.url(), SHA256))


@pytest.mark.parametrize("target", ["http://example.com/model.gguf", "file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_a_redirect_away_from_https_is_not_followed(target: str) -> None:
    with FileServer(MODEL, redirect_to=target) as server, pytest.raises(ModelFileError, match="is not https"):
        fetch(UrlFile(server.url(), SHA256))


def test_redirects_without_end_are_stopped() -> None:
    with FileServer(MODEL, redirect_to="/again") as server:
        with pytest.raises(ModelFileError, match="redirects more than"):
            fetch(UrlFile(server.url(), SHA256))
        assert len(server.requests) <= 10


def hub(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url(""))


def test_a_hub_file_is_checked_against_the_hash_that_the_hub_states(monkeypatch: pytest.MonkeyPatch) -> None:
    stated = {"X-Linked-ETag": f'"{SHA256}"', "X-Linked-Size": str(len(MODEL))}
    with FileServer(MODEL, headers=stated) as server:
        hub(server, monkeypatch)
        path = local_path("hf:owner/repo@v1/sub/model.gguf")
        assert path.read_bytes() == MODEL
        assert [request[:2] for request in server.requests] == [
            ("HEAD", "/owner/repo/resolve/v1/sub/model.gguf"),
            ("GET", "/owner/repo/resolve/v1/sub/model.gguf"),
        ]
    assert verify("hf:owner/repo@v1/sub/model.gguf") == "ok" and is_present("hf:owner/repo@v1/sub/model.gguf")


def test_a_hub_file_of_other_content_than_stated_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with FileServer(MODEL, headers={"X-Linked-ETag": f'"{"0" * 64}"'}) as server:
        hub(server, monkeypatch)
        with pytest.raises(ModelFileError, match="expected 0000"):
            pull("hf:owner/repo/model.gguf")


def test_a_hub_file_without_a_stated_hash_needs_one_in_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with FileServer(MODEL, headers={"ETag": '"0123456789abcdef"'}) as server:
        hub(server, monkeypatch)
        with pytest.raises(UserError, match="states no SHA-256"):
            pull("hf:owner/repo/model.gguf")
        assert pull(f"hf:owner/repo/model.gguf#sha256={SHA256}").read_bytes() == MODEL


def test_the_hub_token_stays_with_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with FileServer(MODEL) as other, FileServer(MODEL, headers={"X-Linked-ETag": SHA256}) as server:
        server.redirect_to = other.url("elsewhere/model.gguf")
        hub(server, monkeypatch)
        pull("hf:owner/repo/model.gguf")
        assert all(headers["authorization"] == "Bearer hf_secret" for _, _, headers in server.requests)
        assert ["authorization" in headers for _, _, headers in other.requests] == [False]


def test_a_killed_download_goes_on_where_it_was(start: Callable[..., Any], wheel: Path) -> None:
    half = len(MODEL) // 2
    with FileServer(MODEL, stall_after=half) as server:
        spec = f"{server.url()}#sha256={SHA256}"
        part = slot_of(UrlFile(server.url(), SHA256)).part(SHA256)
        code = f"""
entries.pull({spec!r}, progress=lambda done, total: done == {half} and print("half", flush=True))
"""
        child = start(entry_of(wheel), code)
        assert child.stdout.readline() == "half\n"
        child.kill()
        child.wait()
        assert verify(spec) == "missing"
        have = part.stat().st_size
        server.stall_after = None
        assert pull(spec).read_bytes() == MODEL
        assert 0 < have <= half and server.ranges[1] == f"bytes={have}-"
