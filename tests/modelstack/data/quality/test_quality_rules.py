"""Each rule set by itself: what a threshold does, how one is turned off, texts that are hardly any."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

import modelstack.data.quality
from modelstack.data.documents import Document
from modelstack.data.quality import (
    C4,
    C4BadWords,
    C4Paragraphs,
    DolmaRules,
    FineWebQuality,
    GopherQuality,
    GopherRepetition,
    QualityRules,
    RefinedWebLines,
    WordList,
)
from modelstack.data.quality.duplicates import (
    RepeatedRuns,
    bound_of_top_run,
    characters_of_top_run,
    count_again,
)
from modelstack.data.text_view import TextView
from modelstack.errors import UserError

PROSE = (
    "The old house stood at the end of the lane, and nobody had lived in it for years. "
    "Every morning a fox came out of the garden to look at the road with great care. "
    "Children from the village told each other that a king was buried below the stairs. "
    "One day a girl named Ada, who feared nothing, took a lamp and went to see it herself. "
    "She found no king, but there was a map of the islands, drawn by her own grandmother."
)
PRESETS: tuple[QualityRules, ...] = (
    GopherQuality(),
    GopherRepetition(),
    C4(),
    C4Paragraphs(),
    C4BadWords(words=("lorem",)),
    FineWebQuality(),
    RefinedWebLines(),
    DolmaRules(),
    WordList(name="spam", words=("casino",)),
)
OFF = (
    GopherQuality(
        min_words=None,
        max_words=None,
        min_mean_word_length=None,
        max_mean_word_length=None,
        max_symbols_per_word=None,
        max_bullet_lines=None,
        max_ellipsis_lines=None,
        min_alphabetic_words=None,
        min_stop_words=None,
    ),
    GopherRepetition(
        max_duplicate_paragraphs=None,
        max_duplicate_paragraph_characters=None,
        max_duplicate_lines=None,
        max_duplicate_line_characters=None,
        max_top_runs=(),
        max_duplicate_runs=(),
    ),
    C4(
        require_line_end=False,
        min_sentences=None,
        min_words_per_line=None,
        max_word_length=None,
        remove_citations=False,
        drop_lorem_ipsum=False,
        drop_curly_bracket=False,
        remove_javascript=False,
        remove_policies=False,
    ),
    FineWebQuality(
        min_ended_lines=None, max_short_lines=None, max_duplicate_line_characters=None, max_newlines_per_word=None
    ),
)


def judged(rules: QualityRules, text: str) -> tuple[str | None, str]:
    document = Document(id="a", text=text)
    return rules.build()(document), document.text


def reason(rules: QualityRules, text: str) -> str | None:
    return judged(rules, text)[0]


@pytest.mark.parametrize("rules", [rules for rules in PRESETS if rules.kind != "c4_paragraphs"])
def test_prose_is_kept_as_it_is_by_every_preset(rules: QualityRules) -> None:
    assert judged(rules, PROSE) == (None, PROSE)


@pytest.mark.parametrize("rules", [*PRESETS, *OFF])
@pytest.mark.parametrize("text", ["", " ", "\n\n", "\u2028\x1c", ".", "a", "...\n\n...", "\ufeff", "{" * 5000])
def test_texts_that_are_hardly_any_are_judged_without_a_fault(rules: QualityRules, text: str) -> None:
    assert isinstance(reason(rules, text), str | None)


@pytest.mark.parametrize("rules", OFF)
def test_a_rule_that_is_turned_off_drops_nothing(rules: QualityRules) -> None:
    assert judged(rules, "# ... {javascript lorem ipsum}\n" * 9)[0] is None


def test_recipes_name_a_preset_by_its_kind_and_unknown_keys_are_refused() -> None:
    adapter: TypeAdapter[QualityRules] = TypeAdapter(QualityRules)
    assert adapter.validate_python({"kind": "c4", "min_sentences": 3}) == C4(min_sentences=3)
    assert {rules.kind for rules in PRESETS} == set(
        re.findall(r"'(\w+)'[,\n ]", _refusal(adapter).partition("expected tags")[2])
    )
    with pytest.raises(ValidationError, match="extra_forbidden"):
        adapter.validate_python({"kind": "c4", "min_sentence": 3})


def _refusal(adapter: TypeAdapter[QualityRules]) -> str:
    with pytest.raises(ValidationError) as refused:
        adapter.validate_python({"kind": "none of them"})
    return str(refused.value)


def test_every_threshold_cites_where_it_is_from() -> None:
    source = re.compile(r"et al\. 20\d\d|datatrove: |c4_utils\.py|Not from a paper")
    n_thresholds = 0
    for path in Path(modelstack.data.quality.__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.ClassDef) or "BaseModel" not in map(ast.unparse, node.bases):
                continue
            for field, following in zip(node.body, [*node.body[1:], None], strict=True):
                if not isinstance(field, ast.AnnAssign) or not re.search(
                    "int|float|bool", ast.unparse(field.annotation)
                ):
                    continue
                note = following.value if isinstance(following, ast.Expr) else None
                assert isinstance(note, ast.Constant), f"{path.name}: {ast.unparse(field)} has no docstring"
                assert source.search(str(note.value)), f"{path.name}: {ast.unparse(field)} cites nothing"
                n_thresholds += 1
    assert n_thresholds > 40


def test_gopher_counts_marks_as_words_and_stop_words_once() -> None:
    rules = GopherQuality(min_words=1, min_stop_words=None)
    assert reason(rules, "one two three four ;") is None
    assert reason(rules, "one two three ; :") == "gopher_below_alpha_threshold"
    assert reason(GopherQuality(min_words=1), "the the the fox") == "gopher_enough_stop_words"
    assert reason(GopherQuality(min_words=1), "the fox and hen") is None
    assert reason(GopherQuality(min_words=4), "one ; two , three .") == "gopher_short_doc"


def test_a_text_of_marks_alone_has_no_mean_length_and_is_dropped_for_it() -> None:
    assert reason(GopherQuality(min_words=None), "; ; ;") == "gopher_below_avg_threshold"


def test_repeated_paragraphs_are_judged_before_lines_and_words() -> None:
    assert reason(GopherRepetition(), "\n\n".join([PROSE] * 3)) == "dup_para_frac"
    assert reason(GopherRepetition(), "\n".join([PROSE] * 3)) == "dup_line_frac"
    assert reason(GopherRepetition(), " ".join([PROSE] * 3)) == "duplicated_5_n_grams"
    assert (
        reason(GopherRepetition(max_duplicate_paragraphs=None), "\n\n".join([PROSE] * 3)) == "dup_para_char_frac"
    )


@pytest.mark.parametrize("n", [2, 3, 4])
def test_the_most_frequent_run_is_found_with_its_blanks_and_the_first_of_equals(n: int) -> None:
    words = ["a", "bb", "ccc", "d"] * 3 + ["x", "y", "z", "q"] * 3
    assert characters_of_top_run(words, n) == len(" ".join(words[:n])) * 3
    assert characters_of_top_run(words, n) <= n * bound_of_top_run(TextView(" ".join(words)).word_counts)
    assert characters_of_top_run(["a"], n) == 0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "cc", "."]), max_size=60))
def test_repeated_runs_are_counted_from_the_left_and_the_bound_holds_for_longer_ones(words: list[str]) -> None:
    runs = RepeatedRuns(words, 3)
    for n in range(3, 11):
        assert runs.characters_again(n) == _characters_again(words, n) <= runs.bound()


def test_runs_with_other_borders_between_the_words_are_others_unlike_in_datatrove() -> None:
    # It joins runs of five and more words by nothing, so "a bc d e f" and "ab c d e f" are one.
    words = ["a", "bc", "d", "e", "f", "ab", "c", "d", "e", "f"]
    assert RepeatedRuns(words, 5).characters_again(5) == 0


def test_parts_that_were_there_before_are_counted_with_their_characters() -> None:
    assert count_again(["a", "bb", "a", "bb", "bb"]) == (3, 5)
    assert RepeatedRuns(["no", "run", "is", "here", "twice", "or", "more"], 5).bound() == 0


def _characters_again(words: list[str], n: int) -> int:
    seen: set[tuple[str, ...]] = set()
    characters = i = 0
    while i + n <= len(words):
        run = tuple(words[i : i + n])
        characters += len("".join(run)) if run in seen else 0
        i += n if run in seen else 1
        seen.add(run)
    return characters


def test_c4_takes_lines_out_and_keeps_the_text_object_where_it_takes_none() -> None:
    lines = PROSE.replace(". ", ".\n")
    added = "\n  A menu\nIt uses cookies here.\nNo more...\nToo short.\nPlease turn on JavaScript now.\n"
    assert judged(C4(), lines + added) == (None, lines)
    document = Document(id="a", text=lines)
    view = document.view
    assert C4().build()(document) is None
    assert document.view is view


def test_c4_drops_for_a_brace_only_in_lines_that_the_rules_before_keep() -> None:
    assert reason(C4(), f"{PROSE}\nCode with {{ here.") == "curly_bracket"
    assert reason(C4(), f"{PROSE}\nCode with {{ here") is None
    assert reason(C4(), f"{PROSE}\nJavascript with {{ here.") is None
    assert reason(C4(), f"{PROSE}\nLOREM ipsum { {} } is here.") == "lorem_ipsum"
    assert reason(C4(min_sentences=6), PROSE) == "too_few_sentences"


def test_c4_finds_a_phrase_that_a_citation_had_cut() -> None:
    assert judged(C4(), f"{PROSE}\nHe wrote java[3]script all day.") == (None, PROSE)
    assert judged(C4(), f"{PROSE}\nHe wrote it all down [12].") == (None, f"{PROSE}\nHe wrote it all down .")


def test_c4_takes_out_a_line_with_an_endless_word() -> None:
    assert judged(C4(), f"{PROSE}\nNow {'x' * 1001} it is.") == (None, PROSE)
    assert judged(C4(), f"{PROSE}\nNow {'x' * 1000} it is.")[1] != PROSE


def test_c4_of_sentences_joins_what_is_left_by_blanks() -> None:
    assert judged(C4(unit="sentence"), f"{PROSE} See our privacy policy now.") == (None, PROSE)


def test_c4_paragraphs_wants_three_long_lines() -> None:
    long = "x" * 200
    assert reason(C4Paragraphs(), "\n".join([long] * 3)) is None
    assert reason(C4Paragraphs(), "\n".join([long, long, long[1:]])) == "< 3 paragraphs"


def test_a_bad_word_counts_in_either_case_but_not_inside_another() -> None:
    rules = C4BadWords(words=("Damn", "go to blazes", "f**k"))
    assert reason(rules, "Oh DAMN!") == "document_removed_with_badwords"
    assert reason(rules, "now Go to Blazes, you") == "document_removed_with_badwords"
    assert reason(rules, "what the f**k.") == "document_removed_with_badwords"
    assert reason(rules, "Damnation, he may undergo to blazes2") is None


def test_a_fraction_of_texts_with_bad_words_is_kept_the_same_ones_each_time() -> None:
    def kept() -> list[str]:
        step = C4BadWords(words=("damn",), keep_fraction=0.3).build()
        return [str(i) for i in range(1000) if step(Document(id=str(i), text="damn")) is None]

    assert 250 < len(kept()) < 350
    assert kept() == kept()


def test_a_word_list_drops_by_hits_and_share_and_leaves_its_count_for_the_report(tmp_path: Path) -> None:
    file = tmp_path / "spam.txt"
    file.write_text("casino\nfree money\n\n", encoding="utf-8")
    rules = WordList(name="spam", file=file, max_hits=1, max_share=0.25)
    document = Document(id="a", text="Casino! FREE money, casino")
    assert rules.build()(document) == "word_list_spam"
    assert document.metadata == {"word_list_spam": 3}
    assert reason(rules, "casino, so and so") is None
    assert reason(rules, "casino casino " + "and so on " * 5) is None


def test_a_word_list_that_is_empty_or_not_there_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'spam' is empty"):
        WordList(name="spam", words=(" ",)).build()
    with pytest.raises(UserError, match="cannot be read"):
        C4BadWords(file=tmp_path / "none.txt").build()


def test_fineweb_drops_by_line_ends_short_lines_repeated_lines_and_newlines() -> None:
    line = "A line that is long enough to be a sentence"
    assert reason(FineWebQuality(), "\n".join(f"{line} {i}" for i in range(9))) == "line_punct_ratio"
    assert reason(FineWebQuality(allow_no_ended_line=True), "\n".join(f"{line} {i}" for i in range(9))) is None
    assert reason(FineWebQuality(), "\n".join(f"Short {i}." for i in range(9))) == "short_line_ratio"
    assert reason(FineWebQuality(), f"{PROSE}\n{line}.\n{line}.") == "char_dup_ratio"
    assert reason(FineWebQuality(max_duplicate_line_characters=0.1), f"{PROSE}\n{line}.\n{line}.") is None
    assert reason(FineWebQuality(), ("\n" * 5).join(f"{line} {i}。" for i in range(9))) == "list_ratio"


def test_refinedweb_takes_out_page_furniture_line_by_line() -> None:
    furniture = ["SIGN UP FOR NEWS", "12,345", "1.2k likes", "Share", "Read more...", "3 items in cart"]
    text = "\n".join([PROSE, *furniture, PROSE[::-1], "Sign-in to the page", "Go on. Read more..."] + [PROSE] * 3)
    document = Document(id="a", text=text)
    assert RefinedWebLines().build()(document) is None
    assert 0.03 < document.metadata["refinedweb_removed_words"] < 0.05
    assert document.text == "\n".join([PROSE, "3", PROSE[::-1], "to the page", "Go on.", *[PROSE] * 3])


def test_refinedweb_drops_a_text_that_loses_more_than_a_twentieth_of_its_words() -> None:
    words = ["word"] * 95
    assert reason(RefinedWebLines(), " ".join(words) + "\nMENU MENU MENU MENU MENU") is None
    assert (
        reason(RefinedWebLines(), " ".join(words[1:]) + "\nMENU MENU MENU MENU MENU") == "refinedweb_removed_words"
    )
    assert reason(RefinedWebLines(), "ALL OF IT") == "refinedweb_empty"


def test_dolma_counts_as_its_taggers_do() -> None:
    assert judged(DolmaRules(), f"{PROSE}\nA menu here") == (None, PROSE)
    assert reason(DolmaRules(), PROSE[:200]) == "dolma_word_count"
    assert reason(DolmaRules(), PROSE.replace(".", ",")) == "dolma_no_ended_line"
    assert reason(DolmaRules(min_words=1), "fox hens the cow.") == "dolma_required_word_count"
    assert reason(DolmaRules(), f"{PROSE}\n{PROSE}") == "dolma_duplicate_lines"
    assert reason(DolmaRules(), f"{PROSE} {PROSE}") == "dolma_duplicate_5grams"
    assert reason(DolmaRules(), re.sub(r"(\w+) (\w+)", r"\1 2", PROSE)) == "dolma_median_word_length"
    assert (
        reason(DolmaRules(), PROSE.replace(" a ", " #a ").replace(" the ", " #the "))
        == "dolma_symbol_to_word_ratio"
    )


def test_configurations_are_frozen() -> None:
    for rules in PRESETS:
        assert isinstance(rules, BaseModel)
        with pytest.raises(ValidationError, match="frozen"):
            rules.kind = "other"  # pyright: ignore[reportAttributeAccessIssue]
