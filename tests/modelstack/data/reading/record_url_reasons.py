"""Writes url_reasons.json: what datatrove's URLFilter says of addresses, with our own small lists.

python -m tests.modelstack.data.reading.record_url_reasons FOLDER_FOR_ITS_ENVIRONMENT
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

from evals.speed.peers import peer_python

PACKAGES = ("datatrove[processing]==0.10.1", "xxhash<4")
RECORD = Path(__file__).with_name("url_reasons.json")
LISTS = {
    "domains": ["example.net", "ads.example.com", "example.co.uk", "example.edu"],
    "urls": ["https://news.example.org/spam/page.html", "http://a.example.org/?q=1"],
    "hard_words": ["pokerface", "Slotz"],
    "soft_words": ["free", "win", "cash", "bonus", "hot"],
    "strict_words": ["xcasinox", "buy-pillz"],
}
HOSTS = (
    "example.net",
    "www.example.net",
    "notexample.net",
    "example.net.example.org",
    "ads.example.com",
    "example.com",
    "www.example.com",
    "example.co.uk",
    "a.b.example.co.uk",
    "co.uk",
    "EXAMPLE.NET",
    "example.edu:8080",
    "user:word@example.edu",
    "example.edu.",
    "news.example.org",
    "a.example.org",
    "192.0.2.7",
    "pokerface.example.org",
    "x-casino-x.example.org",
)
PATHS = (
    "",
    "/",
    "/spam/page.html",
    "/?q=1",
    "/pokerface",
    "/my-pokerface/1",
    "/pokerfaces",
    "/slotz.html",
    "/free/win",
    "/freewin",
    "/free-free-free",
    "/cash_bonus?hot=1",
    "/buypillz",
    "/buy/pillz",
    "/buy--pil.lz-now",
    "/x.casino_x",
    "/caf%C3%A9/free%20win",
)
_PROGRAM = """
import json, sys
from datatrove.data import Document
from datatrove.pipeline.filters import URLFilter
lists, urls = json.load(sys.stdin)
rules = URLFilter(
    extra_domains=lists["domains"], extra_urls=lists["urls"], banned_words=lists["hard_words"],
    soft_banned_words=lists["soft_words"], banned_subwords=lists["strict_words"], use_integrated_lists=False,
)
answers = [rules.filter(Document(text="", id="", metadata={"url": url})) for url in urls]
json.dump([None if answer is True else answer[1] for answer in answers], sys.stdout)
"""


def addresses() -> list[str]:
    """Return the addresses that are asked about."""
    return [
        f"{scheme}://{host}{path}" for scheme, host, path in itertools.product(("https", "http"), HOSTS, PATHS)
    ]


if __name__ == "__main__":
    python = peer_python(Path(sys.argv[1]), PACKAGES)
    asked = json.dumps([LISTS, addresses()])
    answer = subprocess.run([str(python), "-c", _PROGRAM], input=asked, capture_output=True, text=True, check=True)
    RECORD.write_text(json.dumps(json.loads(answer.stdout)) + "\n", encoding="utf-8")
