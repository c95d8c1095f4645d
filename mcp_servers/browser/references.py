"""References such as e12 from the last outline, and their elements."""

from __future__ import annotations

from playwright.async_api import Error, Locator, Page

from mcp_servers.browser.outline import Node, Number
from mcp_servers.failures import ToolFailure

NEW_OUTLINE = "Call outline and take a reference from there."


class References:
    """References of the last outline. Numbers are never reused, also across pages and browsers."""

    def __init__(self) -> None:
        """Start without references."""
        self._last = 0
        self._nodes: dict[str, Node] = {}
        self._document: object = None
        self._given: dict[str, str] = {}

    def renew(self, document: object) -> Number:
        """Forget the last outline; return the function that numbers the nodes of the next.

        Args:
            document: Identity of the document; if equal to the last outline's, its nodes keep their references.
        """
        self._nodes = {}
        if document != self._document:
            self._document, self._given = document, {}
        return self._number

    async def find(self, page: Page, ref: str) -> tuple[Locator, str]:
        """Return an element and its name.

        Raises:
            ToolFailure: The reference is not in the last outline, or its element is gone.
        """
        node = self._nodes.get(ref)
        if node is None:
            was_given = int(ref.removeprefix("e")) <= self._last
            problem = "is from an older outline" if was_given else "is not in the outline"
            raise ToolFailure(f"{ref!r} {problem}. {NEW_OUTLINE}")
        locator = page.locator(f"aria-ref={node.page_ref}")
        try:
            is_gone = await locator.count() == 0
        except Error as error:
            if "Invalid frame" not in str(error):
                raise
            is_gone = True  # the element's frame is gone
        if is_gone:
            raise ToolFailure(f"{ref!r} ({node.what}) is no longer on the page. {NEW_OUTLINE}")
        return locator, f"{node.what} [{ref}]"

    def _number(self, node: Node) -> str:
        ref = self._given.get(node.page_ref)
        if ref is None:
            self._last += 1
            ref = self._given[node.page_ref] = f"e{self._last}"
        self._nodes[ref] = node
        return ref
