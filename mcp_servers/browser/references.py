"""References like e12 from the last outline, and the elements that they mean."""

from __future__ import annotations

from playwright.async_api import Error, Locator, Page

from mcp_servers.browser.outline import Node, Number
from mcp_servers.failures import ToolFailure

NEW_OUTLINE = "Call outline and take a reference from there."


class References:
    """References of the last outline. A number is never given twice, whatever pages and browsers come and go."""

    def __init__(self) -> None:
        """Begin with none."""
        self._last = 0
        self._nodes: dict[str, Node] = {}
        self._document: object = None
        self._given: dict[str, str] = {}

    def renew(self, document: object) -> Number:
        """Forget the last outline; return what numbers the nodes of the next.

        Args:
            document: Equal to that of the last outline where its nodes keep their references.
        """
        self._nodes = {}
        if document != self._document:
            self._document, self._given = document, {}
        return self._number

    async def find(self, page: Page, ref: str) -> tuple[Locator, str]:
        """Return an element and what it is called.

        Raises:
            ToolFailure: the reference is none of the last outline, or its element is gone.
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
            is_gone = True  # the frame that it was in
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
