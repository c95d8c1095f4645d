"""What files are dropped for, and what is measured on the way."""

from __future__ import annotations

import ast
import io
import random
import sysconfig
import tokenize
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelstack.data.code.comments import comment_share, comment_spans
from modelstack.data.code.generated import GeneratedCode, says_generated
from modelstack.data.code.html_text import visible_text_length
from modelstack.data.code.languages import LANGUAGE, all_languages, identify_language, language_of
from modelstack.data.code.notebooks import notebook_as_script
from modelstack.data.code.rules import CodeRules, reason_to_drop
from modelstack.data.documents import Document
from modelstack.data.privacy.step import Privacy

STDLIB = Path(sysconfig.get_path("stdlib"))
GOOD = '"""Adds numbers."""\n\n\ndef add(one, other):\n    # Both are numbers.\n    return one + other\n'


def _reason(text: str, path: str = "src/module.py", **limits: object) -> str | None:
    document = Document(id="1", text=text, metadata={"path": path})
    return CodeRules.model_validate(limits).build()(document)


@pytest.mark.parametrize(
    ("path", "text", "name"),
    [
        ("a/b.py", "", "python"),
        ("a/b.TSX", "", "typescript"),
        ("Makefile", "", "makefile"),
        ("dir/CMakeLists.txt", "", "cmake"),
        ("notes.txt", "", "text"),
        ("bin/tool", "#!/usr/bin/env python3\n", "python"),
        ("bin/tool", "#!/usr/bin/env -S node --harmony\n", "javascript"),
        ("bin/tool", "#!/bin/bash -e\n", "shell"),
        ("bin/tool", "#!/usr/bin/perl5.36\n", "perl"),
        (".bashrc", "", None),
        ("archive.zip", "PK", None),
        ("", "", None),
    ],
)
def test_a_language_is_told_by_name_or_first_line(path: str, text: str, name: str | None):
    language = language_of(path, text)
    assert (language.name if language else None) == name


def test_the_table_has_many_languages_and_no_extension_twice():
    languages = all_languages()
    assert len([one for one in languages.values() if one.kind == "programming"]) >= 60
    assert sum(one.syntax.has_comments for one in languages.values()) >= 80
    import tomllib

    from modelstack.data.code.languages import TABLE

    extensions = [
        extension
        for fields in tomllib.loads(TABLE.read_text(encoding="utf-8"))["languages"].values()
        for extension in fields["extensions"]
    ]
    assert len(extensions) == len(set(extensions))


def test_the_language_is_written_down_and_one_that_is_written_counts():
    document = Document(id="1", url="https://host.example/repo/main.rs?raw=1")
    identify_language(document)
    assert document.metadata == {LANGUAGE: "rust"}
    known = Document(id="2", metadata={"path": "x.h", LANGUAGE: "c++"})
    language = identify_language(known)
    assert language is not None and language.name == "c++"


@pytest.mark.parametrize(
    ("language", "text", "comments"),
    [
        ("c", 'int x; // one\nchar *s = "// no"; /* two\n*/', ["// one", "/* two\n*/"]),
        ("python", "'''doc'''\nx = '''no'''  # yes\ny = '#no'", ["'''doc'''", "# yes"]),
        ("javascript", "let a = `// ${b}\n// no`; // yes", ["// yes"]),
        ("rust", "fn f<'a>(x: &'a str) {} // yes", ["// yes"]),
        ("haskell", "x = 1 -- one\n{- two -}", ["-- one", "{- two -}"]),
        ("lua", "--[[ a\nb ]] x = 1 -- c", ["--[[ a\nb ]]", "-- c"]),
        ("html", "<p>a</p><!-- b -->", ["<!-- b -->"]),
        ("sql", "SELECT '--no' -- yes", ["-- yes"]),
        ("c", "/* never closed", ["/* never closed"]),
        ("json", '{"a": "// no"}', []),
    ],
)
def test_comments_are_told_from_strings(language: str, text: str, comments: list[str]):
    spans = comment_spans(text, all_languages()[language].syntax)
    assert [text[start:end] for start, end in spans] == comments


def _share_by_parser(source: str) -> float:
    """As bigcode counts for Python: comments by `tokenize`, docstrings by `ast`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(source)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    n_chars = sum(len(token.string) for token in tokens if token.type == tokenize.COMMENT)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            if first is not None and ast.get_docstring(node) is not None:
                n_chars += len(ast.get_source_segment(source, first) or "")
    return n_chars / len(source)


def test_the_share_of_comments_is_that_of_a_parser_on_the_standard_library():
    paths = sorted(STDLIB.glob("*.py"))
    random.Random(0).shuffle(paths)
    differences = []
    for path in paths[:60]:
        source = path.read_text(encoding="utf-8", errors="replace")
        if 0 < len(source) < 60_000:
            differences.append(
                abs(_share_by_parser(source) - comment_share(source, all_languages()["python"].syntax))
            )
    assert len(differences) > 10
    assert sum(difference < 0.01 for difference in differences) >= 0.9 * len(differences)
    assert max(differences) < 0.12


@pytest.mark.parametrize(
    ("text", "path", "reason"),
    [
        (GOOD, "src/module.py", None),
        (" \n", "a.py", "empty"),
        (GOOD + "x = '" + "a b " * 300 + "'\n", "a.py", "long_line"),
        ("a b " * 300, "README.md", None),  # a paragraph a line
        ("a b " * 30_000, "README.md", "long_line"),
        ("total = one + other " + "+ more " * 20 + "# all\n", "a.py", "long_lines_on_average"),
        (GOOD + "a\n" * 100_001, "a.py", "many_lines"),
        ("- a: b\n" * 600, "a.yaml", "many_lines_of_data"),
        ("#" + "{}();+-*/&|\n" * 20, "a.c", "few_alphanumeric_characters"),
        ("x = 1\n" * 200, "a.py", "few_comments"),
        ("# all of it is said in words\n" * 20 + "x = 1\n", "a.py", "mostly_comments"),
        ('<?xml version="1.0"?>\n<a>text</a>', "a.config", "xml"),
        ("<html><script>" + "var a = 1;\n" * 50 + "</script><p>Hi</p></html>", "a.html", "little_visible_text"),
        ("<html><p>" + "Here is a long paragraph of text. " * 10 + "</p></html>", "a.html", None),
        ('{"a": 1}', "a.json", "small_data_file"),
        ('{"text": "' + "word " * 100 + '"}', "a.json", None),
        ('{\n"text": "' + "word,\n" * 500 + 'word " \n' * 400 + "}", "a.json", "many_lines_of_data"),
        ('{\n"text": "' + "several words on a line\n" * 400 + "}", "a.json", "large_data_file"),
        ("# data\nx = '''\n" + ("QUJD" * 16 + "\n") * 30 + "'''\n", "a.py", "encoded_data"),
        ("// bytes\nint a[] = {" + "0x1f,0x8b,0x08,0x00,\n" * 80 + "};\n", "a.c", "encoded_data"),
    ],
)  # fmt: skip
def test_files_are_dropped_for_what_they_are(text: str, path: str, reason: str | None):
    assert _reason(text, path) == reason


def test_a_rule_that_is_off_drops_nothing():
    assert _reason("x = 1\n" * 200, min_comments=None) is None
    assert _reason('<?xml version="1.0"?>\n<a>text</a>', "a.config", drop_xml=False) is None
    assert _reason("x1 = 1 # a\n" * 20, min_alphabetic=0.5) == "few_letters"


def test_what_was_measured_is_written_down():
    document = Document(id="1", text=GOOD, metadata={"path": "a.py"})
    CodeRules().build()(document)
    assert document.metadata["longest_line"] == 23
    assert 0.3 < document.metadata["comments"] < 0.5
    assert document.metadata["alphanumeric"] > 0.5


def test_characters_per_token_are_counted_with_the_tokenizer_given():
    python = all_languages()["python"]
    scores: dict[str, object] = {}
    few = reason_to_drop(GOOD, python, CodeRules(), lambda text: len(text) // 2, scores)
    assert few == "few_characters_per_token" and scores["chars_per_token"] == 2.0
    assert reason_to_drop(GOOD, python, CodeRules(), lambda text: len(text) // 4) is None


def test_a_tokenizer_is_loaded_when_the_step_is_built(tmp_path: Path):
    pytest.importorskip("tokenizers")
    from modelstack.tokenizer.tokenizer_folder import save_tokenizer
    from modelstack.tokenizer.training import TokenizerConfig, train_tokenizer

    save_tokenizer(train_tokenizer(["a b c"] * 4, TokenizerConfig(vocab_size=300)), tmp_path / "tokenizer")
    # One that has learnt no words: a token for each byte.
    assert _reason(GOOD, tokenizer=tmp_path / "tokenizer") == "few_characters_per_token"


def test_the_standard_library_is_mostly_kept():
    paths = sorted(path for path in STDLIB.glob("*.py") if path.stat().st_size < 40_000)
    reasons = [_reason(path.read_text(encoding="utf-8", errors="replace"), path.name) for path in paths[:80]]
    assert sum(reason is None for reason in reasons) >= 0.9 * len(reasons)
    assert set(reasons) <= {None, "few_comments", "mostly_comments", "empty"}


@pytest.mark.parametrize(
    ("path", "text", "reason"),
    [
        ("package-lock.json", "{}", "lock_file"),
        ("sub/Cargo.lock", "", "lock_file"),
        ("node_modules/a/index.js", "x", "vendored"),
        ("src/third_party/zlib/inflate.c", "x", "vendored"),
        ("api/service_pb2.py", "x", "generated_by_name"),
        ("api/service.pb.go", "x", "generated_by_name"),
        ("src/a.go", "// Code generated by stringer; DO NOT EDIT.\npackage a", "says_generated"),
        ("src/a.py", "# This file is generated from numpy's setup.py\n", "says_generated"),
        ("src/a.py", "\n" * 4 + "# Auto-generated by a script\n", "says_generated"),
        ("src/a.py", "\n" * 5 + "# an auto-generated list\n", None),
        ("src/parser.c", "/* A Bison parser, made by GNU Bison 3.8.2.  */\n", "says_generated"),
        ("src/generator.py", '"""Generates code; what is generated goes to a file."""\n', None),
        ("src/a.py", "# Do not edit the table without asking.\n", None),
        ("dist/app.min.js", "x", "minified"),
        ("app.js", "var a=1;" * 100, "minified"),
        ("app.js", "var a = 1;\n" * 100, None),
        ("a.py", "x = " + "1 + " * 100 + "1\n", None),
    ],
)
def test_generated_files_are_told_by_name_head_and_shape(path: str, text: str, reason: str | None):
    document = Document(id="1", text=text, metadata={"path": path})
    assert GeneratedCode().build()(document) == reason


def test_vendored_files_are_kept_when_asked_for():
    document = Document(id="1", text="x", metadata={"path": "vendor/a.go"})
    assert GeneratedCode(drop_vendored=False).build()(document) is None


NOTEBOOK = (
    '{"cells": [{"cell_type": "markdown", "source": ["# Title\\n", "words"]}, '
    '{"cell_type": "code", "source": "x = 1", '
    '"outputs": [{"text": "secret output"}]}], "metadata": {"kernelspec": {"language": "python"}}, "nbformat": 4}'
)


def test_a_notebook_becomes_a_script_without_outputs():
    document = Document(id="1", text=NOTEBOOK, metadata={"path": "a.ipynb"})
    assert GeneratedCode().build()(document) is None
    assert document.text == "# # Title\n# words\n\nx = 1\n"
    assert document.metadata[LANGUAGE] == "python"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"cells": 1}', '{"cells": [1, {"source": 2}]}', "[" * 100_000])
def test_a_notebook_that_cannot_be_read_is_dropped(text: str):
    assert notebook_as_script(text) is None
    document = Document(id="1", text=text, metadata={"path": "a.ipynb"})
    assert GeneratedCode().build()(document) == "broken_notebook"


def test_keys_in_code_become_tags_and_are_counted():
    key = "ghp_" + "1234567890abcdefghijABCDEFGHIJ567890"
    document = Document(id="1", text=f'TOKEN = "{key}"  # of anna@example.com\n')
    keys = Privacy(kinds=("key",), style="tag")
    assert keys.build()(document) is None
    assert document.text == 'TOKEN = "<KEY>"  # of anna@example.com\n'
    assert document.metadata["private"] == {"key": 1}
    both = Document(id="2", text=f'TOKEN = "{key}"  # of anna@example.com\n')
    few = Privacy(kinds=("key", "email"), style="tag", max_findings=1)
    assert few.build()(both) == "too_much_private_data"


def test_visible_text_is_what_stands_between_tags():
    html = "<p>One  two</p>\n<style>p { }</style><SCRIPT>if (a < b) x</SCRIPT><!-- no -->3 < 4<br>"
    assert visible_text_length(html) == len("One two 3 < 4")
    assert visible_text_length("<p") == 0


NAMES = st.sampled_from(sorted(all_languages()))
PIECES = st.sampled_from(
    [
        '"""',
        "'''",
        '"',
        "'",
        "`",
        "#",
        "//",
        "/*",
        "*/",
        "--",
        "{-",
        "-}",
        "--[[",
        "]]",
        "<!--",
        "-->",
        "\n",
        "\\",
        "a",
    ]
)


@settings(max_examples=150, deadline=None)
@given(name=NAMES, text=st.lists(st.one_of(PIECES, st.text(max_size=8)), max_size=30).map("".join))
def test_any_text_in_any_language_is_judged(name: str, text: str):
    language = all_languages()[name]
    spans = list(comment_spans(text, language.syntax))
    assert all(0 <= start < end <= len(text) for start, end in spans)
    assert all(one[1] <= other[0] for one, other in zip(spans, spans[1:], strict=False))
    assert 0 <= visible_text_length(text) <= 2 * len(text) + 1
    reason_to_drop(text, language, CodeRules())
    says_generated(text)


@pytest.mark.parametrize(
    "piece",
    [
        '"',
        "'",
        "\\",
        "/*",
        "<",
        "<script",
        "<!--",
        "<a",
        "0x",
        "0x1f ",
        "1f\t\t",
        "\\u00e9",
        "a\n",
        '"""',
        "generated by ",
    ],
)
@pytest.mark.timeout(60)
def test_hostile_files_are_judged_soon(piece: str):
    text = piece * (100_000 // len(piece))
    limits = CodeRules(
        max_line=None, max_mean_line=None, max_lines=None, min_alphanumeric=None, max_encoded_run=10**9
    )
    for name in ("python", "c", "html", "javascript"):
        reason_to_drop(text, all_languages()[name], limits)
    says_generated(text)
