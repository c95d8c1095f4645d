"""Each promise about combined features names a test that exists."""

from __future__ import annotations

import re

from tests.docs.blocks import ROOT

NAMED_TEST = re.compile(r"`((?:\w+/)*test_\w+\.py)::(test_\w+)`")


def test_each_promise_about_combinations_names_a_test_that_exists() -> None:
    text = (ROOT / "docs" / "guides" / "composition.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| Promise")]
    assert rows
    for row in rows:
        named = NAMED_TEST.findall(row)
        assert named, row
        for path, function in named:
            source = (ROOT / "tests" / "agentkit" / path).read_text(encoding="utf-8")
            assert re.search(rf"^(?:async )?def {function}\(", source, re.MULTILINE), f"{path}::{function}"
