"""Address, key and headers of a server, checked before anything is sent.

A key from the environment goes over https or to this machine only. Redirects are not followed (`exchange`), so
no other host receives it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from agentkit.errors import UserError
from agentkit.models.http.http_clients import is_loopback

KEY_HEADERS = frozenset({"authorization", "api-key", "x-api-key", "x-goog-api-key"})
"""Names of headers that carry a key, in lower case."""
_HEADER_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e\t]*[\x21-\x7e])?")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


def checked_url(base_url: str) -> str:
    """Return the address without a final slash.

    Raises:
        UserError: it is not an http or https address, or holds credentials, a query or a fragment.
    """
    try:
        parts = urlsplit(base_url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable, parts = False, urlsplit("")
    if not usable or re.search(r"[\s\\\x00-\x1f\x7f]", base_url):
        raise UserError(f"base_url={base_url!r} is no http or https address, such as 'http://127.0.0.1:8080/v1'.")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise UserError(
            "base_url may hold no credentials, query or fragment: give the key as `api_key=`, other values as "
            "`headers=`."
        )
    return base_url.rstrip("/")


def checked_key(key: str) -> str | None:
    """Return the key without surrounding white space; None if it is empty.

    Raises:
        UserError: it has characters that no header can carry.
    """
    key = key.strip()
    if key and not re.fullmatch(r"[\x21-\x7e]+", key):
        raise UserError("the API key has characters that no HTTP header can carry; was more copied than the key?")
    return key or None


def environment_key(base_url: str, variables: Iterable[str]) -> str | None:
    """Return the key in the first of `variables` that is set; None for a remote host over plain HTTP.

    Raises:
        UserError: the key has characters that no header can carry.
    """
    if urlsplit(base_url).scheme != "https" and not is_loopback(base_url):
        return None
    found = (checked_key(os.environ.get(variable, "")) for variable in variables)
    return next((key for key in found if key), None)


def request_headers(key_headers: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of every request, in lower case; `given` ones take precedence.

    A compressed reply would escape the bounds on bytes, so none is accepted.

    Raises:
        UserError: a name or a value is not allowed in HTTP.
    """
    headers = {"content-type": "application/json", "accept-encoding": "identity", "user-agent": "agentkit"}
    headers.update(key_headers)
    for name, value in given.items():
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise UserError(f"the header {name!r} has a name or a value that HTTP does not allow.")
        headers[name.lower()] = value
    return headers


def secrets_of(key: str | None, headers: Mapping[str, str]) -> tuple[str, ...]:
    """Return the texts that errors must not show: the key and header values, also without scheme ("Bearer")."""
    values = [*headers.values(), *(value.split()[-1] for value in headers.values())]
    return tuple(dict.fromkeys([key, *values] if key else values))
