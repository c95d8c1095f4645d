"""The questions as data: fifty on ten documents, proved by their lines, with neighbours that are wrong."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from datetime import date
from importlib.resources import as_file, files

import pytest

from agentkit.errors import UserError
from evals.harness.suite import find_suite
from evals.tool_use.executed.answers import AnswerBounds
from evals.tool_use.executed.catalog import TASKS
from evals.tool_use.executed.task import NumberAnswer, WordsAnswer
from evals.tool_use.first_hour.checking import BOUNDS
from evals.tool_use.first_hour.request import first_hour_requests
from evals.tool_use.long_results.facts import facts_problem, says_unstated, with_plain_days
from evals.tool_use.long_results.question import (
    DOCUMENTS,
    DateAnswer,
    Question,
    UnstatedAnswer,
    case_of_question,
    folder_of,
    question_of,
    questions,
    text_of,
)
from evals.tool_use.long_results.suite import DOCUMENT_KINDS, KINDS, load
from modelstack.data.evaluation_texts import words_of
from modelstack.data.examples import Example, Message
from modelstack.data.tools.decontamination import read_evaluations

QUESTIONS = questions()
BY_ID = {question.id: question for question in QUESTIONS}
STATED = [each for each in QUESTIONS if each.is_there]
NOT_THERE = [each for each in QUESTIONS if not each.is_there]
THIRDS = {"first third": 0, "middle": 1, "last third": 2}


def by_id(question: Question) -> str:
    return question.id


def lines_of(question: Question) -> list[str]:
    return text_of(question).splitlines()


def forbidden(question: Question) -> list[str]:
    candidates = [candidate for fact in question.facts for candidate in fact.forbidden]
    return [f"{each:g}" if isinstance(each, float) else str(each) for each in candidates]


def test_there_are_five_questions_of_five_kinds_on_each_of_ten_documents() -> None:
    assert Counter((question.document, question.kind) for question in QUESTIONS) == {
        (document, kind): 1 for document in DOCUMENT_KINDS for kind in KINDS
    }
    assert len(QUESTIONS) == 50
    assert set(DOCUMENTS) == set(DOCUMENT_KINDS)


def test_ids_and_requests_are_unique_and_differ_from_the_other_suites() -> None:
    assert len(BY_ID) == len({question.request for question in QUESTIONS}) == 50
    others = {task.prompt for task in TASKS} | {request.request for request in first_hour_requests()}
    assert not others & {question.request for question in QUESTIONS}


@pytest.mark.parametrize("document", DOCUMENT_KINDS)
def test_a_document_is_long_and_lies_among_two_or_three_short_files(document: str) -> None:
    folder, question = next((folder_of(each.document), each) for each in QUESTIONS if each.document == document)
    n_lines = {name: len(text.splitlines()) for name, text in folder.items()}
    assert 70 <= n_lines.pop(question.file_name) <= 160
    assert len(n_lines) in (2, 3)
    assert max(n_lines.values()) <= 12


@pytest.mark.parametrize("question", QUESTIONS, ids=by_id)
def test_the_request_names_the_file(question: Question) -> None:
    assert question.file_name in question.request


@pytest.mark.parametrize("question", STATED, ids=by_id)
def test_the_lines_that_show_it_are_where_the_kind_says(question: Question) -> None:
    thirds = {(line - 1) * 3 // len(lines_of(question)) for line in question.lines}
    if question.kind in THIRDS:
        assert thirds == {THIRDS[question.kind]}
    else:
        assert len(question.lines) >= 2


@pytest.mark.parametrize("question", [each for each in QUESTIONS if each.kind in THIRDS], ids=by_id)
def test_the_fact_stands_in_its_lines_and_a_line_at_random_is_seldom_right(question: Question) -> None:
    lines = lines_of(question)
    if question.document == "orders table":  # 12,187.20 would be read as one number
        lines = [line.replace(",", ", ") for line in lines]
    alone = replace(question, facts=tuple(replace(fact, forbidden=()) for fact in question.facts))
    assert facts_problem(alone, "\n".join(lines[line - 1] for line in question.lines)) is None
    n_right = sum(facts_problem(question, line) is None for line in lines)
    assert n_right <= len(lines) / 15


@pytest.mark.parametrize("question", [each for each in QUESTIONS if each.kind == "two places"], ids=by_id)
def test_no_line_elsewhere_answers_what_needs_two_places(question: Question) -> None:
    right = [n for n, line in enumerate(lines_of(question), 1) if facts_problem(question, line) is None]
    assert set(right) <= set(question.lines)


def test_what_is_to_be_worked_out_is_right() -> None:
    orders = [line.split(",") for line in lines_of(BY_ID["orders-highest-total"])[1:]]
    order, *_, total = max(orders, key=lambda row: float(row[-1]))
    assert facts_problem(BY_ID["orders-highest-total"], f"{order}, {total}") is None
    log = lines_of(BY_ID["log-count-errors"])
    assert facts_problem(BY_ID["log-count-errors"], str(sum(" ERROR " in line for line in log))) is None
    sites = json.loads(text_of(BY_ID["sites-out-of-service"]))["sites"]
    n_closed = sum(site["status"] == "out_of_service" for site in sites)
    assert facts_problem(BY_ID["sites-out-of-service"], str(n_closed)) is None
    sizes = [line.partition("[")[2].partition("G ")[0].strip() for line in lines_of(BY_ID["listing-largest-file"])]
    assert max(float(size) for size in sizes if size.replace(".", "").isdigit()) == 84
    assert 10250 - 8900 == 1350 and 3 * 845 == 2535 and 4 + 3 == 7 and 11.5 + 3 == 14.5


def test_the_totals_of_the_orders_are_weight_times_price() -> None:
    folder = folder_of("orders table")
    prices = dict(line.split(",") for line in folder["price-list.csv"].splitlines()[1:])
    for line in folder["orders-q3.csv"].splitlines()[1:]:
        *_, item, weight, total = line.split(",")
        assert float(total) == pytest.approx(float(weight) * float(prices[item])), line


@pytest.mark.parametrize("question", NOT_THERE, ids=by_id)
def test_what_is_not_there_is_shown_by_no_line(question: Question) -> None:
    assert question.lines == ()
    assert [type(fact) for fact in question.facts] == [UnstatedAnswer]
    folder = folder_of(question.document)
    words = {
        "log-invoice-export": "invoice-export",
        "orders-linden-october": "2025-10",
        "minutes-fire-insurance": "fire",
        "config-sink-proxy": "proxy",
        "contract-parking": "parking",
        "sites-bus-depot": "depot",
        "listing-trailer": "trailer",
        "releases-notion": "notion",
        "museum-parking": "parking",
    }
    if question.id in words:
        assert not any(words[question.id] in text.casefold() for text in folder.values())
    else:
        recipe = folder["family-recipes.md"].partition("### Fish pie")[2].partition("###")[0]
        assert "Serves" not in recipe


@pytest.mark.parametrize("question", QUESTIONS, ids=by_id)
def test_the_reference_is_right_and_short_and_the_neighbour_is_wrong(question: Question) -> None:
    assert facts_problem(question, question.reference) is None
    assert len(question.reference) < BOUNDS.max_chars / 3
    assert facts_problem(question, question.wrong) is not None
    assert says_unstated(question.reference) != question.is_there
    assert not says_unstated(question.wrong)


@pytest.mark.parametrize("question", QUESTIONS, ids=by_id)
def test_each_neighbour_makes_the_reference_wrong_and_stands_in_no_request(question: Question) -> None:
    assert forbidden(question) or question.id == "log-count-errors"
    for candidate in forbidden(question):
        assert facts_problem(question, f"{question.reference} {candidate}") is not None, candidate
        assert candidate.casefold() not in question.request.casefold()


@pytest.mark.parametrize("question", QUESTIONS, ids=by_id)
def test_no_lazy_answer_is_right(question: Question) -> None:
    document = text_of(question)
    lazy = [
        "",
        " \n",
        "Done.",
        "yes",
        "no",
        "None.",
        "I'm not sure.",
        question.request,
        f"{question.request} Yes.",
    ]
    lazy += ["I cannot access the file.", document, *folder_of(question.document).values()]
    lazy += [document[:n_chars] for n_chars in range(20, BOUNDS.max_chars + 1, 20)]
    assert [text for text in lazy if facts_problem(question, text) is None] == []


@pytest.mark.parametrize("question", STATED, ids=by_id)
def test_a_guessed_number_is_no_answer_unless_it_is_the_fact(question: Question) -> None:
    right = [n for n in range(1000) if facts_problem(question, f"There are {n}.") is None]
    assert len(right) <= 1


def test_always_saying_that_it_is_not_there_is_right_where_it_is_not() -> None:
    right = [each.id for each in QUESTIONS if facts_problem(each, "The file does not say.") is None]
    assert right == [each.id for each in NOT_THERE]


@pytest.mark.parametrize(
    ("id_", "text"),
    [
        ("log-payment-timeout", "The booking cancelled with a PaymentTimeoutException is **B-48213**."),
        ("log-migration-time", "Migration V57 (add_vehicle_length) took 412ms."),
        ("log-new-leader", "harbour-1 and harbour-3 voted for harbour-4, which became leader in term 19."),
        ("log-count-errors", "There are seven ERROR entries."),
        ("orders-anker-decaf", "Hotel Anker paid €187.20 for 12 kg of decaf (order 5051, 2025-08-14)."),
        ("orders-kornblume-date", "2025-09-16"),
        ("orders-kornblume-date", "September 16th"),
        ("orders-kornblume-date", "On the 16th of September 2025 (order 5081, 4 kg)."),
        ("orders-kornblume-date", "16.09.2025"),
        ("orders-kornblume-date", "16. September 2025"),
        ("orders-kornblume-date", "9/16/2025"),
        ("orders-highest-total", "Order #5064 from Kantine Nord, total 1092 EUR."),
        ("minutes-bicycle-shelter", "The council approved 4350 € with six votes in favour."),
        ("minutes-summer-party", "The summer party is on July 11 (rain date: July 18)."),
        ("minutes-summer-party", "11/7/2026"),
        ("minutes-lift-difference", "10,250 - 8,900 = 1,350 euros"),
        ("config-buffer-age", "36h"),
        ("config-exit-invalid", "Exit code `4`."),
        ("config-deprecated", "- `compress_level` in [buffer]\n- `legacy_topic` in [sink]"),
        ("config-deprecated", "sink.legacy_topic and buffer.compress_level"),
        ("contract-deposit", "The deposit is three times the basic rent of 845.00, so €2,535.00."),
        ("sites-ring-road-price", "£0.66 per kWh"),
        ("sites-out-of-service", "Three: Market Square North, Elm Grove and Ring Road Services North."),
        ("listing-hansen-roll2", "It is 3.4G."),
        ("listing-harbour-dawn", "/mnt/lightkeepers/04_stills/box_07/"),
        ("listing-largest-file", "07_masters/premiere_master_4k.mov, 84G"),
        ("releases-epub", "Export to EPUB came with 5.3.0 (2025-03-04)."),
        ("museum-thursday", "In July the main building closes at 8:30 pm on Thursdays."),
        ("museum-annual-reduced", "£25"),
        ("museum-special-total", "11.50 + 3.00 = £14.50"),
        ("log-invoice-export", "There's no job named invoice-export in booking.log."),
        ("orders-linden-october", "The file only covers July to September, so October isn't in it."),
        ("orders-linden-october", "I couldn't find any orders from October."),
        ("minutes-fire-insurance", "The minutes don’t say what the fire insurance costs."),
        ("config-sink-proxy", "`proxy` is not listed in the [sink] section."),
        ("contract-parking", "No parking space is mentioned in the contract."),
        ("sites-bus-depot", "No site called Bus Depot was found."),
        ("listing-trailer", "trailer_final.mp4 does not appear in the listing."),
        ("listing-trailer", "There's no such file in disk-listing.txt."),
        ("releases-notion", "The release notes never mention Notion."),
        ("recipes-fish-pie-serves", "The recipe doesn't specify how many people it serves."),
        ("museum-parking", "That information is not provided in visit.md."),
    ],
)
def test_other_wordings_are_right(id_: str, text: str) -> None:
    assert facts_problem(BY_ID[id_], text) is None


@pytest.mark.parametrize(
    ("id_", "text"),
    [
        ("log-payment-timeout", "B-48213 or B-48231"),
        ("log-payment-timeout", "PaymentTimeoutException"),
        ("log-new-leader", "It was not harbour-4."),
        ("orders-kornblume-date", "16 September 2024"),
        ("orders-kornblume-date", "16 and 18 September 2025, that is 2025-09-18"),
        ("orders-highest-total", "Order 5064"),
        ("orders-highest-total", "1,092.00 euros"),
        ("config-deprecated", "compress_level"),
        ("listing-hansen-roll2", "3.4G; hansen_roll1.mov has 2.9G"),
        ("museum-thursday", "8:30 am"),
        ("museum-thursday", "20:30, but 19:00 in winter"),
        ("contract-parking", "The contract does not say; probably 35.00 euros."),
        ("sites-bus-depot", "0.59"),
        ("museum-parking", "I don't have access to visit.md."),
        ("museum-parking", "Parking is free."),
    ],
)
def test_answers_that_mislead_are_wrong(id_: str, text: str) -> None:
    assert facts_problem(BY_ID[id_], text) is not None


def test_days_are_read_as_one_of_the_known_ones_first() -> None:
    known = (date(2026, 3, 4), date(2025, 12, 1))
    assert with_plain_days("3/4/2026, 3 April 2026", known) == "2026-03-04, 2026-04-03"
    assert with_plain_days("Dec. 1 and the 4th of March", known) == "2025-12-01 and the 2026-03-04"
    assert with_plain_days("31/31/2026", known) == "31/31/2026"
    assert with_plain_days("In March it rained.", known) == "In March it rained."


@pytest.mark.parametrize("question", QUESTIONS, ids=by_id)
def test_a_case_carries_its_whole_question_through_json(question: Question) -> None:
    case = case_of_question(question, "reference")
    data = json.loads(json.dumps(dict(case.data)))
    assert data == case.data
    assert question_of(case) == question
    assert case.group == question.document


def test_all_kinds_of_facts_are_asked_for() -> None:
    kinds = {type(fact) for question in QUESTIONS for fact in question.facts}
    assert kinds == {NumberAnswer, WordsAnswer, DateAnswer, UnstatedAnswer}
    assert AnswerBounds() != BOUNDS  # the room that `agentkit chat` needs, as in first-hour


def test_decontamination_finds_every_request_in_the_suites_folder() -> None:
    with as_file(files("evals.tool_use.long_results")) as folder:
        evaluations = read_evaluations([folder])
    assert evaluations.files == ("requests.jsonl", "sites.json")

    def rule_against(text: str) -> str:
        message = Message(role="user", content=text)
        example = Example(id="1", source="s", license="l", kind="answer", messages=(message,), reply="Yes.")
        return evaluations.rule_against(example, names_are_kept=True)

    for question in QUESTIONS:
        assert len(words_of(question.request)) >= 4
        assert rule_against(question.request.upper()), question.id
    assert rule_against("Is the moon made of green cheese, or is it not?") == ""


def test_the_suite_is_found_and_takes_some_kinds_and_documents() -> None:
    suite = find_suite("long-results")
    assert [case.id for case in suite.load({})] == [question.id for question in QUESTIONS]
    chosen = suite.load({"category": "middle, not there", "document": "minutes,contract"})
    assert [case.id for case in chosen] == [
        "minutes-bicycle-shelter",
        "minutes-fire-insurance",
        "contract-refrigerator",
        "contract-parking",
    ]


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(UserError, match="nearest: 'not there'"):
        load({"category": "nowhere"})
    with pytest.raises(UserError, match="nearest: 'recipes'"):
        load({"document": "recipe"})
    with pytest.raises(UserError, match="nearest: 'wrong'"):
        load({"play": "wrongly"})
    with pytest.raises(UserError, match="no option 'documents'"):
        load({"documents": "recipes"})
