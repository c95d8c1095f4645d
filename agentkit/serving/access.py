"""Who may ask a served agent: keys of clients, and what a browser or a rebound name may do without one.

Each key has a name, and runs and sessions belong to that name. Without keys, all clients are the owner "local", so
only requests to this machine's own names are answered: a web page could otherwise reach the server by a name that
its owner lets point here (DNS rebinding), or from a page that is open in a browser.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Collection, Mapping

from starlette.requests import Request

from agentkit import studio
from agentkit.errors import UserError
from agentkit.serving.errors import RequestRefused
from agentkit.serving.worker import LOCAL_OWNER

LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]", "testserver"})
AGENT_CARD = "/.well-known/agent-card.json"
"""Path of the description of the agent that A2A's clients read."""
OPEN_PATHS = frozenset({"/health/live", "/health/ready", AGENT_CARD, studio.ROOT, studio.FILE})
"""Paths that need no key."""
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
LEAST_KEY = 16
"""Characters of a key at least."""


class Access:
    """Keys and names under which a service is reached."""

    def __init__(
        self,
        keys: Mapping[str, str] | None,
        hosts: Collection[str] | None = None,
        origins: Collection[str] = (),
    ) -> None:
        """Set what is allowed.

        Args:
            keys: Keys by the name of their client; None: no key is needed.
            hosts: Names in the `Host` header that are answered, "*" for all; None: all with keys, without keys
                this machine's own.
            origins: Origins of web pages that may ask, for example "https://app.example.com".

        Raises:
            UserError: a name or a key has a form that is not allowed.
        """
        for name, key in (keys or {}).items():
            if not _NAME.fullmatch(name):
                raise UserError(f"keys={name!r}: a client's name has 1 to 64 letters, digits, '.', '_' or '-'.")
            if len(key) < LEAST_KEY:
                raise UserError(
                    f"the key of {name!r} has {len(key)} characters; use at least {LEAST_KEY}, for example of "
                    f"`python -c 'import secrets; print(secrets.token_urlsafe())'`."
                )
        self._keys = None if keys is None else dict(keys)
        if hosts is None:
            hosts = LOCAL_HOSTS if keys is None else ("*",)
        self._hosts = frozenset(host.lower() for host in hosts)
        self.origins = frozenset(origins)

    def owner(self, request: Request, path: str) -> str:
        """Return the name of a client.

        Args:
            request: The request.
            path: Its path within the service.

        Raises:
            RequestRefused: the host or the origin is not allowed, or the key is missing or wrong.
        """
        self.check_source(request)
        return LOCAL_OWNER if path in OPEN_PATHS else self.owner_in(request.headers)

    def check_source(self, request: Request) -> None:
        """Check the name under which the service is reached, and the web page that asks.

        Raises:
            RequestRefused: the host or the origin is not allowed.
        """
        host = _without_port(request.headers.get("host", ""))
        if "*" not in self._hosts and host not in self._hosts:
            raise RequestRefused(
                "forbidden", f"this service is not reached under the name {host!r}; allow it with `hosts`."
            )
        origin = request.headers.get("origin")
        if origin is not None and origin not in self.origins and not _is_same(origin, request):
            raise RequestRefused("forbidden", f"web pages of {origin!r} may not ask; allow them with `origins`.")

    def owner_in(self, headers: Mapping[str, str]) -> str:
        """Return the name of the client whose key is in the headers of a request.

        Raises:
            RequestRefused: the key is missing or wrong.
        """
        if self._keys is None:
            return LOCAL_OWNER
        scheme, _, given = headers.get("authorization", "").partition(" ")
        token = given.strip().encode() if scheme.lower() == "bearer" else b""
        found = [name for name, key in self._keys.items() if hmac.compare_digest(token, key.encode())]
        if not found:
            raise RequestRefused(
                "unauthorized", "the key is missing or wrong; send it as 'Authorization: Bearer KEY'."
            )
        return found[0]


def _without_port(host: str) -> str:
    return re.sub(r":\d+$", "", host).lower()


def _is_same(origin: str, request: Request) -> bool:
    """Whether a page was served from the address that it asks."""
    return origin == f"{request.url.scheme}://{request.headers.get('host', '')}"
