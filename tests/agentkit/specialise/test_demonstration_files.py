"""Made-up files: what is asked about them and whether the answers agree with the text, computed anew."""

from __future__ import annotations

import ast
import csv
import json
import re
from collections.abc import Callable, Iterator

import pytest

from agentkit.specialise.demonstrations import (
    close_reading,
    file_moving,
    notes_code,
    notes_lists,
    notes_records,
    notes_schedules,
    notes_texts,
)
from agentkit.specialise.demonstrations.file_questions import Notes, Question
from agentkit.specialise.demonstrations.script import Script, Step
from agentkit.specialise.demonstrations.world import World, make_world
from modelstack.data.tools.spoken import Scene, scene

N_SEEDS = 30
MAKERS = (
    notes_records.inventory, notes_records.budget, notes_records.contacts, notes_schedules.roster,
    notes_schedules.results, notes_schedules.itinerary, notes_schedules.opening_hours, notes_lists.reading_log,
    notes_lists.todo, notes_lists.glossary, notes_texts.mail_thread, notes_texts.office_letter,
    notes_texts.changelog, notes_texts.readme, notes_code.json_settings, notes_code.yaml_settings,
    notes_code.python_file,
)  # fmt: skip


def _made(maker: Callable[[str, Scene], Notes], n: int = N_SEEDS) -> Iterator[Notes]:
    for number in range(n):
        yield maker("Title", scene("files", maker.__name__, number))


def _asked(made: Notes, pattern: str) -> Iterator[tuple[Question, str, re.Match[str]]]:
    """Yield each question with a wording that matches, and each of its answers."""
    for question in made.questions:
        for asked in question.asked:
            if found := re.search(pattern, asked):
                for answer in question.answers:
                    yield question, answer, found


def _number(text: str) -> int:
    found = re.search(r"\d+", text)
    assert found, text
    return int(found[0])


def _count(text: str) -> int:
    """Return the number that an answer to a question of how many ends with or, where it is one, begins with."""
    if re.search(r"\b[Nn]one\b|^0: |\bno\b", text):
        return 0
    if text.startswith(("One ", "1: ")):
        return 1
    return int(re.findall(r"\d+", text)[-1])


@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.__name__)
def test_each_file_has_questions_that_format_and_keywords_that_it_contains(
    maker: Callable[[str, Scene], Notes],
) -> None:
    for made in _made(maker):
        assert made.text.strip() and made.text.endswith("\n")
        assert 4 <= len(made.text.splitlines()) <= 60
        assert 5 <= len(made.questions) <= 8
        for question in made.questions:
            assert all("garden.md" in asked.format(file="garden.md") for asked in question.asked)
            assert question.answers and not any(re.search("[{}]", answer) for answer in question.answers)
            assert all(answer.endswith((".", '"')) and ".." not in answer for answer in question.answers), question
            assert not any("{" in asked for asked in question.alone)
            if question.alone:
                assert question.keyword and question.keyword.lower() in made.text.lower(), question


@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.__name__)
def test_texts_and_wordings_vary(maker: Callable[[str, Scene], Notes]) -> None:
    made = list(_made(maker))
    assert len({each.text for each in made}) == N_SEEDS
    assert len({asked for each in made for question in each.questions for asked in question.asked}) > 20


@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.__name__)
def test_the_last_lines_tell_what_is_asked_about_the_end(maker: Callable[[str, Scene], Notes]) -> None:
    for made in _made(maker):
        for question in made.questions:
            if question.tail:
                shown = " ".join(made.text.splitlines()[-question.tail :])
                assert all(word in shown for word in re.findall(r"\d+", question.answers[0]))


def test_an_inventory_agrees_with_its_rows() -> None:
    n_checked = 0
    for made in _made(notes_records.inventory, 60):
        rows = list(csv.DictReader(made.text.splitlines()))
        columns = {name: [int(row[name]) for row in rows] for name in rows[0] if rows[0][name].isdigit()}
        for _, answer, found in _asked(made, r"has the (highest|lowest) (\w+)"):
            word, column = found[1], found[2]
            best = (max if word == "highest" else min)(columns[column])
            name = next(row["name"] for row in rows if int(row[column]) == best)
            assert name in answer and answer.rstrip(".").endswith(str(best))
            n_checked += 1
        for _, answer, found in _asked(made, r"have a value above (\d+) in (\w+)"):
            above = [row["name"] for row in rows if int(row[found[2]]) > int(found[1])]
            assert _count(answer) == len(above) and all(name in answer for name in above)
        for _, answer, found in _asked(made, r"sum of the (\w+) column"):
            assert f"= {sum(columns[found[1]])}." in answer
        for _, answer, _found in _asked(made, r"^how many \w+ (are in|does) \{file\}"):
            assert _count(answer) == len(rows)
    assert n_checked > 60


def test_a_budget_agrees_with_its_amounts() -> None:
    for made in _made(notes_records.budget):
        found = re.findall(r"^(?:[-*] )?(.+?)(?:: | - | = )(\d+) (?:euros|EUR|€)$", made.text, re.MULTILINE)
        amounts = {name: int(number) for name, number in found}
        for _, answer, _found in _asked(made, "total of"):
            assert f"= {sum(amounts.values())} euros" in answer
        for _, answer, _found in _asked(made, "largest"):
            assert str(max(amounts.values())) in answer and max(amounts, key=lambda name: amounts[name]) in answer
        for _, answer, _found in _asked(made, "smallest"):
            assert str(min(amounts.values())) in answer
        for _, answer, _found in _asked(made, "^how many amounts are in"):
            assert _count(answer) == len(amounts)
        for _, answer, match in _asked(made, r"over (\d+)\?"):
            assert _count(answer) == sum(value > int(match[1]) for value in amounts.values())
        for _, answer, match in _asked(made, r"how much more does \{file\} have for (.+) than for (.+)\?"):
            assert _number(answer) == amounts[match[1]] - amounts[match[2]]


def test_contacts_agree_with_their_lines() -> None:
    for made in _made(notes_records.contacts):
        n = len(re.findall(r"555-\d{4}", made.text))
        for _, answer, _found in _asked(made, "^how many people are in"):
            assert _count(answer) == n
        for _, answer, match in _asked(made, r"^how many people in \{file\} live in (\w+)"):
            assert _count(answer) == made.text.count(match[1])
        for _, answer, match in _asked(made, r"^whose number is (\S+)\?"):
            name = re.findall(r"[A-Z][a-z]+ [A-Z][a-z]+", made.text[: made.text.index(match[1])])[-1]
            assert name in answer


def test_a_roster_agrees_with_its_days() -> None:
    for made in _made(notes_schedules.roster):
        for _, answer, match in _asked(made, r"how many shifts does (\w+) have"):
            n = len(re.findall(rf"\b{match[1]}\b", made.text))
            assert {1: "once", 2: "twice"}.get(n, str(n)) in answer or _count(answer) == n
        for _, answer, match in _asked(made, r"late shift on (\w+) in"):
            line = next(line for line in made.text.splitlines() if match[1] in line)
            name = re.search(r"late: (\w+)|late (\w+)|(\w+) \(late\)", line)
            assert name and next(filter(None, name.groups())) in answer


def test_results_agree_with_their_scores() -> None:
    for made in _made(notes_schedules.results):
        scores = [(int(a), int(b)) for a, b in re.findall(r"(\d+):(\d+)$", made.text, re.MULTILINE)]
        for _, answer, _found in _asked(made, r"^how many matches are in"):
            assert _count(answer) == len(scores)
        for _, answer, _found in _asked(made, r"^how many matches did .* (win|lose) in"):
            n = sum(a > b if _found[1] == "win" else a < b for a, b in scores)
            assert _count(answer) == n
        for _, answer, _found in _asked(made, r"^how many goals"):
            assert f"= {sum(a for a, _ in scores)} " in answer


def test_a_reading_log_agrees_with_its_lines() -> None:
    for made in _made(notes_lists.reading_log):
        pages = [int(number) for number in re.findall(r"(\d+) pages", made.text)]
        ratings = [int(a or b) for a, b in re.findall(r"(\d)/5|rating (\d) of 5", made.text)]
        assert len(pages) == len(ratings)
        for _, answer, _found in _asked(made, "^how many books are in"):
            assert _count(answer) == len(pages)
        for _, answer, _found in _asked(made, "at least 4 points"):
            n = sum(rating >= 4 for rating in ratings)
            assert _count(answer) == n
        for _, answer, _found in _asked(made, "longest"):
            assert str(max(pages)) in answer


def test_tasks_words_and_versions_are_counted_without_their_titles() -> None:
    for made in _made(notes_lists.todo):
        for _, answer, _found in _asked(made, "^how many tasks are in"):
            assert _count(answer) == len(re.findall(r"\d+ [A-Z][a-z]{2,8}\b", made.text))
        for _, answer, match in _asked(made, r"^how many tasks does (\w+) have"):
            assert _count(answer) == len(re.findall(rf"\b{match[1]}\b", made.text))
    for made in _made(notes_lists.glossary):
        for _, answer, _found in _asked(made, "^how many terms are in"):
            lines = re.findall(r"^(?:- |\*\*)?[a-z]+(?:\*\*)?(?:: | - | = )[a-z]", made.text, re.MULTILINE)
            assert _count(answer) == len(lines)
    for made in _made(notes_texts.changelog):
        for _, answer, _found in _asked(made, "^how many versions"):
            assert _count(answer) == len(re.findall(r"\d{4}-\d\d-\d\d", made.text))
        for _, answer, match in _asked(made, r"^how many changes does (\S+) have"):
            part = re.split(r"\n(?=.*\d{4}-)", made.text[made.text.index(match[1]) :])[0]
            n = len(re.findall("^- (?:added|fixed|changed)", part, re.MULTILINE))
            assert _count(answer.replace(match[1], "")) == n


def test_an_office_letter_agrees_with_its_sums() -> None:
    for made in _made(notes_texts.office_letter):
        words = ("Last year", "the amount is", "late fee")
        before, amount, fee = (_number(made.text[made.text.index(each) :]) for each in words)
        for _, answer, _found in _asked(made, "how much more than last year"):
            assert _number(answer) == amount - before
        for _, answer, _found in _asked(made, "how high is the late fee"):
            assert _number(answer) == fee


def test_opening_hours_agree_with_their_lines() -> None:
    for made in _made(notes_schedules.opening_hours):
        for _, answer, match in _asked(made, r"how many hours is the (.+) open on (\w+) in"):
            heading = re.search(rf"^(## )?{match[1]}:?$", made.text, re.IGNORECASE | re.MULTILINE)
            assert heading
            line = re.search(rf"{match[2]}: (\d+):00\D+(\d+):00", made.text[heading.start() :])
            assert line
            start, end = line.groups()
            assert _number(answer) == int(end) - int(start)


def test_settings_agree_with_json_and_yaml() -> None:
    for made in _made(notes_code.json_settings):
        config = json.loads(made.text)
        for _, answer, match in _asked(made, r"what is (\w+)\.(\w+) in"):
            assert str(config[match[1]][match[2]]) in answer
        for _, answer, _found in _asked(made, "how many users"):
            assert _count(answer) == len(config["users"])
        for _, answer, _found in _asked(made, "how many features are on"):
            n = sum(config["features"].values())
            assert _count(answer) == n
        ports = [part["port"] for part in config.values() if isinstance(part, dict) and "port" in part]
        for _, answer, _found in _asked(made, "highest port"):
            assert str(max(ports)) in answer
    for made in _made(notes_code.yaml_settings):
        memory = list(map(int, re.findall(r"memory: (\d+)", made.text)))
        for _, answer, _found in _asked(made, "^how many services are in"):
            assert _count(answer) == len(memory)
        for _, answer, _found in _asked(made, "most memory"):
            assert str(max(memory)) in answer


def test_a_python_file_agrees_with_its_syntax_tree() -> None:
    for made in _made(notes_code.python_file):
        functions = [node for node in ast.parse(made.text).body if isinstance(node, ast.FunctionDef)]
        for _, answer, _found in _asked(made, "^how many functions"):
            assert _count(answer) == len(functions)
        for _, answer, match in _asked(made, r"how many parameters does (\w+) have"):
            function = next(node for node in functions if node.name == match[1])
            assert _count(answer) == len(function.args.args)
        for question, _answer, _found in _asked(made, r"in which function of \{file\}"):
            line = next(n for n, text in enumerate(made.text.splitlines(), 1) if re.search("# (TODO|FIXME)", text))
            function = next(node for node in functions if node.lineno < line <= (node.end_lineno or 0))
            assert question.answers[0] == f"In {function.name}." and str(line) in question.answers[1]


def test_a_world_has_one_file_of_a_kind_and_questions_only_about_its_files() -> None:
    for number in range(N_SEEDS):
        world = make_world(scene("worlds", number))
        assert world.questions.keys() <= world.files.keys()
        assert {fact.path for fact in world.facts} <= world.files.keys()


def test_a_file_that_was_shown_is_asked_about_without_a_call() -> None:
    n_without_call = 0
    for number in range(N_SEEDS):
        now = scene("follow-up", number)
        world = make_world(now)
        path = now.one(sorted(world.questions))
        world.show(path)
        steps, answer = _played(close_reading._follow_up(world, now))
        assert answer and not steps
        n_without_call += 1
        world.files[path] += "another line\n"
        steps, _ = _played(close_reading._follow_up(world, now))
        assert any(call.name == "read_text_file" for step in steps for call in step.calls)
    assert n_without_call == N_SEEDS


def test_files_are_renamed_and_moved_to_another_path_that_keeps_suffix_or_name() -> None:
    n_moved = 0
    for number in range(N_SEEDS):
        for maker in dict.fromkeys(file_moving.MOVING):
            now = scene("moving", number)
            world = make_world(now)
            before = dict(world.files)
            steps, answer = _played(maker(world, now))
            if answer is None:
                continue
            n_moved += 1
            moved = steps[-1].calls[0]
            source, destination = str(moved.arguments["source"]), str(moved.arguments["destination"])
            assert moved.name == "move" and source != destination
            assert world.files == {**{p: t for p, t in before.items() if p != source}, destination: before[source]}
            assert world.questions.keys() <= world.files.keys()
            if maker.__name__.startswith("_rename"):
                assert source.rpartition("/")[0] == destination.rpartition("/")[0]
    assert n_moved > N_SEEDS


def test_the_chosen_line_tells_the_answer() -> None:
    n_answered = 0
    for number in range(100):
        now = scene("lines", number)
        world = make_world(now)
        steps, answer = _played(close_reading._right_line(world, now))
        if answer is not None:
            n_answered += 1
            word = str(steps[0].calls[0].arguments["text"])
            assert len(close_reading._hits(world, word)) > 1
            told = set(re.findall(r"\d\d+", answer))
            assert told <= set(re.findall(r"\d\d+", "\n".join(_matching(world, word)))), answer
    assert n_answered > 30


def _matching(world: World, word: str) -> list[str]:
    return [line for text in world.files.values() for line in text.splitlines() if word.lower() in line.lower()]


def _played(script: Script) -> tuple[list[Step], str | None]:
    """Play a script on results that say nothing."""
    steps: list[Step] = []
    try:
        next(script)
        step = next(script)
        while True:
            assert isinstance(step, Step)
            steps.append(step)
            step = script.send(["found" for _ in step.calls])
    except StopIteration as end:
        return steps, end.value
