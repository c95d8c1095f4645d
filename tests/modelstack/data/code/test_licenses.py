"""Which licence a text holds, a file states, a repository has; and whether it may be kept."""

from __future__ import annotations

import importlib.metadata
import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from modelstack.data.code.expressions import category_of, ids_of, is_allowed, known_id, parse, written
from modelstack.data.code.license_statements import license_stated_in
from modelstack.data.code.license_step import License
from modelstack.data.code.license_texts import fingerprints, licenses_in
from modelstack.data.code.repository import is_license_file, license_of_files, licenses_of_folders
from modelstack.data.documents import Document
from modelstack.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[4]
COMMON = Path("/usr/share/common-licenses")
MIT = """Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction, including without
limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of
the Software, and to permit persons to whom the Software is furnished to do so, subject to the following
conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial
portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT
LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO
EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN
AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE
OR OTHER DEALINGS IN THE SOFTWARE."""


def _stated(text: str) -> str | None:
    node = license_stated_in(text)
    return written(node) if node else None


def test_the_text_of_a_licence_is_known_in_comments_and_with_other_holders():
    assert licenses_in("Copyright (c) 2020 Ann Example\n\n" + MIT) == ["MIT"]
    assert licenses_in("\n".join(f" * {line}" for line in MIT.split("\n"))) == ["MIT"]
    assert licenses_in("Some words on software and on permission, without warranty.") == []


def test_our_own_licence_is_apache():
    assert licenses_in((REPOSITORY / "LICENSE").read_text(encoding="utf-8")) == ["Apache-2.0"]


@pytest.mark.skipif(not COMMON.exists(), reason="Debian's common licences are not here")
@pytest.mark.parametrize(
    ("name", "license_id"),
    [
        *(("GPL-2", "GPL-2.0"), ("GPL-3", "GPL-3.0"), ("LGPL-2.1", "LGPL-2.1"), ("LGPL-3", "LGPL-3.0")),
        *(("BSD", "BSD-3-Clause"), ("MPL-2.0", "MPL-2.0"), ("Artistic", "Artistic-1.0"), ("GFDL-1.3", "GFDL-1.3")),
        *((name, name) for name in ("AGPL-3.0", "CC-BY-4.0", "CC-BY-SA-4.0", "CC0-1.0", "BSL-1.0")),
    ],
)
def test_licences_of_a_family_are_told_apart(name: str, license_id: str):
    path = COMMON / name
    if not path.exists():
        pytest.skip(f"{path} is not here")
    assert licenses_in(path.read_text(encoding="utf-8", errors="replace")) == [license_id]


def test_two_licences_in_a_file_are_both_found():
    apache = (REPOSITORY / "LICENSE").read_text(encoding="utf-8")
    assert licenses_in(f"{MIT}\n\n{apache}") == ["Apache-2.0", "MIT"]


def test_every_fingerprint_has_a_category():
    assert {one.license_id for one in fingerprints() if category_of(one.license_id) == "unknown"} == set()


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("// SPDX-License-Identifier: MIT\nint x;", "MIT"),
        ("/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */", "GPL-2.0-only"),
        ("<!-- SPDX-License-Identifier: (MIT OR Apache-2.0) -->", "MIT OR Apache-2.0"),
        ("# SPDX-License-Identifier: Apache-2.0\n# SPDX-License-Identifier: MIT\n", "Apache-2.0 AND MIT"),
        ('# Licensed under the Apache License, Version 2.0 (the "License");\n', "Apache-2.0"),
        (
            "# it under the terms of the GNU General Public License as published by\n# the Free Software "
            "Foundation; either version 3 of the License, or\n# (at your option) any later version.",
            "GPL-3.0-or-later",
        ),
        (
            "* GNU Lesser General Public License as published by the FSF; version 2.1 of the License",
            "LGPL-2.1-only",
        ),
        ("# GNU Affero General Public License, version 3, or any later version", "AGPL-3.0-or-later"),
        ("# subject to the terms of the Mozilla Public License, v. 2.0.", "MPL-2.0"),
        ("# Released under the MIT license.", "MIT"),
        ("# Use of this source code is governed by a BSD-style license; see LICENSE.", None),
        ("# This file is released into the public domain.", "LicenseRef-Public-Domain"),
        ("# How to choose a license for your code\nx = 1", None),
        ("x = 1", None),
        (f"/*\n{MIT}\n*/", "MIT"),
    ],
)
def test_a_file_states_its_licence(text: str, expression: str | None):
    assert _stated(text) == expression


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True),
        ("MIT License", True),
        ("Apache 2.0", True),
        ("MIT OR GPL-3.0-only", True),
        ("MIT AND GPL-3.0-only", False),
        ("(MIT OR GPL-2.0-only) AND BSD-3-Clause", True),
        ("(MIT AND GPL-2.0-only) OR LGPL-3.0-or-later", False),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("GPL-2.0-or-later WITH Classpath-exception-2.0", False),
        ("Foo-1.0", False),
    ],
)
def test_an_expression_is_allowed_when_the_list_covers_it(expression: str, allowed: bool):
    node = parse(expression)
    assert node is not None and is_allowed(node, {"permissive"}) is allowed


def test_an_expression_is_written_so_that_it_reads_back():
    for expression in ("MIT", "MIT OR Apache-2.0", "(MIT OR ISC) AND Zlib", "MIT AND ISC OR Zlib"):
        node = parse(expression)
        assert node is not None and parse(written(node)) == node


@pytest.mark.parametrize(
    "expression", ["", "(", "MIT OR", "AND MIT", "MIT MIT ISC", "(" * 150 + "MIT ISC", "a, b; c", ")"]
)
def test_what_is_no_expression_is_none(expression: str):
    assert parse(expression) is None


def test_names_are_known_in_the_spellings_of_package_metadata():
    names = [
        "MIT License",
        "The BSD 3-Clause License",
        "Apache Software License",
        "mit",
        "GPLv3+",
        "Public Domain",
    ]
    ids = ["MIT", "BSD-3-Clause", "Apache-2.0", "MIT", "GPL-3.0-or-later", "LicenseRef-Public-Domain"]
    assert [known_id(name) for name in names] == ids
    assert known_id("My own terms") is None


def test_a_repositorys_licence_is_that_of_its_metadata_else_of_its_texts():
    package = '{"name": "a", "license": "MIT"}'
    assert _of_files({"package.json": package}) == "MIT"
    assert _of_files({"LICENSE": MIT, "README.md": "GPL-3.0"}) == "MIT"
    apache = (REPOSITORY / "LICENSE").read_text(encoding="utf-8")
    assert _of_files({"LICENSE-MIT": MIT, "LICENSE-APACHE": apache}) == "Apache-2.0 OR MIT"
    assert _of_files({"pyproject.toml": '[project]\nlicense = {text = "BSD-2-Clause"}'}) == "BSD-2-Clause"
    assert _of_files({"package.json": '{"license": "SEE LICENSE IN x"}', "COPYING": MIT}) == "MIT"
    assert _of_files({"package.json": "[1", "pyproject.toml": "= 1", "LICENSE": "All rights reserved."}) is None
    assert _of_files({"THIRD_PARTY_LICENSES": MIT, "LICENSE-THIRD-PARTY": MIT}) is None


def _of_files(files: dict[str, str]) -> str | None:
    node = license_of_files(files)
    return written(node) if node else None


def test_folders_have_licences_by_name(tmp_path: Path):
    for name, text in (("one", MIT), ("two", "nothing"), ("one/sub/part", "SPDX-License-Identifier: ISC")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "LICENSE").write_text(text, encoding="utf-8")
    assert licenses_of_folders([tmp_path / "one", tmp_path / "two"]) == {"one": "MIT", "one/sub/part": "ISC"}


def test_a_file_has_the_licence_of_the_nearest_folder_above_it(tmp_path: Path):
    table = tmp_path / "licenses.json"
    table.write_text(json.dumps({"a/b": "GPL-3.0-only", "a/b/lib/free": "MIT"}), encoding="utf-8")
    step = License(repository_licenses=table).build()
    for path, kept in (("lib/free/deep/x.py", True), ("lib/x.py", False), ("x.py", False)):
        document = Document(id="1", text="x = 1", metadata={"repository": "a/b", "path": path})
        assert (step(document) is None) is kept


def test_what_a_file_says_comes_before_its_repository_and_that_before_its_source(tmp_path: Path):
    table = tmp_path / "licenses.json"
    table.write_text(json.dumps({"owner/free": "MIT", "owner/gpl": "GPL-3.0-only"}), encoding="utf-8")
    step = License(repository_licenses=table).build()

    def judged(text: str, source: str = "", **metadata: str) -> tuple[str | None, str, str | None]:
        document = Document(id="1", text=text, license=source, metadata=dict(metadata))
        return step(document), document.license, document.metadata.get("license_from")

    assert judged("x = 1", repository="owner/free") == (None, "MIT", "repository")
    assert judged("x = 1", repository="owner/gpl") == ("license_not_allowed", "GPL-3.0-only", "repository")
    stated = "# SPDX-License-Identifier: ISC\n"
    assert judged(stated, repository="owner/gpl") == (None, "ISC", "file")
    assert judged("x = 1", repository_license="BSD-2-Clause") == (None, "BSD-2-Clause", "repository")
    assert judged("x = 1", source="CC BY-NC") == ("no_license", "CC BY-NC", None)
    assert judged("x = 1", source="MIT License") == (None, "MIT", "source")
    assert judged("x = 1") == ("no_license", "", None)


def test_an_allow_list_has_ids_and_categories():
    copyleft = License(allow=("permissive", "MPL-2.0"), keep_unlicensed=True).build()
    assert copyleft(Document(id="1", license="MPL-2.0")) is None
    assert copyleft(Document(id="2", license="GPL-3.0-only")) == "license_not_allowed"
    assert copyleft(Document(id="3")) is None


def test_a_list_or_a_table_that_cannot_be_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="'permisive' is neither a known licence"):
        License(allow=("permisive",)).build()
    table = tmp_path / "licenses.json"
    table.write_text('{"a": 1}', encoding="utf-8")
    with pytest.raises(UserError, match="the licence of 'a'"):
        License(repository_licenses=table).build()
    with pytest.raises(ValidationError):
        License.model_validate({"deny": ["GPL-3.0"]})


def test_licences_of_installed_packages_are_those_of_their_metadata(capsys: pytest.CaptureFixture[str]):
    """Against what authors declare; a text may hold more (what it bundles) or less (of "MPL-2.0 AND MIT" one)."""
    right = wrong = missed = n_dists = n_any = 0
    found = sorted(importlib.metadata.distributions(), key=lambda one: one.metadata["Name"].lower())
    random.Random(0).shuffle(found)
    for distribution in found[:80]:
        declared = _declared(distribution)
        texts = _license_texts(distribution)
        if not declared or not texts:
            continue
        stated = {license_id for text in texts if (node := license_stated_in(text)) for license_id in ids_of(node)}
        stated = {_family(license_id) for license_id in stated}
        n_dists += 1
        n_any += bool(declared & stated)
        right += len(declared & stated)
        wrong += len(stated - declared)
        missed += len(declared - stated)
    precision, recall = right / (right + wrong), right / (right + missed)
    with capsys.disabled():
        print(f"\n{n_dists} packages, {n_any} agree; precision {precision:.3f}, recall {recall:.3f}")
    assert n_any >= 0.95 * n_dists
    assert precision > 0.8 and recall > 0.85


def _declared(distribution: importlib.metadata.Distribution) -> set[str]:
    metadata = distribution.metadata
    (text,) = (metadata.get_all("License-Expression") or metadata.get_all("License") or [""])[:1]
    node = parse(text) if len(text) < 200 else None
    classifiers = [
        line.split("::")[-1].strip() for line in metadata.get_all("Classifier") or [] if "License ::" in line
    ]
    ids = ids_of(node) if node else {license_id for name in classifiers if (license_id := known_id(name))}
    return {_family(license_id) for license_id in ids if category_of(license_id) != "unknown"}


def _license_texts(distribution: importlib.metadata.Distribution) -> list[str]:
    files = [file for file in distribution.files or [] if ".dist-info" in str(file) and len(file.parts) <= 3]
    paths = [Path(str(file.locate())) for file in files if is_license_file(file.name)]
    return [path.read_text(encoding="utf-8", errors="replace") for path in paths if path.exists()]


def _family(license_id: str) -> str:
    """Metadata says "BSD" without the number of clauses, "GPL" without "or later"."""
    if "BSD" in license_id and license_id != "0BSD":
        return "BSD"
    return license_id.removesuffix("-only").removesuffix("-or-later")


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from("()ANDORWITH MITGPL-2.0+ "), max_size=60))
def test_any_text_as_an_expression_is_parsed_or_refused(text: str):
    node = parse(text)
    if node is not None:
        assert parse(written(node)) is not None


@pytest.mark.parametrize(
    "piece", ["license ", "SPDX-License-Identifier: (", "gnu public license ", "copyright 2 ", "a "]
)
@pytest.mark.timeout(60)
def test_hostile_licences_are_read_soon(piece: str):
    license_stated_in("license " + piece * (200_000 // len(piece)))
