"""Reach of the fetch server's process."""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import Iterable
from urllib.parse import urlsplit

from mcp_servers.confinement.declared import Confinement

CONFINED_TO = (
    "Linux (Landlock) lets the server read the system's certificates and resolver configuration, and change "
    "nothing. It may start Python (to read pages), and connect by TCP to the ports of web servers, those of "
    "--allow, and DNS."
)

_DNS_PORT = 53
# Folders where distributions keep certificate authorities; links in these folders lead from one to the next.
_CERTIFICATES = (
    "/etc/ssl/certs", "/etc/ssl/cert.pem", "/etc/ssl/ca-bundle.pem", "/etc/pki/tls/certs", "/etc/pki/tls/cert.pem",
    "/etc/pki/ca-trust/extracted", "/etc/ca-certificates", "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates", "/usr/share/pki", "/var/lib/ca-certificates",
)  # fmt: skip
# Files that share a folder with others are listed themselves; if one is replaced, a restart is needed to read it.
_RESOLVER = (
    "/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/gai.conf", "/etc/services",
    "/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager/resolv.conf",
)  # fmt: skip


def reach(ports: Iterable[int], allowed: Iterable[str]) -> Confinement:
    """Return the confinement of the server.

    Args:
        ports: Ports of web servers that may be fetched from.
        allowed: Origins of `--allow`; invalid ones are refused later.
    """
    return Confinement(
        reads=(*_certificates(), *_RESOLVER),
        executes=(sys.executable,),
        connects=frozenset((*ports, *filter(None, map(_port, allowed)), _DNS_PORT)),
    )


def _certificates() -> tuple[str, ...]:
    """Return the paths of certificates, with those that this Python's OpenSSL and the environment name."""
    usual = ssl.get_default_verify_paths()
    variables = (usual.openssl_cafile_env, usual.openssl_capath_env)
    named = (usual.openssl_cafile, usual.openssl_capath, *map(os.environ.get, variables))
    return (*_CERTIFICATES, *filter(None, named))


def _port(origin: str) -> int | None:
    try:
        return urlsplit(origin).port
    except ValueError:
        return None
