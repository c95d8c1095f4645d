"""Sentences and words in capitals, against what IFEval's original counts.

The numbers were recorded from the original's own rule: nltk 3.10's Punkt with its English parameters, and nltk's
`word_tokenize`. Where those packages are installed `python -m evals.language.ifeval.parity` compares on any texts.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.language.ifeval.sentences import count_sentences
from evals.language.ifeval.words import count_capital_words, count_words

PUNKT: dict[str, int] = {
    "": 0,
    "   \n ": 0,
    "One sentence": 1,
    "One. Two.": 2,
    "One.Two": 1,
    "Really?! Yes!": 2,
    "Wait... what? He left.": 2,
    "Wait... He left.": 2,
    "Dr. Smith met Mr. Jones. They talked.": 2,
    "He lives in the U.S. and works there.": 1,
    "He lives in the U.S. He works there.": 2,
    "We met at 5 p.m. today.": 1,
    "We met at 5 p.m. It rained.": 2,
    "J. K. Rowling wrote it. I read it.": 2,
    "It costs $3.50. Cheap!": 2,
    "In 1999. Then it stopped.": 2,
    "See no. 5 of the list.": 2,
    'She said "Go." He went.': 2,
    "She said 'Go!' and left.": 2,
    "(It rained.) We stayed.": 2,
    "A list:\n1. Apples\n2. Pears\n3. Plums": 4,
    "A list:\n- one.\n- two.\n- three.": 3,
    "Title\n\nText follows here. It ends.": 2,
    "Acme Inc. sells bolts. Buy some.": 2,
    "Acme Inc. However, it closed.": 2,
    "e.g. this and i.e. that.": 3,
    "Use e.g. This one.": 2,
    "On Jan. 5 we left. On Feb. 6 we came.": 2,
    "What?Yes. No.": 2,
    "He is a Ph.D. She is an M.D. too.": 2,
    "Version 2.0.1 is out. Get it.": 2,
    "Visit example.com. It is free.": 2,
    "Oh no!!! Run!!!": 3,
    "Hello — she said. — Goodbye.": 2,
    "The end.\n\n\n\nThe start.": 2,
    "x = 3. y = 4. z.": 1,
    "approx. 5 km. Far.": 3,
    "vs. them vs. us.": 1,
    "Mt. Everest is tall. St. Paul is not.": 3,
    "“Curly.” “Quotes.” Done.": 3,
    "Is it? is it! so it is.": 3,
    "He paid 5. She paid 6.": 2,
    "Section 1. The start. Section 2. The end.": 4,
    "P.S. I love you. P.P.S. Really.": 4,
    "*** Bold. *** Text.": 2,
    "**Bold.** Text. *It.*": 4,
    "One.\nTwo.\nThree": 3,
    "U.N. U.S.A. NATO. EU.": 2,
    "a. b. c.": 1,
    "The No. 1 hit. Sing!": 3,
}
CAPITALS: dict[str, int] = {
    "DON'T STOP": 3,
    "the U.S. AND the UN": 3,
    "X-RAY OK?": 2,
    "I AM": 2,
    "CAN'T WON'T I'LL": 6,
    "A.B.C. D": 2,
    "HELLO-WORLD": 1,
    '(NASA) [ESA] "EU"': 3,
    "PART1 B2B 3D": 3,
    "NOT-SO FAST... OK.": 3,
    "I'M U": 3,
    "GONNA CANNOT GIMME": 6,
    "ÉTÉ À": 2,
    "$AAPL #TAG @ME": 3,
    "no capitals": 0,
    "THE END.": 2,
    "WHO'S IT? IT'S ME!": 6,
    "5PM 10AM": 2,
    "`CODE` 'QUOTE'": 2,
    "A/B C&D": 3,
}


@pytest.mark.parametrize(("text", "n"), PUNKT.items())
def test_sentences_are_counted_as_punkt_does(text: str, n: int) -> None:
    assert count_sentences(text) == n


@pytest.mark.parametrize(("text", "n"), CAPITALS.items())
def test_words_in_capitals_are_counted_as_nltk_cuts_them(text: str, n: int) -> None:
    assert count_capital_words(text) == n


@given(st.text(alphabet="aBc.?! \n\"')-,:1", max_size=60))
def test_a_text_has_as_many_sentences_as_fit_between_its_marks(text: str) -> None:
    n = count_sentences(text)
    assert (n == 0) == (not text.strip())
    assert n <= 1 + sum(text.count(mark) for mark in ".?!")
    assert count_sentences(f"{text}\n") == n


def test_words_are_runs_of_word_characters() -> None:
    assert count_words("It's 3.5 über_cool — yes!") == 6
    assert count_words(" \n") == 0
