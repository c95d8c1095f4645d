"""Files that clients send, in the forms of the protocols."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Sequence

from agentkit.errors import UserError
from agentkit.files import FileLimits, checked_prompt
from agentkit.messages import BinaryContent, Content
from agentkit.serving.errors import RequestRefused

_MAX_SHOWN_CHARS = 40


def content_of(items: Sequence[str | BinaryContent], limits: FileLimits, *, between: str = "\n") -> Content:
    """Return the content of a message; texts alone are joined with `between`.

    Raises:
        RequestRefused: it is empty, or a file is refused.
    """
    if all(isinstance(item, str) for item in items):
        text = between.join(item for item in items if isinstance(item, str))
        if not text.strip():
            raise RequestRefused("unprocessable", "the last message must have words of the user, or a file.")
        return text
    try:
        return checked_prompt(items, limits)
    except UserError as error:
        raise RequestRefused("unprocessable", str(error)) from error


def file_of_base64(data: str, media_type: str, name: str | None = None) -> BinaryContent:
    """Return a file from its base64.

    Raises:
        RequestRefused: the text is not base64.
    """
    try:
        return BinaryContent(b64decode(data, validate=True), media_type, name)
    except ValueError as error:
        raise RequestRefused("unprocessable", f"a file of type {media_type!r} is not base64: {error}.") from error


def file_of_url(url: str, name: str | None = None) -> BinaryContent:
    """Return the file in a data URL (RFC 2397) with base64; nothing is fetched for a client.

    Raises:
        RequestRefused: the URL has another form.
    """
    head, comma, data = url.partition(",")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        raise RequestRefused(
            "unprocessable",
            f"{url[:_MAX_SHOWN_CHARS]!r} is not fetched; send the file itself: data:TYPE;base64,DATA.",
        )
    return file_of_base64(data, head.removeprefix("data:").removesuffix(";base64"), name)
