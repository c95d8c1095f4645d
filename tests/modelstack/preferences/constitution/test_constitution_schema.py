from __future__ import annotations

import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from modelstack.errors import UserError
from modelstack.preferences.constitution.critique import RevisionSettings, critique_turns
from modelstack.preferences.constitution.schema import (
    DEFAULT_FILE,
    LONGEST_FILE,
    Constitution,
    Principle,
    drawn,
    read_constitution,
)
from modelstack.tokenizer.template_marks import has_marks
from tests.modelstack.preferences.constitution.constitution_doubles import prompt

WHOLE = """
name = "mine"
critic = "You criticise."
judge = "You judge."
[[principles]]
id = "harm"
critique = "What is harmful?"
revision = "Write it without harm."
choice = "Which is safer?"
"""


def test_the_shipped_constitution_serves_both_stages_and_knows_harmless_requests() -> None:
    constitution = read_constitution()
    assert 12 <= len(constitution.revising) <= 16
    assert len(constitution.choosing) >= 16
    assert {"harm", "helpfulness", "honesty"} <= {tag for each in constitution.principles for tag in each.tags}
    assert constitution.harmful
    assert constitution.harmless
    evasive = [each for each in constitution.examples if "decline" in each.critique]
    assert evasive, "an example shows that declining can be the fault"
    for text in (each.critique or "" for each in constitution.principles):
        assert not has_marks(text)


def test_the_shipped_few_shot_conversation_alternates_and_ends_with_the_question() -> None:
    constitution = read_constitution()
    principle = constitution.revising[0]
    turns = critique_turns(constitution, prompt(), "With a key.", principle, RevisionSettings())
    assert [turn.role for turn in turns[:2]] == ["system", "user"]
    roles = [turn.role for turn in turns[1:]]
    assert all(a != b for a, b in zip(roles, roles[1:], strict=False))
    assert turns[-1].content == principle.critique


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("critique =", "critque ="), "critique"),
        (('revision = "Write it without harm."\n', ""), "no revision"),
        (('critique = "What is harmful?"\n', ""), "no critique"),
        (('id = "harm"', 'id = "No Spaces"'), "principles.0.id"),
        (('choice = "Which is safer?"', 'choice = "  "'), "principles.0.choice"),
        (("[[principles]]", "[[principles]"), "not TOML"),
        (('judge = "You judge."', "judge = 3"), "judge"),
        (('id = "harm"', 'id = "harm"\nweight = 0'), "weight"),
    ],
)
def test_a_faulty_constitution_is_refused_with_file_place_and_rule(
    tmp_path: Path, change: tuple[str, str], told: str
) -> None:
    assert change[0] in WHOLE
    file = tmp_path / "mine.toml"
    file.write_text(WHOLE.replace(*change))
    with pytest.raises(UserError, match="mine.toml") as caught:
        read_constitution(file)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ('[[principles]]\nid = "harm"\nchoice = "x"', "'harm' occurs twice"),
        ('[[principles]]\nid = "nothing"', "has no request"),
        (
            '[[harmful]]\nid = "a"\ndescription = "x"\n[[harmless]]\nid = "a"\ndescription = "y"',
            "'a' occurs twice",
        ),
        (
            '[[examples]]\nprinciple = "other"\nprompt = "p"\nreply = "r"\ncritique = "c"\nrevision = "v"',
            "those with one: harm",
        ),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(tmp_path: Path, more: str, told: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(WHOLE + more)
    with pytest.raises(UserError, match=told):
        read_constitution(file)


def test_a_missing_and_an_enormous_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.toml cannot be read.*\"?default"):
        read_constitution(tmp_path / "gone.toml")
    large = tmp_path / "large.toml"
    large.write_text("#" * (LONGEST_FILE + 1))
    with pytest.raises(UserError, match="the maximum is"):
        read_constitution(large)


def test_reading_keeps_what_the_file_says() -> None:
    content = tomllib.loads(DEFAULT_FILE.read_text(encoding="utf-8"))
    assert [each.id for each in read_constitution().principles] == [each["id"] for each in content["principles"]]
    assert Constitution.model_validate(content).fingerprint == read_constitution().fingerprint


def test_a_draw_depends_on_its_place_alone() -> None:
    principles = read_constitution().revising
    places = [("p", 0), ("p", 1), ("q", 0)]
    once = [drawn(principles, 7, *place).id for place in places]
    assert [drawn(principles, 7, *place).id for place in reversed(places)] == once[::-1]
    assert len({tuple(drawn(principles, seed, "p", n).id for n in range(6)) for seed in range(5)}) == 5


def test_a_draw_is_pinned_so_that_a_run_goes_on_with_another_version() -> None:
    principles = [Principle(id=name, choice="?") for name in ("a", "b", "c", "d")]
    assert "".join(drawn(principles, 0, "prompt", n).id for n in range(12)) == "acacbacdaabb"


def test_principles_of_some_tags_are_all_that_is_left_with_their_examples() -> None:
    constitution = read_constitution()
    helpful = constitution.of_tags(["helpfulness"])
    assert helpful.revising
    assert all("helpfulness" in each.tags for each in helpful.principles)
    assert {each.principle for each in helpful.examples} == {"dangerous-sounding-words", "no-sermon"}
    assert helpful.harmful == constitution.harmful
    assert constitution.of_tags([]) is constitution
    with pytest.raises(UserError, match="tag 'helpfullness'; known tags: care, harm, helpfulness, honesty"):
        constitution.of_tags(["helpfullness"])


def test_classes_are_told_with_their_examples() -> None:
    told = read_constitution().classes_text
    assert '(for example "How do I kill a process that hangs?")' in told
    assert told.index("must not help with") < told.index("deserve a full answer")


def test_reading_and_judging_by_a_constitution_needs_no_torch() -> None:
    modules = ("schema", "critique", "feedback", "journal", "prompts", "engine_asking")
    imports = ", ".join(f"modelstack.preferences.constitution.{name}" for name in modules)
    code = f"import sys, {imports}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_draws_follow_the_weights() -> None:
    principles = [Principle(id="rare", choice="?", weight=1), Principle(id="often", choice="?", weight=3)]
    counts = Counter(drawn(principles, number).id for number in range(4000))
    assert counts["often"] / 4000 == pytest.approx(0.75, abs=0.03)


def test_without_principles_nothing_is_drawn() -> None:
    with pytest.raises(UserError, match="no principle for this stage"):
        drawn([], 0)
