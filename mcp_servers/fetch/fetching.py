"""Fetching of a URL as pages of text: robots.txt, redirects, decoding, extraction, and a cache of documents."""

from __future__ import annotations

import ssl
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.to_thread

from mcp_servers.child import ChildCrash, ChildTimeout, KillableChild
from mcp_servers.failures import ToolFailure
from mcp_servers.fetch.network import ROBOTS_NAME, Response, get
from mcp_servers.fetch.policy import (
    MAX_REDIRECTS,
    REDIRECTS,
    Limits,
    Target,
    decode_text,
    is_html,
    is_text,
    media_type,
    pages_of,
    parse_url,
    redirected,
)
from mcp_servers.hidden import visible
from mcp_servers.long_calls import report_progress_async

EXTRACT_WORKER = "mcp_servers.fetch.extract_worker"
_STEPS = 3
_KEPT_ROBOTS = 256


@dataclass(frozen=True)
class Document:
    """Content found at a URL."""

    url: str
    """URL after redirects."""
    status: int
    content_type: str
    title: str
    text: str


class Fetcher:
    """Fetches documents and caches the newest."""

    def __init__(
        self, limits: Limits, *, allowed_origins: frozenset[str] = frozenset(), obeys_robots: bool = True
    ) -> None:
        """Store the settings; nothing is connected yet.

        Args:
            limits: Limits of one call.
            allowed_origins: Origins that may have any address and port.
            obeys_robots: Whether a site's robots.txt is checked first.
        """
        self._limits = limits
        self._allowed = allowed_origins
        self._obeys_robots = obeys_robots
        self._child = KillableChild(EXTRACT_WORKER, packages=True)
        self._tls: ssl.SSLContext | None = None
        self._documents: OrderedDict[tuple[str, bool], tuple[float, Document]] = OrderedDict()
        self._robots: OrderedDict[str, tuple[float, str | None]] = OrderedDict()

    def close(self) -> None:
        """Stop the child."""
        self._child.close()

    async def fetch(self, url: str, *, raw: bool) -> Document:
        """Return the document at a URL.

        Args:
            url: URL to fetch.
            raw: Whether HTML stays HTML.

        Raises:
            ToolFailure: The URL may not be fetched, or fetching failed.
        """
        target = parse_url(url, self._allowed)
        kept = self._documents.get((target.url, raw))
        if kept is not None and kept[0] > time.monotonic():
            return kept[1]
        try:
            with anyio.fail_after(self._limits.total_seconds):
                document = await self._fetched(target, raw)
        except TimeoutError:
            raise ToolFailure(
                f"{target.url} took longer than {self._limits.total_seconds:g} s, so it was given up."
            ) from None
        self._documents[target.url, raw] = (time.monotonic() + self._limits.kept_seconds, document)
        self._documents.move_to_end((target.url, raw))
        while len(self._documents) > self._limits.kept_documents:
            self._documents.popitem(last=False)
        return document

    async def _fetched(self, target: Target, raw: bool) -> Document:
        await report_progress_async(1, _STEPS, f"asking {target.host}")
        target, response = await self._followed(target)
        if response.status >= 400:
            raise ToolFailure(f"{target.url} answers {response.status}. {_advice(response.status)}")
        if not is_text(response.content_type):
            raise ToolFailure(
                f"{target.url} is {media_type(response.content_type)!r}, {len(response.body)} bytes, and no text."
            )
        await report_progress_async(2, _STEPS, "reading the page")
        text, title = decode_text(response.body, response.content_type), ""
        if not raw and is_html(response.content_type, text):
            title, text = await self._markdown(target, text)
        return Document(
            url=target.url,
            status=response.status,
            content_type=visible(media_type(response.content_type)) or "unknown",
            title=visible(title),
            text=visible(text),
        )

    async def _followed(self, target: Target) -> tuple[Target, Response]:
        """Request a URL and follow redirects; robots.txt is checked at each step."""
        for _ in range(MAX_REDIRECTS + 1):
            await self._ask_robots(target)
            response = await self._get(target, self._limits.decoded_bytes)
            if not response.location:
                return target, response
            target = redirected(target, response.location, self._allowed)
        raise ToolFailure(f"More than {MAX_REDIRECTS} redirects, the last to {target.url}, so it was given up.")

    async def _get(self, target: Target, max_bytes: int) -> Response:
        if self._tls is None:
            self._tls = await anyio.to_thread.run_sync(ssl.create_default_context)
        return await get(target, self._tls, self._allowed, self._limits, max_bytes)

    async def _ask_robots(self, target: Target) -> None:
        if not self._obeys_robots:
            return
        robots = await self._robots_of(target)
        if robots is None:
            raise ToolFailure(
                f"{target.origin}/robots.txt cannot be read now, and until it can nothing of this site is fetched "
                "(RFC 9309). Try later, or another source."
            )
        if robots:
            request = {"do": "robots", "text": robots, "url": target.url, "agent": ROBOTS_NAME}
            if not (await self._asked(request, f"{target.origin}/robots.txt"))["allowed"]:
                raise ToolFailure(f"{target.origin}/robots.txt does not let {target.url} be fetched by programs.")

    async def _robots_of(self, target: Target) -> str | None:
        """Return a site's robots.txt; empty if it has none, None if the site fails."""
        kept = self._robots.get(target.origin)
        if kept is not None and kept[0] > time.monotonic():
            return kept[1]
        at = parse_url(f"{target.scheme}://{target.authority}/robots.txt", self._allowed)
        text: str | None = None
        for _ in range(MAX_REDIRECTS + 1):
            response = await self._get(at, self._limits.robots_bytes)
            if response.status in REDIRECTS and response.location:
                at = redirected(at, response.location, self._allowed)
                continue
            if response.status < 300:
                text = decode_text(response.body, "text/plain; charset=utf-8")
            elif response.status < 500:
                text = ""
            break
        self._robots[target.origin] = (time.monotonic() + self._limits.kept_seconds, text)
        while len(self._robots) > _KEPT_ROBOTS:
            self._robots.popitem(last=False)
        return text

    async def _markdown(self, target: Target, page: str) -> tuple[str, str]:
        answer = await self._asked({"do": "markdown", "html": page, "url": target.url}, target.url)
        if not answer["text"].strip():
            raise ToolFailure(
                f"{target.url} has no text that could be found in its {len(page)} characters of HTML; it may need "
                "a browser, or raw=true shows the HTML."
            )
        return answer["title"], answer["text"]

    async def _asked(self, request: dict[str, str], url: str) -> dict[str, Any]:
        try:
            return await anyio.to_thread.run_sync(self._child.call, request, self._limits.extract_seconds)
        except (ChildTimeout, ChildCrash) as error:
            raise ToolFailure(
                f"{url} could not be read in {self._limits.extract_seconds:g} s: it is too large or too deeply "
                "nested. raw=true shows its HTML."
            ) from error


def page_of(document: Document, page: int, limits: Limits) -> tuple[str, int]:
    """Return one page of a document and the number of pages.

    Raises:
        ToolFailure: The page does not exist.
    """
    pages = pages_of(document.text, limits.page_chars)
    if page > len(pages):
        raise ToolFailure(f"{document.url} has {len(pages)} pages; there is no page {page}.")
    return pages[page - 1], len(pages)


def _advice(status: int) -> str:
    if status in (401, 403):
        return "It needs a login or refuses programs; try another source."
    if status in (404, 410):
        return "There is no such page; check the URL or search for it."
    if status == 429:
        return "It is asked too often; wait before asking again."
    return "Try later, or another source."
