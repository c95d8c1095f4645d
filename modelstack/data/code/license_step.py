"""Step `license`: keeps documents whose licence is on an allow list."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from modelstack.data.code.expressions import Node, is_allowed, known_id, parse, written
from modelstack.data.code.languages import path_of
from modelstack.data.code.license_statements import N_HEAD, license_stated_in
from modelstack.data.code.repository import is_license_file
from modelstack.data.documents import Document, Step
from modelstack.errors import UserError
from modelstack.files import read_json_object

NOT_ALLOWED = "license_not_allowed"
NO_LICENSE = "no_license"
REPOSITORY = "repository"
REPOSITORY_LICENSE = "repository_license"
_CATEGORIES = frozenset(("permissive", "copyleft", "restricted", "unknown"))
_MAX_PATH = 1_000
_MAX_TABLE_BYTES = 256 * 1024 * 1024
Origin = Literal["file", "repository", "source"]


class License(BaseModel, frozen=True, extra="forbid"):
    """Keeps documents whose licence is covered by an allow list of SPDX ids and categories.

    The Stack v2 keeps files that are permissive by Blue Oak Council's list, and files without a licence (Lozhkov
    et al. 2024, arXiv 2402.19173, section 2.1). Here, keeping files without a licence is an option.

    A statement in the file takes precedence over the folder's and the repository's licence. The document's
    `license` becomes the SPDX expression. `metadata["license_from"]` records its origin: "file", "repository" (the
    metadata's `repository_license`, or the table) or "source" (the document's original `license`).

    Reasons: `license_not_allowed`, `no_license`.
    """

    kind: Literal["license"] = "license"
    allow: tuple[str, ...] = ("permissive",)
    """SPDX ids and categories of licences that are kept."""
    keep_unlicensed: bool = False
    """Whether to keep documents without a known licence."""
    repository_licenses: Path | None = None
    """JSON file from `metadata["repository"]` to SPDX expressions; output of `modelstack.data.code.repository`."""

    def build(self) -> Step:
        """Return the step.

        Raises:
            UserError: The allow list has an unknown name, or the table is not a JSON object of strings.
        """
        allow = frozenset(_checked(name) for name in self.allow)
        table = _read_table(self.repository_licenses) if self.repository_licenses else {}

        def step(document: Document) -> str | None:
            node, origin = license_of(document, table)
            if node is None:
                return None if self.keep_unlicensed else NO_LICENSE
            document.license = written(node)
            document.metadata["license_from"] = origin
            return None if is_allowed(node, allow) else NOT_ALLOWED

        return step


def license_of(document: Document, repositories: Mapping[str, str]) -> tuple[Node | None, Origin]:
    """Return the licence of a document and its origin."""
    name = path_of(document).rpartition("/")[2]
    stated = license_stated_in(document.text if is_license_file(name) else document.text[:N_HEAD])
    if stated:
        return stated, "file"
    for value in (document.metadata.get(REPOSITORY_LICENSE), _nearest_folder_license(document, repositories)):
        if isinstance(value, str) and (node := parse(value)):
            return node, "repository"
    return parse(document.license), "source"


def _nearest_folder_license(document: Document, repositories: Mapping[str, str]) -> str | None:
    """Return the table's licence of a file's folder or of the nearest folder above it, up to the repository."""
    repository = document.metadata.get(REPOSITORY)
    if not repositories or not isinstance(repository, str):
        return None
    folder = path_of(document).strip("/")[:_MAX_PATH].rpartition("/")[0]
    while folder:
        if found := repositories.get(f"{repository}/{folder}"):
            return found
        folder = folder.rpartition("/")[0]
    return repositories.get(repository)


def _checked(name: str) -> str:
    if name in _CATEGORIES:
        return name
    license_id = known_id(name)
    if license_id is None:
        raise UserError(
            f"allow: {name!r} is neither a known licence nor one of {', '.join(sorted(_CATEGORIES))}; "
            f"use an SPDX id (MIT, Apache-2.0) from modelstack/data/code/licenses.toml"
        )
    return license_id


def _read_table(path: Path) -> dict[str, str]:
    table = read_json_object(path, _MAX_TABLE_BYTES)
    for repository, expression in table.items():
        if not isinstance(expression, str):
            raise UserError(
                f"{path}: the licence of {repository!r} is {expression!r}; an SPDX expression is expected"
            )
    return table
