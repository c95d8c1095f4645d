"""Coverage of schemas by the grammar engines."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from evals.structured_output import coverage
from evals.structured_output.coverage import (
    ENGINES,
    SchemaCoverage,
    cover,
    cover_within,
    coverage_tables,
    source_table,
)
from modelstack.toolcalls.grammar.compiler import GrammarCompiler
from tests.modelstack.toolcalls.vocabularies import small


@pytest.fixture(scope="module", params=ENGINES)
def compiler(request: pytest.FixtureRequest) -> GrammarCompiler:
    return GrammarCompiler(small(), request.param, "check", cache_size=1)


def test_a_plain_schema_is_enforced(compiler: GrammarCompiler) -> None:
    found = cover({"type": "object", "properties": {"a": {"enum": [1, 2]}}}, compiler)
    assert found.outcome == "enforced"
    assert found.enforced == {"type": 1, "properties": 1, "enum": 1}
    assert found.checked == {}


def test_a_keyword_beyond_the_grammar_is_checked_and_a_format_without_meaning_noted(
    compiler: GrammarCompiler,
) -> None:
    schema = {"type": "array", "uniqueItems": True, "items": {"type": "string", "format": "int-and-so-on"}}
    found = cover(schema, compiler)
    assert (found.outcome, found.checked, found.annotations) == ("checked", {"uniqueItems": 1}, 1)


def test_a_pattern_that_nothing_decides_is_open_and_not_counted_as_checked(compiler: GrammarCompiler) -> None:
    strings = {"type": "string", "pattern": "^(?!a)[a-c]+$"}
    found = cover({"type": "array", "items": strings, "uniqueItems": True}, compiler)
    assert (found.outcome, found.checked, found.open) == ("open", {"uniqueItems": 1}, {"pattern": 1})
    found = cover({"oneOf": [strings, {"type": "string", "pattern": "^b$"}]}, compiler)
    assert (found.outcome, found.checked, found.open) == ("open", {"oneOf": 1}, {"pattern": 1})


@pytest.mark.parametrize("schema", [{"type": "objekt"}, {"$ref": "https://example.org/x"}])
def test_what_cannot_be_compiled_is_refused_with_a_reason(
    compiler: GrammarCompiler, schema: dict[str, Any]
) -> None:
    found = cover(schema, compiler)
    assert found.outcome == "refused"
    assert found.refused_keyword and found.why


class Broken:
    """A compiler with a defect, or without end."""

    def __init__(self, *, endless: bool) -> None:
        self._endless = endless

    def compile(self, response_format: Any) -> Any:
        while self._endless:
            pass
        raise KeyError("lost")


def test_a_defect_of_the_compiler_is_a_finding() -> None:
    found = cover({}, Broken(endless=False))  # pyright: ignore[reportArgumentType]
    assert (found.outcome, found.refused_keyword) == ("refused", "(defect)")


@pytest.mark.skipif(sys.platform == "win32", reason="needs interval timers")
def test_compiling_without_end_is_stopped() -> None:
    found = cover_within(0.05, {}, Broken(endless=True))  # pyright: ignore[reportArgumentType]
    assert (found.outcome, found.refused_keyword) == ("refused", "(time)")
    assert "0.05 s" in found.why


def test_the_tables_count_schemas_keywords_and_reasons() -> None:
    found = {
        "llguidance": [
            SchemaCoverage("enforced", 0.001, {"type": 2}),
            SchemaCoverage("checked", 0.003, {"type": 1}, {"uniqueItems": 2}),
            SchemaCoverage("open", 0.004, {"type": 1}, {"uniqueItems": 1}, {"pattern": 1}),
            SchemaCoverage("refused", 0.002, refused_keyword="$ref", why="remote"),
        ]
    }
    shares, keywords, refused = coverage_tables(found)
    assert shares.rows[0][:2] == ("llguidance", "4")
    assert [cell.partition(":")[0] for cell in shares.rows[0][2:6]] == ["1", "1", "1", "1"]
    assert shares.rows[0][6:] == ("3.00", "4.00")
    assert keywords.rows == (
        ("type", "4", "0", "0"),
        ("uniqueItems", "0", "3", "0"),
        ("pattern", "0", "0", "1"),
    )
    assert refused.rows == (("llguidance", "$ref", "remote", "1"),)


def test_outcomes_are_counted_by_source_the_largest_first() -> None:
    enforced, refused = SchemaCoverage("enforced", 0.0), SchemaCoverage("refused", 0.0)
    table = source_table(["a", "b", "b"], {"x": [enforced, enforced, refused], "y": [refused, refused, refused]})
    assert table.columns == (
        "source",
        "schemas",
        *("x: enforced", "checked", "open", "refused"),
        *("y: enforced", "checked", "open", "refused"),
    )
    assert table.rows == (
        ("b", "2", "1", "0", "0", "1", "0", "0", "0", "2"),
        ("a", "1", "1", "0", "0", "0", "0", "0", "0", "1"),
    )


def test_the_command_covers_a_file_with_both_engines(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"name": f"t{n}", "parameters": {"type": "object", "minProperties": n}} for n in range(3)]
    data, out = tmp_path / "tools.jsonl", tmp_path / "found.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    arguments = ["coverage", "--data", str(data), "--model", str(tiny_gguf), "--json", str(out)]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setenv("COLUMNS", "200")
    assert coverage.main() == 0
    assert "minProperties" in capsys.readouterr().out
    found = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [(row["engine"], row["outcome"]) for row in found[::3]] == [
        ("llguidance", "enforced"),
        ("lm-format-enforcer", "checked"),
    ]
    monkeypatch.setattr(sys, "argv", [*arguments, "--sample", "1", "--engine", "llguidance"])
    assert coverage.main() == 0
    assert len(out.read_text(encoding="utf-8").splitlines()) == 1
    monkeypatch.setattr(sys, "argv", ["coverage", "--data", str(tmp_path / "none.jsonl")])
    assert coverage.main() == 2
    assert "is missing" in capsys.readouterr().err
