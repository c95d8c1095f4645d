"""Child process that parses untrusted content: HTML to Markdown, and robots.txt.

Deeply nested or huge pages can exhaust a parser's time, memory or stack; a separate process contains that.
"""

from __future__ import annotations

import html
import re
from typing import Any

from mcp_servers.child import answer_requests

# trafilatura takes a page for HTML only if the word is among its first characters. HTML may leave out both the
# doctype and the tag (https://html.spec.whatwg.org/#optional-tags).
_SIGN_WITHIN = 50
_TITLE = re.compile(r"<title[^>]{0,200}>(.{0,600}?)</title", re.IGNORECASE | re.DOTALL)


def handle(request: dict[str, Any]) -> dict[str, Any]:
    """Answer `{"do": "markdown", "html", "url"}` or `{"do": "robots", "text", "url", "agent"}`."""
    if request["do"] == "robots":
        return {"allowed": may_fetch(request["text"], request["url"], request["agent"])}
    return markdown(request["html"], request["url"])


def may_fetch(robots: str, url: str, agent: str) -> bool:
    """Return whether a robots.txt allows `agent` to fetch `url`."""
    from protego import Protego

    return bool(Protego.parse(robots).can_fetch(url, agent))


def markdown(page: str, url: str) -> dict[str, Any]:
    """Return title and text of a page: its main content, or all of its text if none is recognised."""
    from trafilatura import extract, html2txt

    found = _TITLE.search(page[:200_000])
    title = " ".join(html.unescape(found[1]).split()) if found else ""
    if "html" not in page[:_SIGN_WITHIN].lower():
        page = f"<!doctype html>\n{page}"
    text = extract(
        page,
        url=url,
        output_format="markdown",
        include_links=True,
        include_tables=True,
        include_formatting=True,
        include_comments=False,
        favor_recall=True,
    )
    return {"title": title, "text": text or html2txt(page) or ""}


def main() -> None:
    """Answer the parent's requests."""
    answer_requests(handle)
