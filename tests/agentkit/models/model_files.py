"""Model files that tests make: a tiny one, wheels that hold it whole or in parts, and catalog entries of them."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentkit.models.catalog.entries import CatalogEntry
from agentkit.models.catalog.wheel import WheelPart

MODEL = b"GGUF" + bytes(range(256)) * 4096
SHA256 = hashlib.sha256(MODEL).hexdigest()
MEMBER = "tiny_llm/tiny.gguf"
EMPTY_ENTRY = CatalogEntry("tiny", "for tests", "tests", "tiny.gguf", len(MODEL), SHA256, "MIT", memory=0)
"""The tiny model without a source."""

CHILD = """
import json, sys
from agentkit.models.catalog import entries
entry = entries.entry_from(json.loads(sys.argv[1]))
entries.CATALOG = {entry.id: entry}
"""
"""Begins the program of a child process, whose catalog holds the entry that its argument describes."""


def make_wheel(folder: Path, members: Mapping[str, bytes], package: str = "tiny_llm") -> Path:
    """Write version 1.0 of a package that pip accepts."""
    folder.mkdir(exist_ok=True)
    wheel = folder / f"{package}-1.0-py3-none-any.whl"
    metadata = f"Metadata-Version: 2.1\nName: {package.replace('_', '-')}\nVersion: 1.0\n"
    info = {
        f"{package}-1.0.dist-info/METADATA": metadata.encode(),
        f"{package}-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{package}-1.0.dist-info/RECORD": b"",
    }
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**members, **info}.items():
            archive.writestr(name, content)
    return wheel


def part_of(wheel: Path, member: str, content: bytes) -> WheelPart:
    """Describe a wheel as the catalog does."""
    packed = wheel.read_bytes()
    requirement = wheel.name.split("-")[0].replace("_", "-") + "==1.0"
    wheel_sha256, sha256 = hashlib.sha256(packed).hexdigest(), hashlib.sha256(content).hexdigest()
    return WheelPart(requirement, wheel_sha256, len(packed), member, sha256, len(content))


def entry_of(wheel: Path, **changes: Any) -> CatalogEntry:
    """Return the entry of a model in one wheel; `changes` are those of its part."""
    return replace(EMPTY_ENTRY, wheels=(replace(part_of(wheel, MEMBER, MODEL), **changes),))


def entry_in_parts(folder: Path, n_parts: int = 3) -> CatalogEntry:
    """Write wheels that hold the model in parts of uneven sizes, and return its entry."""
    cuts = [len(MODEL) * k * k // (n_parts * n_parts) for k in range(n_parts + 1)]
    parts: list[WheelPart] = []
    for number, (begin, end) in enumerate(zip(cuts, cuts[1:], strict=False), 1):
        package, content = f"tiny_part{number}", MODEL[begin:end]
        member = f"{package}/data/part{number:02}.bin"
        wheel = make_wheel(folder, {member: content, f"{package}/__init__.py": b"raise SystemExit"}, package)
        parts.append(part_of(wheel, member, content))
    return replace(EMPTY_ENTRY, wheels=tuple(parts))


def wheel_names(entry: CatalogEntry) -> Sequence[str]:
    """Return the file names of an entry's wheels, in order."""
    names = (part.requirement.partition("==")[0].replace("-", "_") for part in entry.wheels)
    return [f"{name}-1.0-py3-none-any.whl" for name in names]
