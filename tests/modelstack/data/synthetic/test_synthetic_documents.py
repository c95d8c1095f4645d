"""Synthetic documents: labelled, checked, counted by reason, and the same whenever the run was killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from modelstack.data.documents import Document
from modelstack.data.reading import JsonlInput, open_input
from modelstack.data.synthetic.checks import copied_share
from modelstack.data.synthetic.recipe import SyntheticRecipe
from modelstack.data.synthetic.run import ATTEMPTS_FILE, DOCUMENTS_FILE, MANIFEST_FILE, Request, write_documents
from modelstack.data.synthetic.template import Template
from modelstack.errors import UserError
from modelstack.recipe_file import checked_recipe, read_recipe
from modelstack.shipped_recipes import shipped_recipe
from modelstack.toolcalls.grammar.validation import SchemaValidator, check_schema
from tests.modelstack.data.synthetic.scripted_writer import (
    ScriptedWriter,
    recipe,
    sentences,
    write_seeds,
)

ROOT = Path(__file__).parents[4]


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_seeds(tmp_path_factory.mktemp("seeds") / "seeds.jsonl")


@pytest.fixture(scope="module")
def whole(seeds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without a stop."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    write_documents(recipe(seeds), ScriptedWriter(), folder)
    return folder


def same(a: Path, b: Path) -> bool:
    return all(
        (a / f).read_bytes() == (b / f).read_bytes() for f in (ATTEMPTS_FILE, DOCUMENTS_FILE, MANIFEST_FILE)
    )


def documents_of(folder: Path) -> list[Document]:
    items = list(open_input(JsonlInput(path=folder / DOCUMENTS_FILE)))
    return [item for item in items if isinstance(item, Document)]


def test_the_documents_are_read_as_any_input_and_say_what_they_are(whole: Path) -> None:
    documents = documents_of(whole)
    manifest = json.loads((whole / MANIFEST_FILE).read_text("utf-8"))
    assert len(documents) == manifest["n_documents"] == manifest["outcomes"]["kept"] > 10
    assert {d.metadata["template"] for d in documents} == {"retold", "asked"}
    for document in documents:
        number = document.metadata["seed_id"].removeprefix("seed-")
        assert document.metadata["synthetic"] is True
        assert (document.metadata["model"], document.metadata["model_sha256"]) == ("scripted", "5c" * 32)
        assert (document.metadata["seed_source"], document.metadata["seed_url"]) == ("tales", f"u{number}")
        assert (document.source, document.license) == ("synthetic/toy", "CC0-1.0")
        assert document.text.startswith(
            "A story\n\n" if document.metadata["template"] == "retold" else "Question: "
        )
    assert len({d.id for d in documents}) == len(documents)


def test_what_fails_is_counted_by_its_reason(seeds: Path, whole: Path) -> None:
    manifest = json.loads((whole / MANIFEST_FILE).read_text("utf-8"))
    writer = ScriptedWriter()
    write_documents(recipe(seeds), writer, whole.parent / "again")
    kinds = Counter(request.seed % 5 for request in writer.requests)
    assert manifest["n_attempts"] == 12 * 3 == kinds.total()
    assert manifest["outcomes"]["other_form"] == kinds[0]
    assert manifest["outcomes"]["context_full"] == kinds[1]
    assert manifest["outcomes"]["too_short"] == kinds[2]
    assert manifest["is_held_against_evaluations"] is False


@pytest.mark.parametrize("kill_at", [1, 2, 17])
def test_a_killed_run_goes_on_and_comes_to_the_same_bytes(
    kill_at: int, seeds: Path, whole: Path, tmp_path: Path
) -> None:
    program = "tests.modelstack.data.synthetic.scripted_writer"
    done = subprocess.run([sys.executable, "-m", program, seeds, tmp_path / "run", str(kill_at)], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    n_noted = (tmp_path / "run" / ATTEMPTS_FILE).read_bytes().count(b"\n")
    assert n_noted == kill_at - 1
    writer = ScriptedWriter()
    write_documents(recipe(seeds), writer, tmp_path / "run")
    assert len(writer.requests) == 36 - n_noted
    assert same(tmp_path / "run", whole)


def test_a_line_cut_at_any_byte_costs_its_attempt_alone(seeds: Path, whole: Path, tmp_path: Path) -> None:
    content = (whole / ATTEMPTS_FILE).read_bytes()
    lines = content.splitlines(keepends=True)
    last = len(content) - len(lines[-1])
    write_documents(recipe(seeds), ScriptedWriter(), tmp_path / "run")
    for end in (*range(last, len(content), 37), len(content) - 1):
        (tmp_path / "run" / ATTEMPTS_FILE).write_bytes(content[:end])
        writer = ScriptedWriter()
        write_documents(recipe(seeds), writer, tmp_path / "run")
        assert len(writer.requests) == 1
        assert same(tmp_path / "run", whole)


def test_a_finished_run_asks_for_nothing(seeds: Path, whole: Path) -> None:
    before = (whole / DOCUMENTS_FILE).read_bytes()
    writer = ScriptedWriter()
    write_documents(recipe(seeds), writer, whole)
    assert writer.requests == []
    assert (whole / DOCUMENTS_FILE).read_bytes() == before


def test_a_folder_of_another_recipe_or_model_or_of_something_else_is_left_alone(
    seeds: Path, whole: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="documents of another recipe"):
        write_documents(recipe(seeds, seed=1), ScriptedWriter(), whole)
    other = ScriptedWriter()
    other.sha256 = "00" * 32
    with pytest.raises(UserError, match="documents of another model"):
        write_documents(recipe(seeds), other, whole)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match=r"is not empty and holds no recipe\.json"):
        write_documents(recipe(seeds), ScriptedWriter(), tmp_path)


def test_a_journal_that_is_none_is_told_by_its_line(seeds: Path, tmp_path: Path) -> None:
    write_documents(recipe(seeds, max_attempts=2), ScriptedWriter(), tmp_path / "run")
    path = tmp_path / "run" / ATTEMPTS_FILE
    path.write_bytes(path.read_bytes() + b'{"key": 3}\n')
    with pytest.raises(UserError, match=r"attempts\.jsonl, line 3: not an attempt"):
        write_documents(recipe(seeds, max_attempts=2), ScriptedWriter(), tmp_path / "run")


def test_attempts_are_as_many_as_asked_for_and_repeated_or_empty_seeds_give_none(tmp_path: Path) -> None:
    seeds = write_seeds(tmp_path / "seeds.jsonl", 3)
    lines = seeds.read_text("utf-8")
    seeds.write_text(lines + lines + '{"text": "  "}\nno json\n', encoding="utf-8")
    manifest = write_documents(recipe(seeds), ScriptedWriter(), tmp_path / "all")
    assert manifest["n_attempts"] == 9
    assert manifest["seeds_passed"] == {"repeated": 9, "no_text": 1, "not_json": 1}
    assert write_documents(recipe(seeds, max_attempts=4), ScriptedWriter(), tmp_path / "four")["n_attempts"] == 4


class Replies:
    """A writer of one reply."""

    name, sha256 = "one reply", "00" * 32

    def __init__(self, reply: str) -> None:
        self._reply = reply

    def __call__(self, request: Request) -> str:
        return self._reply


def outcome(folder: Path, text: str, **checks: Any) -> str:
    seeds = write_seeds(folder / "seeds.jsonl", 1)
    templates = [{"name": "retold", "prompt": "{seed}"}]
    asked = recipe(seeds, templates=templates, checks={"min_characters": 100, "language": None} | checks)
    manifest = write_documents(asked, Replies(json.dumps({"title": "T", "text": text})), folder / "run")
    return next(iter(manifest["outcomes"]))


def test_a_copy_of_the_seed_goes_and_a_text_with_a_few_of_its_words_stays(tmp_path: Path) -> None:
    seed, own = sentences(1000, 60), sentences(7, 100)
    for name, text, expected in (
        ("copy", seed, "copies_seed"),
        ("marks", seed.upper().replace(" ", ",\n"), "copies_seed"),
        ("half", f"{own} {seed}", "copies_seed"),
        ("few", f"{own} {' '.join(seed.split()[:12])}", "kept"),
    ):
        (tmp_path / name).mkdir()
        assert outcome(tmp_path / name, text) == expected, name


def test_the_share_that_is_copied_is_of_runs_of_eight_words() -> None:
    words = [f"w{i}" for i in range(20)]
    assert copied_share(" ".join(words), " ".join(words)) == 1
    assert copied_share(" ".join(words), " ".join(words[:15])) == 8 / 13
    assert copied_share(" ".join(words), " ".join(words[:7])) == 0
    assert copied_share("w3 w4", " ".join(words)) == 1
    assert copied_share("", "w1") == copied_share("w1 w2", "w2 w1") == 0


def test_lengths_languages_and_evaluations_are_held(tmp_path: Path) -> None:
    pytest.importorskip("fasttext", reason="extra `data`")
    leak = "How many clips did Natalia sell altogether in April and May if she sold half as many later on?"
    (tmp_path / "exam.jsonl").write_text(json.dumps({"question": leak}) + "\n", encoding="utf-8")
    english = {"language": {"languages": ["en"], "threshold": 0.5}}
    german = (
        "Der kleine alte Fluss war nahe bei einem grünen Hügel, und die Leute dort erzählten viele Geschichten. "
    )
    held = {"decontaminate": {"evaluations": [str(tmp_path / "exam.jsonl")]}}
    for name, text, checks, expected in (
        ("long", sentences(7), {"max_characters": 120}, "too_long"),
        ("short", "Few words.", {}, "too_short"),
        ("german", german * 3, english, "language"),
        ("english", sentences(7), english, "kept"),
        ("leak", f"{sentences(7)} {leak}", held, "in_exam"),
        ("clean", sentences(7), held, "kept"),
    ):
        (tmp_path / name).mkdir()
        assert outcome(tmp_path / name, text, **checks) == expected, name


@pytest.mark.parametrize(
    ("form", "reply"),
    [
        ("document", "no json"),
        ("document", "[" * 100_000),
        ("document", '{"title": "T"}'),
        ("document", '{"title": "T", "text": "x", "more": 1}'),
        ("document", '{"title": "T", "text": 3}'),
        ("document", '{"title": "  ", "text": "x"}'),
        ("document", '{"title": "T", "text": "\\ud800"}'),
        ("document", '{"pairs": [{"question": "q", "answer": "a"}]}'),
        ("questions", '{"pairs": []}'),
        ("questions", '{"pairs": [{"question": "q", "answer": ""}]}'),
        ("questions", '{"pairs": [{"question": "q", "answer": "a"}, 5]}'),
        ("questions", json.dumps({"pairs": [{"question": "q", "answer": "a"}] * 9})),
    ],
    ids=range(12),
)
def test_a_reply_of_another_form_is_no_document(form: str, reply: str) -> None:
    template = checked_recipe(Template, {"name": "t", "form": form, "prompt": "{seed}"})
    assert template.text_of(reply) is None


def test_replies_of_a_form_become_a_text_and_fit_the_schema_that_grammars_hold() -> None:
    document = Template(name="t", prompt="{seed}")
    questions = Template(name="t", form="questions", prompt="{seed}")
    pairs = [{"question": "Who?", "answer": "I."}, {"question": "Why?", "answer": "So."}]
    for template, value, text in (
        (document, {"title": " T ", "text": "One.\nTwo. "}, "T\n\nOne.\nTwo."),
        (questions, {"pairs": pairs}, "Question: Who?\nAnswer: I.\n\nQuestion: Why?\nAnswer: So."),
    ):
        assert template.text_of(json.dumps(value)) == text
        assert check_schema(dict(template.schema_of_reply)) is None
        validator = SchemaValidator(template.schema_of_reply, template.schema_of_reply)
        assert validator.errors(value) == []
        assert validator.errors(value | {"more": 1}) != []


def test_a_long_seed_is_shown_up_to_a_word_and_its_own_braces_stay() -> None:
    template = Template(name="t", prompt="Retell {seed} now, {name}.", seed_characters=10)
    assert template.asked("one {two} three") == "Retell one {two} now, {name}."
    assert template.asked("short") == "Retell short now, {name}."
    assert template.asked("x" * 50) == f"Retell {'x' * 10} now, {{name}}."
    assert template.asked("{seed}") == "Retell {seed} now, {name}."


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"templates": [{"name": "a", "prompt": "no place"}]}, "must contain {seed} exactly once"),
        ({"templates": [{"name": "a", "prompt": "{seed}"}] * 2}, "two templates are called 'a'"),
        ({"templates": []}, "'templates'"),
        ({"inputs": []}, "'inputs'"),
        ({"chekcs": {}}, "nearest: 'checks'"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(changes: dict[str, Any], message: str, seeds: Path) -> None:
    with pytest.raises(UserError, match=message):
        recipe(seeds, **changes)


def test_the_recipe_that_comes_with_the_sources_is_one() -> None:
    shipped = read_recipe(SyntheticRecipe, shipped_recipe("data/synthesise/plain").path)
    assert {template.form for template in shipped.templates} == {"document", "questions"}
