"""The page that the tools act on, and the windows that it opens above itself.

A new window becomes the page; when it closes, the one below is the page again. Events that would wait for a person
are answered here and reported: dialogs are cancelled, downloads and file choosers refused. A document from another
origin is stopped before it is requested (redirects too, which Playwright's own routes do not see), so a link to
another origin leaves the page unchanged. This only helps the model; `tunnel.py` enforces the origins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import anyio
from playwright.async_api import BrowserContext, CDPSession, Dialog, Download, Error, FileChooser, Frame, Page

from mcp_servers.browser.happenings import Happenings, quoted
from mcp_servers.browser.policy import AllowedOrigins

MAX_WINDOWS = 4
"""Open windows of the browser."""
BLANK = "about:blank"
TOO_MUCH_MEMORY = "The page took too much memory and was ended."
# A requested window arrives within a tenth of a second; one that Chromium denies the page never does.
ARRIVAL_S = 2.0


class Pages:
    """The open windows of one browser, the current one last."""

    def __init__(self, context: BrowserContext, allowed: AllowedOrigins) -> None:
        """Watch the windows of `context`."""
        self.happenings = Happenings()
        self.documents_seen = 0
        """Number of documents loaded by any frame: after an increase, older references may be invalid."""
        self.broken = ""
        """Reason why the current page no longer answers; empty while it does."""
        self._context = context
        self._allowed = allowed
        self._windows: list[Page] = []
        self._arrived: asyncio.Queue[Page] = asyncio.Queue()
        self._wanted: list[str] = []
        """URLs of the requested windows, in the order of the requests."""
        self._sessions: dict[Page, CDPSession] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        context.on("page", self._on_page)
        context.on("dialog", lambda dialog: self._soon(self._answer(dialog)))

    @property
    def is_open(self) -> bool:
        """True while any page is open; False after the last one has closed itself."""
        return bool(self._windows)

    @property
    def shown(self) -> Page:
        """The page that tools act on."""
        return self._windows[-1]

    async def open_first(self) -> None:
        """Close all windows and open an empty page."""
        windows, self._windows = self._windows, []
        for window in windows:
            await window.close()
        self.broken = ""
        page = await self._context.new_page()
        self._windows.append(page)
        self._arrived, self._wanted = asyncio.Queue(), []
        await self._watch(page)

    async def close_shown(self) -> bool:
        """Close the page if it is a window above another; return whether it was."""
        if len(self._windows) < 2:
            return False
        await self.shown.close()
        return True

    def end_for_memory(self) -> None:
        """Note, from any thread, that the pages' processes are killed for using too much memory."""
        self.broken = TOO_MUCH_MEMORY

    def take_happenings(self) -> Happenings:
        """Return the events since the last call, and start a new collection."""
        taken, self.happenings = self.happenings, Happenings()
        return taken

    async def receive_windows(self) -> None:
        """Decide on windows that opened since the last call: keep them, or close and report them."""
        while self._wanted or not self._arrived.empty():
            wanted = self._wanted.pop(0) if self._wanted else BLANK
            with anyio.move_on_after(ARRIVAL_S) as waiting:
                page = await self._arrived.get()
            if waiting.cancelled_caught:
                self._wanted.clear()
            else:
                await self._receive(page, wanted)
        await self.close_failed_windows()

    async def _receive(self, page: Page, wanted: str) -> None:
        if not self._allowed.may_show(wanted):
            self.happenings.refuse_document(wanted)
            await page.close()
        elif len(self._windows) > MAX_WINDOWS:
            self.happenings.tell(f"a new window was closed: {MAX_WINDOWS} are open")
            await page.close()
        elif not page.is_closed():
            await self._watch(page)
            self._windows.append(page)
            self.happenings.tell("a new window opened; it is the page now, and `back` closes it")
            if page.url == BLANK != wanted:
                with suppress(Error):  # loading failed: reported below, or by the next call
                    await page.wait_for_url(lambda url: url != BLANK, wait_until="commit")

    async def close_failed_windows(self) -> None:
        """Close windows above the first that hold the browser's own error page."""
        for page in self._windows[1:]:
            if not self._allowed.may_show(page.url):
                self.happenings.tell("a new window was closed: what it was to show could not be loaded")
                self._windows.remove(page)
                await page.close()

    async def address(self) -> tuple[str, str]:
        """Return the page's URL and title as the browser knows them, even if the page does not answer."""
        session = self._sessions.get(self._windows[-1]) if self._windows else None
        if session is None:
            return BLANK, ""
        target = (await session.send("Target.getTargetInfo"))["targetInfo"]
        # Chromium uses the end of the URL as the title of a page without one.
        return target["url"], "" if target["url"].endswith(target["title"]) else target["title"]

    async def close(self) -> None:
        """Cancel the answers in progress."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _watch(self, page: Page) -> None:
        if page in self._sessions:
            return
        session = await self._context.new_cdp_session(page)
        self._sessions[page] = session
        session.on("Fetch.requestPaused", lambda event: self._soon(self._judge(session, event)))
        session.on("Page.frameRequestedNavigation", lambda event: self._on_wish(event["url"]))
        session.on("Page.windowOpen", lambda event: self._on_window_wish(event["url"] or BLANK))
        await session.send("Fetch.enable", {"patterns": [{"resourceType": "Document", "requestStage": "Request"}]})
        await session.send("Page.enable")

    async def _judge(self, session: CDPSession, event: dict[str, Any]) -> None:
        url, request = event["request"]["url"], {"requestId": event["requestId"]}
        if self._allowed.may_show(url):
            await session.send("Fetch.continueRequest", request)
        else:
            self.happenings.refuse_document(url)
            await session.send("Fetch.failRequest", {**request, "errorReason": "Aborted"})

    def _on_page(self, page: Page) -> None:
        if self._arrived.qsize() >= MAX_WINDOWS:
            self._soon(page.close())
            return
        self._arrived.put_nowait(page)
        page.on("close", self._on_close)
        page.on("crash", self._on_crash)
        page.on("download", self._on_download)
        page.on("filechooser", self._on_file_chooser)
        page.on("framenavigated", self._on_document)

    def _on_wish(self, url: str) -> None:
        """Report an address for another program (mailto:); other addresses are judged when they are loaded."""
        if not url.startswith(("http:", "https:", "javascript:")) and not self._allowed.may_show(url):
            self.happenings.refuse_document(url)

    def _on_window_wish(self, url: str) -> None:
        if len(self._wanted) < MAX_WINDOWS:
            self._wanted.append(url)

    def _on_close(self, page: Page) -> None:
        session = self._sessions.pop(page, None)
        if page not in self._windows:
            return
        was_shown = page is self.shown
        self._windows.remove(page)
        if was_shown and session is not None:
            below = "the one below is the page again" if self._windows else "no page is open"
            self.happenings.tell(f"the window closed; {below}")

    def _on_crash(self, page: Page) -> None:
        if self._windows and page is self.shown:
            self.broken = self.broken or "The page crashed."

    def _on_download(self, download: Download) -> None:
        self.happenings.tell(f"a download was refused: {quoted(download.suggested_filename)}")
        self._soon(download.cancel())

    def _on_file_chooser(self, chooser: FileChooser) -> None:
        self.happenings.tell("the page asked for a file; none was given")

    def _on_document(self, frame: Frame) -> None:
        self.documents_seen += 1

    async def _answer(self, dialog: Dialog) -> None:
        if dialog.type == "beforeunload":  # the caller requested to leave
            self.happenings.tell("the page asked whether to leave it; it was left")
            await dialog.accept()
            return
        answer = "closed" if dialog.type == "alert" else "answered with Cancel"
        self.happenings.tell(f"dialog ({dialog.type}) {answer}: {quoted(dialog.message)}")
        await dialog.dismiss()

    def _soon(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` concurrently with the call; it ends silently if its window closes."""
        task = asyncio.create_task(_until_closed(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _until_closed(work: Coroutine[Any, Any, None]) -> None:
    with suppress(Error):  # the window or the browser is gone
        await work
