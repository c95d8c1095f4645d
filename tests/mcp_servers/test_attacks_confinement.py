"""Attacks by a server's own process on the kernel's confinement: ways around an open, a connection and a program.

`test_confinement.py` tries the ordinary ways. Here each server's process is started once and tries the others; every
attempt is one test. A process that is not confined tries them too, to show which of them would succeed.
"""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mcp_servers.confinement.landlock import SCOPE_ABI, abi_version
from tests.mcp_servers import test_confinement
from tests.mcp_servers.git_repository import new_repository
from tests.mcp_servers.test_confinement import Case, Probed, probed

pytestmark = pytest.mark.skipif(abi_version() < SCOPE_ABI, reason="this kernel's Landlock confines less")

PROBE = '''
import ctypes, errno, json, mmap, os, signal, socket, struct, subprocess, sys, threading

libc = ctypes.CDLL(None, use_errno=True)

def called(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

def in_child(attempt):
    """Do it in a process of its own; what it raised is raised here."""
    pid = os.fork()
    if not pid:
        try:
            attempt()
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or 255)
        except BaseException:
            os._exit(255)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise OSError(code, os.strerror(code))

def attempts(inside, outside, port):
    secret, victim = outside + "/secret", outside + "/victim"
    to, parent = ("127.0.0.1", port), os.getppid()
    services = os.path.dirname(os.path.dirname(outside))
    if os.path.islink(inside + "/way"):
        os.unlink(inside + "/way")

    def read(path, **more):
        fd = os.open(path, os.O_RDONLY, **more)
        try:
            os.read(fd, 1)
        finally:
            os.close(fd)

    def through_path_only():
        fd = os.open(secret, os.O_PATH)
        read(f"/proc/self/fd/{fd}")

    def below_path_only():
        read("secret", dir_fd=os.open(outside, os.O_PATH))

    def change_to():
        os.chdir(outside)
        try:
            read("secret")
        finally:
            os.chdir("/")

    def change_root():
        os.chroot(outside)
        read("/secret")

    def mounted():
        called(libc.mount(outside.encode(), inside.encode(), None, 4096, None))
        try:
            read(inside + "/secret")
        finally:  # the machine's own mounts, unless it has been refused or is in a namespace
            called(libc.umount2(inside.encode(), 2))

    def own_namespace():
        called(libc.unshare(0x10000000 | 0x00020000))
        mounted()

    def unnamed():
        fd = os.open(outside, os.O_TMPFILE | os.O_WRONLY, 0o600)
        called(libc.linkat(-100, f"/proc/self/fd/{fd}".encode(), -100, (outside + "/unnamed").encode(), 0x400))

    def exchanged():
        called(libc.renameat2(-100, (inside + "/own").encode(), -100, victim.encode(), 2))

    def other_memory():
        local, remote = ctypes.create_string_buffer(8), struct.pack("QQ", id(read), 8)
        given = struct.pack("QQ", ctypes.addressof(local), 8)
        try:
            called(libc.process_vm_readv(parent, given, 1, remote, 1, 0))
        except OSError as error:
            if error.errno != errno.EFAULT:  # there is nothing at the address; the process was not refused
                raise

    def descriptor_of_another():
        fd = called(libc.syscall(434, parent, 0))
        called(libc.syscall(438, fd, 0, 0))

    def multipath():
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262) as one:
            one.settimeout(10)
            one.connect(to)

    def multipath_listening():
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262) as one:
            one.bind(("127.0.0.1", 0))
            one.listen()

    def quick(send):
        with socket.socket() as one:
            one.settimeout(10)
            try:
                send(one)
            except BlockingIOError:
                pass  # it is connecting

    def connected_later():
        with socket.socket() as one:
            one.setsockopt(socket.IPPROTO_TCP, 30, 1)
            one.connect(to)

    def by_the_other_family():
        with socket.socket(socket.AF_INET6) as one:
            one.settimeout(10)
            one.connect(("::ffff:127.0.0.1", port))

    def made(*kind):
        socket.socket(*kind).close()

    def listening():
        with socket.socket() as one:
            one.listen()

    def sent_by_datagram():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.sendto(b"x", to)

    def by_other_numbers():
        called(libc.syscall(ctypes.c_long(0x40000000 + 41), 2, 1, 0))

    def by_32_bit_calls():
        if os.uname().machine != "x86_64":
            raise OSError("other machines have none")
        code = bytes.fromhex("53 b867010000 bb02000000 b901000000 31d2 cd80 5b c3")  # socket(AF_INET, SOCK_STREAM, 0)
        page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(code)
        answer = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
        if answer < 0:
            raise OSError(-answer, os.strerror(-answer))

    def rings():
        called(libc.syscall(ctypes.c_long(425), 1, ctypes.create_string_buffer(248)))

    def several_messages(one):
        address = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", port, bytes((127, 0, 0, 1)))
        name, data = ctypes.create_string_buffer(address, 16), ctypes.create_string_buffer(b"x")
        part = struct.pack("QQ", ctypes.addressof(data), 1)
        parts = ctypes.create_string_buffer(part, 16)
        message = struct.pack("QIxxxxQQQQixxxxIxxxx", ctypes.addressof(name), 16, ctypes.addressof(parts), 1, 0, 0, 0, 0)
        called(libc.sendmmsg(one.fileno(), message, 1, 0x20000000))

    def to_a_service():
        with socket.socket(socket.AF_UNIX) as one:
            one.connect(services + "/stream")

    def to_a_service_from_a_pair():
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with one, other:
            one.sendto(b"x", services + "/datagram")

    def to_a_service_from_a_raw_pair():
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_RAW)
        with one, other:
            one.connect(services + "/datagram")

    def by_descriptor():
        fd = os.open("/bin/sh", os.O_PATH)
        os.execve(fd, ["sh", "-c", "true"], {})

    def loaded():
        with open(loader, "rb") as file:
            content = file.read()
        fd = os.memfd_create("x", 0)
        os.write(fd, content)
        subprocess.run([f"/proc/self/fd/{fd}", "--version"], pass_fds=[fd], check=True, stdout=subprocess.DEVNULL)

    def by_memory(content):
        fd = os.memfd_create("x", 0)
        os.write(fd, content)
        subprocess.run([f"/proc/self/fd/{fd}"], pass_fds=[fd], check=True, stdout=subprocess.DEVNULL)

    def by_the_loader():
        subprocess.run([loader, "/bin/sh", "-c", "true"], check=True)

    with open("/proc/self/maps") as maps:
        loader = next((line.split()[-1] for line in maps if "/ld-" in line), "/lib64/ld-linux-x86-64.so.2")

    def signalled():
        # Not kill(-1, 0), which succeeds also where every process has been refused.
        for pid in (parent, *range(1, 32768)):
            try:
                os.kill(pid, 0)
            except OSError:
                continue
            if pid != os.getpid():
                return
        raise PermissionError("no process could be signalled")

    def traced():
        called(libc.ptrace(0x4206, parent, None, None))  # PTRACE_SEIZE does not stop it, as PTRACE_ATTACH would

    def by_thread():
        raised = []
        def run():
            try:
                read(secret)
            except OSError as error:
                raised.append(error)
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        if raised:
            raise raised[0]

    def linked_then_read():
        os.symlink(secret, inside + "/way")
        read(inside + "/way")

    def device():
        os.mknod(inside + "/device", 0o600 | 0o060000, os.makedev(254, 0))
        read(inside + "/device")

    yield "/proc/self/root", lambda: read("/proc/self/root" + secret)
    yield "/proc/self/cwd", lambda: read("/proc/self/cwd/" + os.path.relpath(secret, os.getcwd()))
    yield "/proc/thread-self", lambda: read("/proc/thread-self/root" + secret)
    yield "/proc/1/root", lambda: read("/proc/1/root" + secret)
    yield "the parent's root", lambda: read(f"/proc/{parent}/root" + secret)
    yield "the parent's memory", lambda: os.close(os.open(f"/proc/{parent}/mem", os.O_RDONLY))
    yield "the parent's environment", lambda: read(f"/proc/{parent}/environ")
    yield "the parent's descriptors", lambda: os.listdir(f"/proc/{parent}/fd")
    yield "two slashes", lambda: read("//" + secret)
    yield "dots", lambda: read(inside + "/../outside/secret")
    yield "a descriptor that only names a file", through_path_only
    yield "a descriptor that only names a folder", below_path_only
    yield "another working folder", change_to
    yield "another root", lambda: in_child(change_root)
    yield "a mount", lambda: in_child(mounted)
    yield "a namespace", lambda: in_child(own_namespace)
    yield "a file without a name", unnamed
    yield "an exchange of names", exchanged
    yield "a link that is made", linked_then_read
    yield "a hard link by a descriptor", lambda: os.link(secret, inside + "/hard", follow_symlinks=False)
    yield "a device", device
    yield "a pipe", lambda: os.mkfifo(outside + "/pipe")
    yield "a socket with a path", lambda: socket.socket(socket.AF_UNIX).bind(outside + "/socket")
    yield "a thread", by_thread
    yield "a child", lambda: in_child(lambda: read(secret))
    yield "memory of another process", other_memory
    yield "a descriptor of another process", descriptor_of_another
    yield "tracing", traced
    yield "a signal to any process", signalled
    yield "a signal by descriptor", lambda: signal.pidfd_send_signal(os.pidfd_open(parent), 0)
    yield "Multipath TCP", multipath
    yield "Multipath TCP, listening", multipath_listening
    yield "data that connects", lambda: quick(lambda one: one.sendto(b"x", 0x20000000, to))
    yield "a message that connects", lambda: quick(lambda one: one.sendmsg([b"x"], [], 0x20000000, to))
    yield "several messages that connect", lambda: quick(several_messages)
    yield "a connection with the first data", connected_later
    yield "IPv4 by IPv6", by_the_other_family
    yield "a raw socket", lambda: made(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    yield "a packet socket", lambda: made(socket.AF_PACKET, socket.SOCK_RAW, 0)
    yield "a socket to the host", lambda: made(socket.AF_VSOCK, socket.SOCK_STREAM)
    yield "a socket of the kernel", lambda: made(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    yield "calls by other numbers", by_other_numbers
    yield "32-bit calls", by_32_bit_calls
    yield "rings of calls", rings
    yield "a service's socket", to_a_service
    yield "a service's socket from a pair", to_a_service_from_a_pair
    yield "a service's socket from a raw pair", to_a_service_from_a_raw_pair
    yield "a program in memory", loaded
    yield "a program by a descriptor", lambda: in_child(by_descriptor)
    yield "a script in memory", lambda: by_memory(b"#!/bin/sh\\ntrue\\n")
    yield "a program by the loader", by_the_loader
    yield "listening without a port", listening
    yield "a datagram", sent_by_datagram
'''

ATTEMPTS = [line.split('"')[1] for line in PROBE.splitlines() if line.startswith("    yield ")]
# The browser's server is the ninth, and is not confined: Landlock would deny Chromium the mounts of its own sandbox.
CASES = {
    "filesystem": Case("filesystem", ("{inside}", "--write"), frozenset()),
    "git": Case("git", ("{inside}", "--write"), frozenset()),
    "sqlite": Case("sqlite", ("{inside}/shop.db", "--write"), frozenset()),
    "memory": Case("memory", ("{inside}/memory.db",), frozenset()),
    "search": Case("search", ("{inside}",), frozenset()),
    # It looks names up by UDP; what listens is reached by those who know its port, and connects to nobody.
    "fetch": Case("fetch", (), frozenset({"listening without a port", "a datagram"})),
    "python": Case("python", (), frozenset()),
    "time": Case("time", (), frozenset()),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for all; services listen there at sockets that have a path."""
    folder = tmp_path_factory.mktemp("confined")
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        one.bind(str(folder / "stream"))
        one.listen()
        other.bind(str(folder / "datagram"))
        yield folder


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def tried(server: str, base: Path, port: int, *, abi: int | None = None) -> tuple[Probed, Path]:
    """Start one server's process with the probe; return what it managed and the folder that it was to be kept from."""
    folder = base / f"{server}-{abi}"
    new_repository(folder / "inside")
    (folder / "inside/own").write_text("own")
    (folder / "outside").mkdir()
    for name in ("secret", "victim"):
        (folder / "outside" / name).write_text("secret")
    with closing(sqlite3.connect(folder / "inside/shop.db")) as connection:
        connection.execute("create table shop (name)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(test_confinement, "PROBE", PROBE)
        return probed(CASES[server], folder / "inside", folder / "outside", port, abi=abi), folder / "outside"


@pytest.fixture(scope="module", params=CASES)
def confined(request: pytest.FixtureRequest, base: Path, port: int) -> tuple[str, Probed, Path]:
    return (request.param, *tried(request.param, base, port))


@pytest.mark.parametrize("name", ATTEMPTS)
def test_no_other_way_leads_out(name: str, confined: tuple[str, Probed, Path]) -> None:
    server, found, outside = confined
    assert set(found.answers) == set(ATTEMPTS)
    assert (found.answers[name] == "done") == (name in CASES[server].may), found.answers[name]
    assert sorted(os.listdir(outside)) == ["secret", "victim"]
    assert (outside / "victim").read_text() == "secret"


def test_without_the_confinement_most_of_them_do_so_the_tests_above_can_fail(base: Path, port: int) -> None:
    found, outside = tried("filesystem", base, port, abi=0)
    assert {
        "/proc/self/root", "/proc/thread-self", "dots", "a descriptor that only names a file", "another working folder",
        "a file without a name", "a socket with a path", "an exchange of names", "a link that is made", "a thread", "a child", "a pipe",
        "data that connects", "a connection with the first data", "listening without a port", "a datagram",
        "a program by the loader", "a script in memory", "a program in memory", "a program by a descriptor", "tracing",
        "a signal to any process", "a service's socket", "a service's socket from a pair",
        "a service's socket from a raw pair", "several messages that connect",
    } <= found.done, found.answers  # fmt: skip
    shutil.rmtree(outside)
