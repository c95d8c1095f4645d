"""The `mcpServers` JSON file that MCP hosts share.

    {"mcpServers": {
        "notes": {"command": "python", "args": ["-m", "notes_server"], "env": {"TOKEN": "${TOKEN}"}},
        "search": {"type": "http", "url": "https://example.com/mcp", "headers": {...}, "assume_harmless": true},
        "mail": {"url": "https://mail.example.com/mcp", "auth": {"type": "oauth", "scopes": ["mail.read"]}}
    }}

`${NAME}` and `${NAME:-default}` take environment variables, but only those that the caller allows: a file
from a repository must not be able to send any secret of the process to a server that it names.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from agentkit.errors import UserError
from agentkit.mcp.target import HttpTarget, StdioTarget

if TYPE_CHECKING:
    from agentkit.mcp.oauth.options import OAuth

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


class MCPAuthConfig(BaseModel):
    """A login with OAuth; the fields are those of `agentkit.mcp.oauth.OAuth`. Log in with `agentkit mcp login`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    type: Literal["oauth"] = "oauth"
    client_name: str = "agentkit"
    scopes: tuple[str, ...] | None = Field(default=None, strict=False)
    client_id: str | None = None
    client_secret: str | None = Field(default=None, repr=False)
    private_key: str | None = Field(default=None, repr=False)
    issuer: str | None = None
    client_metadata_url: str | None = None
    grant: Literal["authorization_code", "client_credentials"] = "authorization_code"
    redirect_port: int = 0
    account: str = ""

    def options(self) -> OAuth:
        """Return the options; nobody is asked.

        Raises:
            UserError: they contradict each other.
        """
        from agentkit.mcp.oauth.options import OAuth

        return OAuth(**self.model_dump(exclude={"type"}))


class MCPServerConfig(BaseModel):
    """A server of the file: `command` for a child process, `url` for streamable HTTP."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    type: Literal["stdio", "http", "streamable-http", "streamableHttp"] | None = None
    command: str | None = None
    args: tuple[str, ...] = Field(default=(), strict=False)
    env: dict[str, str] = Field(default_factory=dict, repr=False)
    cwd: str | None = None
    """Working directory, relative to the file's folder."""
    url: str | None = None
    headers: dict[str, str] = Field(default_factory=dict, repr=False)
    auth: MCPAuthConfig | None = None
    """Login with OAuth; other hosts do not know this key."""
    disabled: bool = False
    assume_harmless: bool = False
    """Treats missing hints as harmless, as in `MCPToolset`; other hosts do not know this key."""

    @model_validator(mode="after")
    def _one_kind(self) -> MCPServerConfig:
        if (self.command is None) == (self.url is None):
            raise ValueError("give either `command` (a child process) or `url` (streamable HTTP)")
        if self.command is None and (self.args or self.env or self.cwd is not None):
            raise ValueError("`args`, `env` and `cwd` belong to `command`, not to `url`")
        if self.url is None and (self.headers or self.auth is not None):
            raise ValueError("`headers` and `auth` belong to `url`, not to `command`")
        if self.type is not None and (self.type == "stdio") != (self.command is not None):
            raise ValueError(f"type {self.type!r} does not fit {'`command`' if self.command else '`url`'}")
        return self

    def target(self) -> StdioTarget | HttpTarget:
        """Return the target for `MCPToolset`."""
        if self.url is not None:
            return HttpTarget(self.url, self.headers, None if self.auth is None else self.auth.options())
        return StdioTarget(self.command or "", self.args, self.env, self.cwd)


def load_mcp_config(
    path: str | Path, *, allow_env: Collection[str] = (), environment: Mapping[str, str] | None = None
) -> dict[str, MCPServerConfig]:
    """Read an `mcpServers` file; return name to server, disabled ones included.

    `allow_env` names the variables that `${NAME}` may take from `environment` (the process's own if None).
    Other top-level sections, which some hosts keep in the same file, are ignored.

    Raises:
        UserError: the file is unreadable, a key is unknown, or a variable is not allowed or not set.
    """
    path = Path(path)
    expand = _Expansion(allow_env, os.environ if environment is None else environment)
    try:
        return _servers(path, expand)
    except RecursionError:
        raise UserError(f"{path}: nested too deeply; no `mcpServers` file needs more than a few levels.") from None


def header_of(text: str, environment: Mapping[str, str] | None = None) -> tuple[str, str]:
    """Return name and value of a header written "NAME: VALUE"; `${VARIABLE}` is taken from the environment.

    Messages never have the value, which is a secret.

    Raises:
        UserError: it has no colon, or a variable is not set.
    """
    name, colon, value = (part.strip() for part in text.partition(":"))
    if not colon or not name or not value:
        raise UserError("a header is written 'NAME: VALUE', like --header 'Authorization: Bearer ${TOKEN}'.")
    named = [found[1] for found in _VARIABLE.finditer(value)]
    expand = _Expansion(named, os.environ if environment is None else environment)
    return name, expand.values(value, f"header {name!r}")


def is_without_secret(header: str) -> bool:
    """Return whether a header's value is a scheme and variables of the environment only, so it may be stored."""
    return re.fullmatch(r"\s*([A-Za-z]+\s+)?", _VARIABLE.sub("", header.partition(":")[2])) is not None


def _servers(path: Path, expand: _Expansion) -> dict[str, MCPServerConfig]:
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable JSON file: {error}") from error
    sections = _object(document) or {}
    servers = _object(sections.get("mcpServers"))
    if servers is None:
        near = difflib.get_close_matches("mcpServers", list(sections), n=1)
        raise UserError(f'{path}: needs an object "mcpServers"' + (f"; found {near[0]!r}." if near else "."))
    return {
        name: _server(value, f"{path}: mcpServers.{name}", expand, path.parent) for name, value in servers.items()
    }


def _server(value: Any, where: str, expand: _Expansion, folder: Path) -> MCPServerConfig:
    entry = _object(value)
    if entry is None:
        raise UserError(f"{where}: must be an object.")
    known = list(MCPServerConfig.model_fields)
    for key in entry:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"nearest: {near[0]!r}" if near else f"known: {', '.join(known)}"
            raise UserError(f"{where}: key {key!r} is not known; {hint}.")
    try:
        server = MCPServerConfig.model_validate(expand.values(entry, where))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        at = ".".join((where, *map(str, first["loc"])))
        # `from None`: pydantic's own error shows the values, and `env` holds secrets.
        raise UserError(f"{at}: {first['msg'].removeprefix('Value error, ')}.") from None
    return server if server.cwd is None else server.model_copy(update={"cwd": str(folder / server.cwd)})


def _object(value: Any) -> dict[str, Any] | None:
    return cast(dict[str, Any], value) if isinstance(value, dict) else None


class _Expansion:
    """Replaces `${NAME}` in strings."""

    def __init__(self, allowed: Collection[str], environment: Mapping[str, str]) -> None:
        self._allowed = allowed
        self._environment = environment

    def values(self, value: Any, where: str) -> Any:
        if isinstance(value, str):
            return _VARIABLE.sub(lambda found: self._variable(found[1], found[2], where), value)
        if isinstance(value, list):
            return [self.values(item, where) for item in cast(list[Any], value)]
        if (entry := _object(value)) is not None:
            return {key: self.values(item, f"{where}.{key}") for key, item in entry.items()}
        return value

    def _variable(self, name: str, default: str | None, where: str) -> str:
        if name not in self._allowed:
            raise UserError(
                f"{where}: ${{{name}}} is not allowed; allow it with allow_env=[{name!r}], on the command line "
                f"--allow-env {name}."
            )
        found = self._environment.get(name, default)
        if found is None:
            raise UserError(f"{where}: the environment has no {name}; set it, or write ${{{name}:-default}}.")
        return found
