"""Escapes through sockets: the host's servers, its interfaces, the hypervisor, and the kernel's own protocols."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from tests.agentkit.workspace.sandbox_users import Sandbox
from tests.agentkit.workspace.test_escapes_files import held


def test_no_server_of_the_host_is_reached(sandbox: Sandbox) -> None:
    path = str(sandbox.folder / "socket")
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as by_path,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        udp.bind(("127.0.0.1", 0))
        by_path.bind(path)
        Path(path).chmod(0o777)
        abstract.bind("\0agentkit-test-of-escapes")
        for server in (tcp, udp, by_path, abstract):
            server.settimeout(0.01)
        by_path.listen()
        abstract.listen()
        attack = f"""
import socket
def reach(family, kind, address, protocol=0):
    with socket.socket(family, kind, protocol) as s:
        s.settimeout(1)
        s.connect(address)
        s.send(b"x")
        return "sent"
tcp, udp = {tcp.getsockname()[1]}, {udp.getsockname()[1]}
for host in ("127.0.0.1", "1.1.1.1", {_own_address()!r}, "169.254.169.254"):
    attempt("TCP " + host, lambda: reach(socket.AF_INET, socket.SOCK_STREAM, (host, tcp)))
    attempt("multipath " + host, lambda: reach(socket.AF_INET, socket.SOCK_STREAM, (host, tcp), 262))
    attempt("fast open " + host, lambda: socket.socket().sendto(b"x", 0x20000000, (host, tcp)) and "sent")
for host in ("1.1.1.1", {_own_address()!r}):
    attempt("UDP " + host, lambda: reach(socket.AF_INET, socket.SOCK_DGRAM, (host, udp)))
attempt("TCP ::1", lambda: reach(socket.AF_INET6, socket.SOCK_STREAM, ("::1", tcp)))
attempt("name", lambda: socket.getaddrinfo("example.org", 80))
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
    attempt(f"path {{kind}}", lambda: reach(socket.AF_UNIX, kind, "/workspace/socket"))
    attempt(f"abstract {{kind}}", lambda: reach(socket.AF_UNIX, kind, "\\0agentkit-test-of-escapes"))
def pair():
    socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].connect("/workspace/socket")
    return "connected"
attempt("pair", pair)
"""
        held(sandbox, attack)
        # A datagram to the sandbox's own loopback has no listener there, and arrives nowhere.
        sandbox.python(f"import socket\nsocket.socket(2, 2).sendto(b'x', ('127.0.0.1', {udp.getsockname()[1]}))")
        for server in (tcp, by_path, abstract):
            with pytest.raises(TimeoutError):
                server.accept()
        with pytest.raises(TimeoutError):
            udp.recv(9)
    Path(path).unlink()


def test_only_tcp_and_udp_of_its_own_network_can_be_opened(sandbox: Sandbox) -> None:
    code = """
        import json, socket
        opened = {}
        for family in range(1, 46):
            for kind in (1, 2, 3, 5):
                try:
                    socket.socket(family, kind).close()
                    opened.setdefault(family, []).append(kind)
                except OSError: pass
        print(json.dumps(opened))
    """
    found = sandbox.found(code)
    assert set(found) <= {str(int(socket.AF_INET)), str(int(socket.AF_INET6))}
    assert found[str(int(socket.AF_INET))] == [socket.SOCK_STREAM, socket.SOCK_DGRAM]


def test_the_only_interface_is_its_own_loopback(sandbox: Sandbox) -> None:
    code = """
        import json, os, socket
        import ctypes
        names = []
        C = ctypes.CDLL(None)
        for number in range(1, 200):
            buffer = ctypes.create_string_buffer(32)
            if C.if_indextoname(number, buffer): names.append(buffer.value.decode())
        print(json.dumps(names))
    """
    # Tunnel devices without an address exist in every new network where their modules are loaded.
    assert "lo" in sandbox.found(code)
    routes = sandbox.run("cat", "/proc/self/net/route").stdout
    assert len(routes.splitlines()) <= 1  # the heading alone


def _own_address() -> str:
    """Return the address of this machine on a network, or the one of its loopback device without a network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
            return json.loads(json.dumps(probe.getsockname()[0]))
        except OSError:
            return "127.0.0.2"
