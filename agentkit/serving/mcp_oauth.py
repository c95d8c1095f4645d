"""OAuth at the MCP endpoint of a served agent: clients come with access tokens instead of keys.

A token's user owns the runs and sessions. The owner's name has a colon, so it is never the name of a key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from agentkit.errors import UserError
from agentkit.serving.access import LOCAL_HOSTS
from mcp_servers.oauth.guard import AccessRefused, admitted
from mcp_servers.oauth.protected_resource import WELL_KNOWN, ProtectedResource
from mcp_servers.oauth.verifying import TokenVerifier, verifier_of

if TYPE_CHECKING:
    from starlette.types import Scope

OWNER_HEADER = "x-agentkit-owner"
"""Header that names the verified owner to the MCP server; one that a client sends is removed."""


class OAuthAccess:
    """Access to the MCP endpoint by the tokens of an authorization server."""

    def __init__(self, resource: ProtectedResource, verifier: TokenVerifier | None = None) -> None:
        """Admit tokens for `resource`."""
        self._resource = resource
        self._verifier = verifier or verifier_of(resource)

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths of the resource's metadata."""
        return tuple(dict.fromkeys((self._resource.metadata_path, WELL_KNOWN)))

    async def metadata(self, request: Request) -> Response:
        """Answer with the resource's metadata; it needs no token."""
        return JSONResponse(self._resource.metadata())

    async def owner(self, scope: Scope) -> str:
        """Return the owner that a request's token names.

        Raises:
            AccessRefused: the token is missing or not accepted.
        """
        values = [value for name, value in scope["headers"] if name == b"authorization"]
        return f"oauth:{(await admitted(self._resource, self._verifier, values)).subject}"

    def named(self, scope: Scope, owner: str) -> Scope:
        """Return a request with its owner's name in place of its token."""
        left_out = (OWNER_HEADER.encode(), b"authorization")
        kept = [(name, value) for name, value in scope["headers"] if name not in left_out]
        return {**scope, "headers": [*kept, (OWNER_HEADER.encode(), owner.encode())]}

    @staticmethod
    def owner_in(headers: Mapping[str, str]) -> str:
        """Return the owner's name from the headers of a request that `named` has made."""
        return headers[OWNER_HEADER]


def refusal(error: AccessRefused) -> Response:
    """Return the answer to a request without access."""
    headers: dict[str, Any] = {} if error.challenge is None else {"WWW-Authenticate": error.challenge}
    return PlainTextResponse(str(error), status_code=error.status, headers=headers)


def oauth_access(oauth: ProtectedResource | None, keys: Mapping[str, str] | None) -> OAuthAccess | None:
    """Return the access to the MCP endpoint; None: keys open it, as the others.

    Raises:
        UserError: the service is reached by others, and its other endpoints would be open.
    """
    if oauth is None:
        return None
    host = (urlsplit(oauth.url).hostname or "").lower()
    if keys is None and host not in LOCAL_HOSTS and host != "::1":
        raise UserError(
            f"oauth={oauth.url!r} guards the MCP endpoint only; the other endpoints need keys=..., on the command "
            f"line --key NAME=VARIABLE."
        )
    return OAuthAccess(oauth)
