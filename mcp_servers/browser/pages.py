"""The page that the tools act on, and the windows that it opens above itself.

A new window becomes the page; when it closes, the one below is the page again. Everything that would wait for a
person is answered here and told: dialogs are cancelled, downloads and file choosers refused. A document from
another origin is stopped before it is asked for (redirects too, which Playwright's own routes do not see), so that
a link that leads away leaves the page as it is. That is a courtesy to the model; the wall is `tunnel.py`.
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
BLANK = "about:blank"
TOO_MUCH_MEMORY = "The page took too much memory and was ended."
# A window that was asked for is there in a tenth of a second; one that Chromium denies the page never comes.
ARRIVAL_S = 2.0


class Pages:
    """The open windows of one browser, the current one last."""

    def __init__(self, context: BrowserContext, allowed: AllowedOrigins) -> None:
        """Watch the windows of `context`."""
        self.happenings = Happenings()
        self.documents_seen = 0
        """Grows whenever a frame gets a document: references of before may be gone."""
        self.broken = ""
        """Why the current page answers no more; empty while it does."""
        self._context = context
        self._allowed = allowed
        self._windows: list[Page] = []
        self._arrived: asyncio.Queue[Page] = asyncio.Queue()
        self._wanted: list[str] = []
        """What the windows that arrive are to show, in the order in which they were asked for."""
        self._sessions: dict[Page, CDPSession] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        context.on("page", self._on_page)
        context.on("dialog", lambda dialog: self._soon(self._answer(dialog)))

    @property
    def is_open(self) -> bool:
        """Whether there is a page; not, when the last has closed itself."""
        return bool(self._windows)

    @property
    def shown(self) -> Page:
        """The page that tools act on."""
        return self._windows[-1]

    async def open_first(self) -> None:
        """Open the page at the bottom, closing all that there are."""
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
        """Note, from any thread, that the pages' processes are ended since they take too much memory."""
        self.broken = TOO_MUCH_MEMORY

    def take_happenings(self) -> Happenings:
        """Return what happened since the last call, and begin anew."""
        taken, self.happenings = self.happenings, Happenings()
        return taken

    async def receive_windows(self) -> None:
        """Decide on windows that opened since the last call: kept, or closed and told."""
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
                with suppress(Error):  # it failed: told below, or by the next call
                    await page.wait_for_url(lambda url: url != BLANK, wait_until="commit")

    async def close_failed_windows(self) -> None:
        """Close windows above the first that hold the browser's own error page."""
        for page in self._windows[1:]:
            if not self._allowed.may_show(page.url):
                self.happenings.tell("a new window was closed: what it was to show could not be loaded")
                self._windows.remove(page)
                await page.close()

    async def address(self) -> tuple[str, str]:
        """Return the page's URL and title, as the browser knows them, whether or not the page answers."""
        session = self._sessions.get(self._windows[-1]) if self._windows else None
        if session is None:
            return BLANK, ""
        target = (await session.send("Target.getTargetInfo"))["targetInfo"]
        # A page without a title is given the end of its URL.
        return target["url"], "" if target["url"].endswith(target["title"]) else target["title"]

    async def close(self) -> None:
        """End what is still being answered."""
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
        """Tell of an address that is for another program (mailto:); the others are judged when they are loaded."""
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
        if dialog.type == "beforeunload":  # leaving is what was asked for
            self.happenings.tell("the page asked whether to leave it; it was left")
            await dialog.accept()
            return
        answer = "closed" if dialog.type == "alert" else "answered with Cancel"
        self.happenings.tell(f"dialog ({dialog.type}) {answer}: {quoted(dialog.message)}")
        await dialog.dismiss()

    def _soon(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` beside the call; a window that closes meanwhile ends it."""
        task = asyncio.create_task(_until_closed(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _until_closed(work: Coroutine[Any, Any, None]) -> None:
    with suppress(Error):  # the window or the browser is gone, and with it what was to be answered
        await work
