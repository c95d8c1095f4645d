"""Rules on addresses: datatrove's answers, and where ours differ on purpose."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from modelstack.data.documents import Document
from modelstack.data.urls import UrlRules, host_of
from modelstack.errors import UserError
from tests.modelstack.data.reading.record_url_reasons import LISTS, RECORD, addresses

OURS = {
    "domain": "domain",
    "subdomain": "domain",
    "url": "url",
    "hard_blacklisted": "hard_word",
    "soft_blacklisted": "soft_words",
    "blacklisted_subword": "strict_word",
    None: None,
}


def reason(url: str, asked: list[str] | None = None, **settings: Any) -> str | None:
    metadata = {} if asked is None else {"robots": asked}
    return UrlRules(**settings).build()(Document("a", url=url, metadata=metadata))


def test_answers_are_datatroves_but_for_case_of_hosts_and_scheme_of_addresses() -> None:
    step = UrlRules.model_validate(LISTS).build()
    theirs = [OURS[answer] for answer in json.loads(RECORD.read_text(encoding="utf-8"))]
    answers = {
        url: (step(Document("a", url=url)), answer) for url, answer in zip(addresses(), theirs, strict=True)
    }
    differing = {url for url, (ours, answer) in answers.items() if ours != answer}
    assert len(answers) == 646 and len({answer for _, answer in answers.values()}) == 6
    other_scheme = {"https://a.example.org/?q=1", "http://news.example.org/spam/page.html"}
    assert differing == {url for url in answers if "EXAMPLE.NET" in url} | other_scheme


def test_a_domain_takes_its_subdomains_with_it_and_no_other_name() -> None:
    rules = {"domains": ["bad.example.com", "Mühle.example"]}
    for url in (
        "http://bad.example.com",
        "https://a.b.BAD.example.com:80/x",
        "//bad.example.com.",
        "ftp://bad.example.com",
    ):
        assert reason(url, **rules) == "domain", url
    for url in ("http://example.com", "http://notbad.example.com", "http://x.example/bad.example.com", ""):
        assert reason(url, **rules) is None, url
    assert reason("https://xn--mhle-0ra.example/", **rules) == "domain"
    assert reason("https://www.mühle.example/", **rules) == "domain"


def test_the_host_is_the_one_a_browser_would_ask() -> None:
    assert host_of("http://good.example@evil.example/x") == "evil.example"
    assert host_of("http://a@b@evil.example:8080?good.example") == "evil.example"
    assert host_of("http:\\\\evil.example\\@good.example/") == "evil.example"
    assert host_of("http://[2001:DB8::1]:80/") == "[2001:db8::1]"
    assert [host_of(url) for url in ("", "mailto:a@b", "http://", "http:///x", "///")] == [""] * 5
    for odd in ("http://[", "http://]:x", "http://\ud800.example", "http://ä..b/", "http://" + "a." * 50_000):
        host_of(odd)


def test_a_host_that_is_a_number_can_be_dropped() -> None:
    for url in (
        "http://192.0.2.7/a",
        "http://[::1]/",
        "http://3221225991/",
        "http://0xC0000207/",
        "http://0300.0.2.7:80",
    ):
        assert reason(url, drop_ip_hosts=True) == "ip_host", url
        assert reason(url) is None
    for url in ("http://1.example.com", "http://123abc.org", "http://1.2.3.4.example/"):
        assert reason(url, drop_ip_hosts=True) is None, url


def test_words_count_by_their_rule() -> None:
    rules = {"hard_words": ["poker"], "soft_words": ["free", "win", "cash"], "strict_words": ["buypills"]}
    assert reason("https://a.example/Play-POKER", **rules) == "hard_word"
    assert reason("https://a.example/pokerface", **rules) is None
    assert reason("https://a.example/free_free", **rules) is None
    assert reason("https://a.example/win-free", **rules) == "soft_words"
    assert reason("https://a.example/win-free", **rules, min_soft_words=3) is None
    assert reason("https://b-u-y.pills.example/", **rules) == "strict_word"


def test_what_owners_ask_for_is_done_unless_the_recipe_says_else() -> None:
    assert reason("", ["nofollow", "noai"]) == "robots"
    assert reason("", ["noindex"]) == "robots"
    assert reason("", ["tdm-reservation"]) == "robots"
    assert reason("", ["nofollow", "otherbot: noai"]) is None
    assert reason("", ["noindex"], robots=("noai",)) is None
    assert reason("", ["noai"], robots=()) is None


def test_lists_come_from_files(tmp_path: Path) -> None:
    text = "# a comment\nbad.example\n\n  worse.example \n"
    (tmp_path / "domains").write_text(text, encoding="utf-8")
    (tmp_path / "domains.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("domains", "domains.gz"):
        assert reason("http://www.worse.example", domains=tmp_path / name) == "domain"
        assert reason("http://a.comment", domains=str(tmp_path / name)) is None
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name in ("none", "binary"):
        with pytest.raises(UserError, match="cannot be read.*one entry per line"):
            UrlRules(urls=tmp_path / name).build()
