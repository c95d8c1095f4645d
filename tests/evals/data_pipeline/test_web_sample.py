"""Scores of a recipe on labelled pages: what counts as found, missed, wrong, or not judged."""

from __future__ import annotations

from evals.data_pipeline.web_sample import Outcome, Score, disagreements, scores

KEPT = Outcome(None, "", "text")


def page(url: str, expected: str, category: str = "page", lang: str = "en") -> dict[str, str]:
    return {"url": url, "expected": expected, "category": category, "lang": lang}


def test_drops_are_scored_and_what_is_neither_is_not() -> None:
    labels = [
        page("a", "keep"),
        page("b", "keep+redact(email)"),
        page("c", "drop:short"),
        page("d", "drop:spam"),
        page("e", "parse without error"),
    ]
    found = {
        "a": KEPT,
        "b": Outcome("gopher_quality", "short", ""),
        "c": Outcome("c4", "short", ""),
        "d": KEPT,
        "e": KEPT,
    }
    assert scores(labels, found)[0] == Score("dropped", 1, 1, 1, 4)
    assert sorted(disagreements(labels, found)) == [
        "   1  page: expected drop:spam, became kept",
        "   1  page: expected keep+redact(email), became gopher_quality: short",
    ]


def test_language_is_judged_where_a_page_reached_it() -> None:
    labels = [page("a", "drop:language", lang="fr"), page("b", "drop:language", lang="de"), page("c", "keep")]
    found = {"a": Outcome("language", "language", ""), "b": Outcome("extract", "empty", ""), "c": KEPT}
    assert scores(labels, found)[1] == Score("dropped for its language", 1, 0, 0, 2)


def test_a_pair_is_found_when_one_of_it_is_dropped() -> None:
    pairs = {"x": 0, "y": 1, "z": 2}
    labels = [page(f"https://{name}/p", "keep") for name in pairs]
    labels += [page(f"https://copy.{name}/p", "drop:near-dup", "near-duplicate") for name in pairs]
    labels.append(page("https://other/p", "keep"))
    gone = Outcome("minhash", "duplicate", "")
    found = {row["url"]: KEPT for row in labels}
    found |= {"https://x/p": gone, "https://copy.y/p": gone, "https://y/p": gone, "https://other/p": gone}
    near = scores(labels, found)[3]
    assert (near.true_positives, near.false_negatives, near.false_positives, near.n) == (1, 2, 1, 3)
