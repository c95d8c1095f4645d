"""The page of features names tests that exist."""

from __future__ import annotations

import re

from tests.docs.blocks import ROOT


def test_each_feature_names_tests_that_exist() -> None:
    rows = re.findall(r"^\| (?!feature|---)(.+?) \| (.+?) \|$", (ROOT / "docs/tested.md").read_text("utf-8"), re.M)
    assert len(rows) > 30
    for feature, tests in rows:
        named = re.findall(r"`(tests/[\w/.]+)`", tests)
        assert named and all((ROOT / path).exists() for path in named), feature
