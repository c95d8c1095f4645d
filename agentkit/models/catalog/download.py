"""Resumable download of a model file over HTTPS, checked against a hash that is known before the first byte.

A URL carries its hash (`#sha256=...`, as pip writes it). The Hugging Face hub states a file's hash itself, in the
header `X-Linked-ETag` of its `resolve` answer; that hash is trusted because it comes over TLS. Plain HTTP is
refused, except from this machine itself.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, urljoin, urlsplit

from agentkit.errors import UserError
from agentkit.models.catalog.store import ModelFileError, Progress, Slot, check_gguf, check_room, disk_errors
from agentkit.models.http.http_clients import is_loopback

if TYPE_CHECKING:
    import httpx

MAX_FILE_BYTES = 64 << 30
"""Limit of a download: beyond the models of any personal machine; it stops a server that sends without end."""

HUB_VARIABLE = "HF_ENDPOINT"
HUB_TOKEN_VARIABLE = "HF_TOKEN"
_HUB = "https://huggingface.co"
_MAX_REDIRECTS = 5
_MAX_ATTEMPTS = 5
"""Attempts in a row without a byte of progress."""
_PATIENT_S = (15.0, 60.0)
"""Seconds for connecting and for the next bytes, if there is no other source."""
_IMPATIENT_S = (4.0, 15.0)
"""The same if another source remains. A network that blocks the hub often drops packets without refusing them."""
_MAX_PAUSE_S = 8.0
_SHA256 = re.compile(r"[0-9a-f]{64}")

T = TypeVar("T")
Pause = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file in a repository of the Hugging Face hub."""

    owner: str
    repository: str
    revision: str
    file: str
    sha256: str | None = None
    """Hash pinned by the caller; None takes the hash that the hub states."""
    size: int | None = None
    """Size in bytes; None takes the size that the hub states."""

    @property
    def url(self) -> str:
        """URL of the file on the hub."""
        endpoint = os.environ.get(HUB_VARIABLE, _HUB).rstrip("/")
        return f"{endpoint}/{self.owner}/{self.repository}/resolve/{self.revision}/{quote(self.file)}"


@dataclass(frozen=True, slots=True)
class UrlFile:
    """A file at a URL, with its hash."""

    url: str
    sha256: str


@dataclass(frozen=True, slots=True)
class _Promise:
    """Source of a download, with its expected hash and size."""

    url: str
    sha256: str
    size: int | None
    headers: Mapping[str, str]


def fetch_over_http(
    source: HubFile | UrlFile,
    slot: Slot,
    progress: Progress | None,
    pause: Pause = time.sleep,
    *,
    patient: bool = True,
    check: Callable[[Path, str, str], None] = check_gguf,
) -> Path:
    """Download a model file and publish it in `slot`, whose lock the caller holds.

    `patient=False` gives up at the first failure to reach the server, because another source waits. `check` gets
    the file, its expected hash and its origin.

    Raises:
        ModelFileError: the server cannot be reached or refuses, the disk is full, or the hash differs.
        UserError: no hash is known.
    """
    with _client(source, patient) as client:
        attempts = _MAX_ATTEMPTS if patient else 1
        promise = _retrying(source.url, lambda: _promise(source, client), lambda: 0, pause, attempts)
        part = slot.part(promise.sha256)
        _retrying(source.url, lambda: _receive(client, promise, part, progress), lambda: _size(part), pause)
    try:
        check(part, promise.sha256, source.url)
    except ModelFileError:
        part.unlink(missing_ok=True)  # a wrong file cannot be resumed
        raise
    slot.write_manifest({"url": source.url, "sha256": promise.sha256, "size": part.stat().st_size})
    return slot.publish(part)


def _client(source: HubFile | UrlFile, patient: bool) -> httpx.Client:
    import httpx

    connect_s, read_s = _PATIENT_S if patient else _IMPATIENT_S
    timeout = httpx.Timeout(read_s, connect=connect_s)
    try:
        return httpx.Client(follow_redirects=False, timeout=timeout, trust_env=not is_loopback(source.url))
    except (ValueError, ImportError) as error:  # the proxy is not a URL, or is SOCKS without its package
        raise ModelFileError(
            f"{source.url} cannot be fetched: the proxy of the environment (HTTPS_PROXY, ALL_PROXY) cannot be "
            f"used ({error})."
        ) from error


def _promise(source: HubFile | UrlFile, client: httpx.Client) -> _Promise:
    if isinstance(source, UrlFile):
        return _Promise(source.url, source.sha256, None, {})
    token = os.environ.get(HUB_TOKEN_VARIABLE)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with _answer(client, "HEAD", source.url, headers, redirects=0) as head:
        stated = head.headers.get("x-linked-etag", "").strip('W/"').lower()
        size = head.headers.get("x-linked-size", "")
    stated = stated if _SHA256.fullmatch(stated) else None
    sha256 = source.sha256 or stated
    if sha256 is None:
        raise UserError(
            f"{source.url} states no SHA-256 (it is not in the hub's large-file storage): add one to the name, "
            f"hf:{source.owner}/{source.repository}/{source.file}#sha256=DIGITS."
        )
    if stated not in (None, sha256):
        raise ModelFileError(f"{source.url} has SHA-256 {stated}, expected {sha256}; nothing was downloaded.")
    return _Promise(source.url, sha256, source.size or (int(size) if size.isdecimal() else None), headers)


def _retrying(
    url: str,
    attempt: Callable[[], T],
    measure: Callable[[], int],
    pause: Pause,
    max_attempts: int = _MAX_ATTEMPTS,
) -> T:
    """Retry after transient failures, up to `max_attempts` in a row in which `measure` shows no progress."""
    import httpx

    idle_attempts = 0
    while True:
        before = measure()
        try:
            return attempt()
        except (httpx.TransportError, _Transient) as error:
            idle_attempts = 0 if measure() > before else idle_attempts + 1
            if idle_attempts >= max_attempts:
                kept = " What came so far is kept and the next try goes on from there." if measure() else ""
                raise ModelFileError(
                    f"{url} cannot be fetched ({str(error) or type(error).__name__}): check the network and the "
                    f"proxy (HTTPS_PROXY).{kept}"
                ) from error
            pause(min(2.0**idle_attempts, _MAX_PAUSE_S))


def _receive(client: httpx.Client, promise: _Promise, part: Path, progress: Progress | None) -> None:
    have = _size(part)
    if promise.size is not None and have == promise.size:
        return
    headers = {**promise.headers, "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with _answer(client, "GET", promise.url, headers) as response:
        if response.status_code == 416:  # nothing is left to send, or the file changed: the hash check decides
            if not response.headers.get("content-range", "").endswith(f"/{have}"):
                part.unlink()
                raise _Transient("the partial file does not fit the server's")
            return
        resumes = response.status_code == 206 and _starts_at(response, have)
        done = have if resumes else 0
        length = response.headers.get("content-length", "")
        total = done + int(length) if length.isdecimal() else promise.size
        limit = promise.size or MAX_FILE_BYTES
        if total is not None:
            _check_size(promise, total, limit)
            check_room(part.parent, total - done)
        with disk_errors(part.parent), part.open("ab" if resumes else "wb") as file:
            for chunk in response.iter_raw():  # raw: bytes that httpx has buffered are lost when the stream breaks
                done += len(chunk)
                _check_size(promise, done, limit)
                file.write(chunk)
                if progress is not None:
                    progress(done, total)
            file.flush()
            os.fsync(file.fileno())


class _Transient(Exception):
    """A failure that a retry may fix."""


@contextmanager
def _answer(
    client: httpx.Client, method: str, url: str, headers: Mapping[str, str], redirects: int = _MAX_REDIRECTS
) -> Generator[httpx.Response]:
    """Yield the response after at most `redirects` redirects; with 0, the first response even if it is one."""
    first = urlsplit(url)
    for hop in range(redirects + 1):
        _check_scheme(url, plain_is_local=is_loopback(first.geturl()))
        same_host = urlsplit(url).netloc == first.netloc
        sent = {name: v for name, v in headers.items() if same_host or name != "Authorization"}
        with client.stream(method, url, headers=sent) as response:
            if not response.has_redirect_location or redirects == 0:
                _check_status(response, url)
                yield response
                return
            if hop < redirects:
                url = urljoin(url, response.headers["location"])
    raise ModelFileError(f"{first.geturl()} redirects more than {redirects} times.")


def _check_scheme(url: str, *, plain_is_local: bool) -> None:
    scheme = urlsplit(url).scheme
    if scheme == "https" or (scheme == "http" and plain_is_local and is_loopback(url)):
        return
    raise ModelFileError(f"{url} is not https, so anyone on the way could read and replace it; use https://.")


def _check_status(response: httpx.Response, url: str) -> None:
    status = response.status_code
    if status in (401, 403):
        raise ModelFileError(f"{url} answers {status}: it needs a login; set {HUB_TOKEN_VARIABLE} for the hub.")
    if status == 429 or status >= 500:
        raise _Transient(f"the server answers {status}")
    if status >= 400 and status != 416:
        raise ModelFileError(f"{url} answers {status}: check the name of the repository, revision and file.")


def _check_size(promise: _Promise, n_bytes: int, limit: int) -> None:
    if n_bytes > limit:
        raise ModelFileError(f"{promise.url} sends {n_bytes} bytes or more; at most {limit} are expected.")


def _starts_at(response: httpx.Response, offset: int) -> bool:
    return response.headers.get("content-range", "").startswith(f"bytes {offset}-")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
