"""Words, sentences and lines of a text, as rules look at it."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelstack.data import words as splitter
from modelstack.data.documents import Document
from modelstack.data.text_view import TextView
from modelstack.data.words import count_sentences, split_sentences, split_words

TEXT = "It isn't so. Is it?\n\n  The end…\n"

SPLITS = {
    "Hello, world!": "Hello , world !",
    "don't DON'T dont we'll y'all": "do n't DON'T do nt we 'll y' all",
    "it’s o’clock": "it ’s o’clock",
    "Its well, ill hell": "Its well , ill hell",
    "(e.g. this) i.e. that.": "( e.g. this ) i.e. that .",
    "U.S.A. NASA. end.New": "U.S.A. NASA . end . New",
    "Mr. Smith's dogs' 'tails'": "Mr. Smith 's dogs ' ' tails '",
    "5km 5km. 10% $3.50 US$5 5€ +5 + 5+": "5 km 5 km . 10 % $ 3.50 US$ 5 5 € +5 + 5 +",
    "10 °C. 10°C. 3pm 11a.m.": "10 ° C . 10 ° C . 3 pm 11 a.m.",
    "well-known a--b 3-4 x=y a,b 1,000 a/b": "well - known a -- b 3 - 4 x = y a , b 1,000 a / b",
    "http://a.org/b,c. www.x.com, me@x.org 1.2.3.4": "http://a.org/b,c . www.x.com , me@x.org 1.2.3.4",
    "foo(bar) 'quoted' [1] wait... no…yes": "foo(bar ) ' quoted ' [ 1 ] wait ... no … yes",
    ":) (: a:) <3 ok8) and/or": ":) (: a :) <3 ok8 ) and/or",
    "C++ C++. \\n '": "C++ C++ . \\n '",
    "日本語。 «да» 😀x": "日本語 。 « да » 😀 x",
}
"""What a blank English tokenizer of spaCy 3.8 gives, recorded by hand."""


@pytest.mark.parametrize("text", SPLITS)
def test_words_are_split_at_marks_contractions_and_units(text: str) -> None:
    assert split_words(text) == SPLITS[text].split()


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=st.sampled_from("aB1.,:)('’s-/@+$…%° \n\u00a0é"), max_size=40))
def test_words_hold_every_character_that_is_no_white_space_in_order(text: str) -> None:
    assert "".join(split_words(text)) == "".join(text.split())


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_sentences_joined_are_the_text_and_as_many_as_are_counted(text: str) -> None:
    sentences = split_sentences(text)
    assert "".join(sentences) == text
    assert count_sentences(text, 1_000) == len(sentences)
    assert count_sentences(text, 2) == min(len(sentences), 2)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three?", ["One.", " Two!", " Three?"]),
        ('He said: "No." Then he left.', ['He said: "No."', " Then he left."]),
        ("Mr. Smith, e.g. him, at 3.5 p.m. came", ["Mr. Smith, e.g. him, at 3.5 p.m. came"]),
        ("Wait... what?! Yes", ["Wait... what?!", " Yes"]),
        ("One.  Two", ["One.", "  Two"]),
        ("no end", ["no end"]),
        ("", [""]),
    ],
)
def test_a_sentence_ends_after_its_mark_and_the_punctuation_behind(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


def test_a_chunk_is_split_once_and_the_memory_of_chunks_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = splitter.TextCache(splitter._split_chunk)
    monkeypatch.setattr(splitter, "_words_of_chunk", memory)
    monkeypatch.setattr(splitter, "MAX_CACHED_TEXTS", 3)
    split_words("one, two. three! one,")
    assert sorted(memory) == ["one,", "three!", "two."]
    split_words("four; " + "long" * 100)
    assert list(memory) == ["four;"]


@pytest.mark.parametrize(
    "unit", ["(", ")x", "a@", "a.", "'s", ":)", "9$", "1.2.", "…", "a,", "° ", "..", "a-", "//"]
)
def test_a_chunk_without_end_is_split_all_the_same(unit: str) -> None:
    n = 40_000
    assert "".join(split_words(unit * n)) == (unit * n).replace(" ", "")


def test_a_view_gives_words_lines_sentences_and_paragraphs() -> None:
    view = TextView(TEXT)
    assert view.words == ["It", "is", "n't", "so", ".", "Is", "it", "?", "The", "end", "…"]
    assert view.word_counts == Counter(view.words)
    assert view.chunks == ["It", "isn't", "so.", "Is", "it?", "The", "end…"]
    assert view.lines == ["It isn't so. Is it?", "", "  The end…"]
    assert view.filled_lines == ["It isn't so. Is it?", "  The end…"]
    assert view.paragraphs == ["It isn't so. Is it?", "  The end…"]
    assert view.sentences == ["It isn't so.", " Is it?", "\n\n  The end…\n"]
    assert view.lowered == TEXT.lower()


def test_nothing_is_found_before_it_is_asked_for_and_then_once() -> None:
    view = TextView(TEXT)
    assert list(vars(view)) == ["text"]
    words = view.words
    assert view.words is words
    assert sorted(vars(view)) == ["chunks", "text", "words"]


def test_a_document_keeps_its_view_until_it_has_another_text() -> None:
    document = Document(id="a", text=TEXT)
    view = document.view
    assert document.view is view
    document.text = "Another."
    assert document.view.words == ["Another", "."]
