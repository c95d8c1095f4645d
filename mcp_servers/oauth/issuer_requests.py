"""Requests to the configured authorization server: bounded in size and time, without redirects."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

import anyio
import httpx2

MAX_BODY_BYTES = 256 << 10
TIMEOUT_S = 10.0


class IssuerUnavailable(Exception):
    """The authorization server cannot be asked, so a token can be neither accepted nor refused."""


async def fetch_object(
    url: str, *, form: Mapping[str, str] | None = None, basic: tuple[str, str] | None = None
) -> dict[str, Any]:
    """Return the JSON object at a URL; a form is sent by POST, with credentials if they are given.

    Raises:
        IssuerUnavailable: there is no answer in time, or it is not a JSON object with status 200.
    """
    headers = {"accept": "application/json", "accept-encoding": "identity"}
    auth = None if basic is None else httpx2.BasicAuth(*basic)
    method, body = ("GET", None) if form is None else ("POST", dict(form))
    try:
        with anyio.fail_after(TIMEOUT_S):
            async with (
                httpx2.AsyncClient(timeout=TIMEOUT_S, auth=auth) as client,
                client.stream(method, url, headers=headers, data=body) as response,
            ):
                if response.status_code != 200:
                    raise IssuerUnavailable(f"{url} answered with status {response.status_code}.")
                document = await _read(response, url)
    except (httpx2.HTTPError, TimeoutError) as error:
        raise IssuerUnavailable(f"{url} cannot be reached: {type(error).__name__}.") from error
    return document


async def _read(response: httpx2.Response, url: str) -> dict[str, Any]:
    content = bytearray()
    async for piece in response.aiter_raw():
        content += piece
        if len(content) > MAX_BODY_BYTES:
            raise IssuerUnavailable(f"{url} has more than {MAX_BODY_BYTES >> 10} KiB.")
    try:
        document: Any = json.loads(bytes(content))
    except (ValueError, RecursionError) as error:
        raise IssuerUnavailable(f"{url} is not JSON.") from error
    if not isinstance(document, dict):
        raise IssuerUnavailable(f"{url} is not a JSON object.")
    return cast("dict[str, Any]", document)


async def issuer_metadata(issuer: str) -> dict[str, Any]:
    """Return the metadata of an authorization server (RFC 8414, else OpenID Connect Discovery).

    Raises:
        IssuerUnavailable: there is none, or it is of another issuer.
    """
    parts = httpx2.URL(issuer)
    path = parts.path.rstrip("/")
    origin = f"{parts.scheme}://{parts.netloc.decode('ascii')}"
    problem = IssuerUnavailable(f"{issuer} has no metadata.")
    for url in (
        f"{origin}/.well-known/oauth-authorization-server{path}",
        f"{issuer.rstrip('/')}/.well-known/openid-configuration",
    ):
        try:
            document = await fetch_object(url)
        except IssuerUnavailable as error:
            problem = error
            continue
        if document.get("issuer") != issuer:
            raise IssuerUnavailable(f"{url} is the metadata of {document.get('issuer')!r}, not of {issuer!r}.")
        return document
    raise problem
