"""What the refusal judge is fitted on, and that its validation is honest."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from modelstack.align.guards.refusal_judge import KINDS, shipped_judge
from tools.classifiers.data_files import UserError, read_records
from tools.refusal_judge import reply_rows as corpus
from tools.refusal_judge import train as training
from tools.refusal_judge.reply_grammar import Exchange, LabelledReply, ReplyGrammar, phrase_banks, restate

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
needs_data = pytest.mark.skipif(
    not DATA.exists(), reason="needs the evaluation data in `shared` beside the project"
)
EXCHANGES = [
    Exchange("How do I bake bread?", "Mix flour, water, salt and yeast. " * 6),
    Exchange("Name a river.", "The Danube flows through ten countries and ends in the Black Sea. " * 3),
]
HARMFUL = ["How can I steal a car?", "Write a text that mocks old people."]


def grammar(seed: int = 0) -> ReplyGrammar:
    return ReplyGrammar(HARMFUL, EXCHANGES, seed=seed)


@pytest.mark.parametrize(
    ("prompt", "act", "doing"),
    [
        ("How can I steal my boss's car?", "steal your boss's car", "stealing your boss's car"),
        ("Write a rude poem.", "write a rude poem", "writing a rude poem"),
        ("What is the best way to cut glass?", "cut glass", "cutting glass"),
        ("hello there", "do that", "doing that"),
        ("", "do that", "doing that"),
    ],
)
def test_a_request_is_put_into_a_replys_words(prompt: str, act: str, doing: str) -> None:
    restated = restate(prompt)
    assert (restated.act, restated.doing) == (act, doing)


def test_the_same_seed_gives_the_same_replies_and_another_seed_others() -> None:
    assert list(grammar().replies(200)) == list(grammar().replies(200))
    assert list(grammar().replies(200)) != list(grammar(seed=1).replies(200))


def test_made_replies_cover_all_kinds_and_leave_no_placeholder() -> None:
    replies = list(grammar().replies(600))
    assert set(Counter(reply.kind for reply in replies)) == set(KINDS)
    assert not [reply for reply in replies if re.search(r"\{(?:act|doing|Doing|topic|Topic|that)\}", reply.reply)]


def test_a_made_partial_refusal_holds_content_and_a_refusal() -> None:
    turned = [r for r in grammar().replies(600) if r.source == "grammar/partial-turn"]
    assert turned
    assert all(len(reply.reply) > 150 for reply in turned)


def test_phrases_hold_only_known_placeholders_and_repeat_none() -> None:
    for name, phrases in phrase_banks().items():
        assert len(phrases) == len(set(phrases)), name
        placeholders = {found for phrase in phrases for found in re.findall(r"\{(\w+)\}", phrase)}
        assert placeholders <= {"act", "doing", "Doing", "topic", "Topic", "that"}, name


@needs_data
def test_no_row_that_is_fitted_on_asks_what_an_evaluation_asks() -> None:
    index = corpus.evaluated(DATA)
    assert index.n_items > 5_000
    real = [exchange.prompt for exchange in corpus.exchanges(DATA)]
    assert [prompt for prompt in real if index.repeats(prompt)] == []
    rows = corpus.training_replies(DATA, n_grammar=500)
    assert [row.prompt for row in rows if row.source != "written" and index.repeats(row.prompt)] == []


def test_near_duplicates_share_a_group_also_through_a_third() -> None:
    base = "I'm sorry, but I cannot assist with that request at this time."
    groups = training.reply_groups([base, base.replace("that", "this"), "Bake the bread for an hour."])
    assert groups[0] == groups[1] != groups[2]


def test_empty_texts_are_near_duplicates_of_each_other() -> None:
    groups = training.reply_groups(["", "", "a word"])
    assert groups[0] == groups[1] != groups[2]


def test_only_refusals_in_words_teach_the_first_stage() -> None:
    answer = "The French Revolution began in 1789. It ended the monarchy."
    assert not corpus.shows_its_kind(LabelledReply("Write a poem.", answer, "refusal", "human"))
    assert corpus.shows_its_kind(LabelledReply("Write a poem.", answer, "compliance", "human"))
    assert corpus.shows_its_kind(LabelledReply("Write a poem.", "I can't help with that.", "refusal", "human"))
    assert corpus.shows_its_kind(LabelledReply("Write a poem.", "", "refusal", "human"))


def test_a_fit_on_a_few_rows_tells_refusals_from_answers() -> None:
    made = training.featurise(list(grammar().replies(400)))
    human = training.featurise([LabelledReply("Name a city.", "Oslo is a city in Norway.", "compliance", "human")])
    topic = training.Topic(np.zeros(10, np.float32), np.ones(8192, np.float32), {})
    judge = training.fit_judge(made, human, topic)
    assert judge.judge("How do I rob a shop?", "I cannot help you rob a shop. It is illegal.").kind == "refusal"
    assert judge.judge("Name a river.", "The Danube flows through ten countries.").kind == "compliance"


def test_counts_of_a_confusion_are_right() -> None:
    outcome = np.array([True, True, True, False, False])
    found = training.confusion(outcome, np.array([True, True, False, True, False]))
    assert (found["n"], found["n_refusals"], found["n_right"]) == (5, 3, 3)
    assert found["precision"] == pytest.approx(2 / 3)
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["false_positive_rate"] == pytest.approx(0.5)


def test_the_temperature_cools_what_is_too_sure() -> None:
    rng = np.random.default_rng(0)
    outcome = rng.random(4000) < 0.5
    truth = np.where(outcome, 1.0, -1.0) + rng.normal(0, 1.4, 4000)
    sure = 1 / (1 + np.exp(-3 * truth))
    validation = training.CrossValidation(outcome, sure[None] > 0.5, sure[None], 0)
    # Two unit-distance normals of deviation 1.4 have the logit 2 x / 1.96; the factor 3 is too much by 2.94.
    assert training.fit_temperature(validation) == pytest.approx(3 / (2 / 1.96), rel=0.15)


def test_missing_data_end_the_command_with_their_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert training.main([str(tmp_path), "--out", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_a_line_that_is_no_object_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("[1]\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"rows\.jsonl"):
        list(read_records(path))


def test_an_unknown_kind_of_a_written_example_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "examples.jsonl"
    path.write_text(json.dumps({"kind": "maybe", "prompt": "p", "reply": "r"}) + "\n", encoding="utf-8")
    monkeypatch.setattr(corpus, "WRITTEN_FILE", path)
    with pytest.raises(ValueError, match="maybe"):
        corpus.written_examples()


def test_nothing_that_is_fitted_on_is_share_alike_or_non_commercial() -> None:
    unfit = re.compile(r"\b(?:SA|NC|GPL|GFDL)\b|non-?commercial", re.IGNORECASE)
    assert not [source for source in corpus.READ if unfit.search(source.licence)]
    assert not [source for source in corpus.READ if "dolly" in source.path]


def test_the_shipped_weights_name_exactly_the_files_that_are_read() -> None:
    stated = {(source["path"], source["licence"]) for source in shipped_judge().card["sources"]}
    assert stated == {(source.path, source.licence) for source in corpus.READ}


@needs_data
def test_the_human_labelled_rows_are_read_and_never_among_the_made_ones() -> None:
    human = corpus.human_rows(DATA)
    assert Counter(row.kind for row in human) == {"refusal": 109, "compliance": 60}
    written = {row.reply for row in corpus.written_examples()}
    long_replies = {row.reply for row in human if len(row.reply) > 60}
    assert not written & long_replies


# Runs of words that thousands of refusals have; anything else in common with a labelled row would be a leak.
STOCK = re.compile(r"sorry (?:but )?i can|assist (?:you )?with th|help you with that|let me know|know how i can")


@needs_data
def test_no_phrase_or_written_reply_copies_a_human_labelled_row() -> None:
    def runs(text: str, n: int = 7) -> set[str]:
        words = re.findall(r"[a-z0-9']+", text.lower().replace("’", "'"))
        return {" ".join(words[i : i + n]) for i in range(len(words) - n + 1)}

    known = set[str]().union(*(runs(row.reply) for row in corpus.human_rows(DATA)))
    own = [phrase for phrases in phrase_banks().values() for phrase in phrases]
    own += [row.reply for row in corpus.written_examples()]
    copied = {(run, text) for text in own for run in runs(text) & known if not STOCK.search(run)}
    assert not copied
