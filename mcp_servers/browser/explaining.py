"""Playwright's errors in words that a model can act on; the originals are logs of many lines."""

from __future__ import annotations

import re

from mcp_servers.browser.happenings import quoted

_COVERED = re.compile(r"(?P<cover><[^\n]{1,500}?) intercepts pointer events")
# Checked in this order: the log of one error can contain several.
_MEANINGS = (
    ("sandboxing failed", "its sandbox does not work here. Start the server with --no-sandbox, or not as root."),
    ("Element is not attached", "it is no longer on the page. Call outline again."),
    ("element was detached", "it is no longer on the page. Call outline again."),
    ("not an <input>", "nothing can be typed into it."),
    ("cannot be filled", "nothing can be typed into it. Use click."),
    ("Cannot type text into input[type=number]", "the field takes a number, like 12.5."),
    ("element is not editable", "it cannot be changed now."),
    ("element is not enabled", "it is disabled."),
    ("option being selected is not enabled", "that option is disabled."),
    ("element is not visible", "it cannot be seen. Scroll, or close what hides it."),
    ("element is outside of the viewport", "it lies outside the page. Use scroll, then click_at."),
    ("element is inert", "it cannot be used now; a dialog of the page may be open."),
    ("element is not stable", "it keeps moving. Use screenshot and click_at."),
    (
        "Unknown key",
        "there is no such key. Keys are written like Enter, Escape, ArrowDown, a, Control+a.",
    ),
    ("ERR_ABORTED", "it was stopped."),
    ("ERR_SOCKS_CONNECTION_FAILED", "it could not be connected to."),
    ("ERR_CERT", "its certificate is not trusted."),
    ("ERR_EMPTY_RESPONSE", "it closed the connection without an answer."),
    ("ERR_CONNECTION_CLOSED", "it closed the connection without an answer."),
    ("ERR_HTTP_RESPONSE_CODE_FAILURE", "it answers with an error, and with no page."),
    ("ERR_TOO_MANY_REDIRECTS", "it redirects in a circle."),
    ("Download is starting", "it is a file for download, which is refused."),
    ("Timeout", "it did not become ready in time."),
    ("BrowserType.launch", "the program ended at once."),
)


def explain(error: Exception) -> str:
    """Return the reason of a failure, as the end of a sentence."""
    text = str(error)
    covered = _COVERED.search(text)
    if covered is not None:
        return f"it is covered by {quoted(covered['cover'])}. Close that, or scroll."
    for sign, meaning in _MEANINGS:
        if sign in text:
            return meaning
    return f"the browser says {quoted(text.splitlines()[0].partition(': ')[2] or text.splitlines()[0])}."
