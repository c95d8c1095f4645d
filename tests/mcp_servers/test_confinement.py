"""Each server's process, whatever runs in it, is refused by the kernel what its server does not need.

A misbehaving process is planted where the server would serve: the real command line is parsed, the real imports,
the real confinement and the real server are made, and then `PROBE` tries what a server that was taken over would.
"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mcp_servers.confinement.confining import _temporary_folder, is_confined
from mcp_servers.confinement.landlock import FileRight, PortRight, Scope, abi_version, handled_by
from mcp_servers.confinement.surroundings import elf_interpreter, with_interpreters
from tests.mcp_servers.conftest import SCHEMA
from tests.mcp_servers.git_repository import new_repository
from tests.mcp_servers.server_harness import REPOSITORY

ABI = abi_version()
needs_landlock = pytest.mark.skipif(not ABI, reason="this kernel has no Landlock")

# -- what is tried

PROBE = '''
import json, os, signal, socket, subprocess, sys

def attempts(inside, outside, port):
    """Yield (name, function): each raises if it is refused."""
    secret, victim, evil = outside + "/secret", outside + "/victim", inside + "/evil"

    def read(path):
        with open(path) as file:
            file.read()

    def write(path, mode):
        with open(path, mode) as file:
            file.write("x")

    def connect(to):
        with socket.socket() as one:
            one.settimeout(10)
            one.connect(("127.0.0.1", to))

    def bind():
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))

    def run(*command):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def abstract_socket():
        with socket.socket(socket.AF_UNIX) as one:
            one.connect("\\0" + os.path.basename(outside) + str(port))

    yield "read inside", lambda: read(inside + "/own")
    yield "write inside", lambda: write(inside + "/own", "a")
    yield "create and remove inside", lambda: (write(inside + "/new", "x"), os.unlink(inside + "/new"))
    yield "write a temporary file", lambda: write(os.environ["TMPDIR"] + "/x", "w")
    yield "start Python", lambda: run(sys.executable, "-c", "import json")
    yield "start git", lambda: run("git", "version")
    yield "read a time zone", lambda: read("/usr/share/zoneinfo/zone.tab")
    yield "import a module", lambda: (sys.modules.pop("wave", None), __import__("wave"))
    yield "random bytes", lambda: open("/dev/urandom", "rb").read(1)
    yield "read the resolver's configuration", lambda: read("/etc/resolv.conf")
    yield "connect to a web port", lambda: connect(443)

    yield "read outside", lambda: read(secret)
    yield "list outside", lambda: os.listdir(outside)
    yield "overwrite outside", lambda: write(victim, "w")
    yield "append outside", lambda: write(victim, "a")
    yield "truncate outside", lambda: os.truncate(victim, 0)
    yield "create outside", lambda: write(outside + "/created", "w")
    yield "make a folder outside", lambda: os.mkdir(outside + "/folder")
    yield "remove outside", lambda: os.unlink(victim)
    yield "move outside in", lambda: os.rename(secret, inside + "/moved")
    yield "move inside out", lambda: os.rename(inside + "/own", outside + "/moved")
    yield "link outside in", lambda: os.link(secret, inside + "/linked")
    yield "read through a link", lambda: read(inside + "/link")
    yield "write through a link", lambda: write(inside + "/link", "a")
    yield "read outside by a child", lambda: run(sys.executable, "-c", f"open({secret!r})")
    yield "read another process's command line", lambda: read(f"/proc/{os.getppid()}/cmdline")
    yield "run a shell", lambda: run("/bin/sh", "-c", "true")
    yield "run a planted program", lambda: run(evil)
    yield "connect", lambda: connect(port)
    yield "bind", bind
    yield "signal a process", lambda: os.kill(os.getppid(), 0)
    yield "connect to an abstract socket", abstract_socket
'''

PROBE_ALL = """
def probe(inside, outside, port):
    done = {}
    for name, attempt in attempts(inside, outside, port):
        try:
            attempt()
            done[name] = "done"
        except BaseException as error:
            done[name] = repr(error)
    return done
"""
"""Makes each of a probe's `attempts`, and notes what came of it."""

START = """
import importlib, json, os, sys
from mcp_servers import serving
exec(sys.argv[1])
plan = json.loads(sys.argv[2])

def misbehave(server):
    n_threads = len(os.listdir("/proc/self/task"))
    print(json.dumps({"threads": n_threads, "done": probe(*plan["probe"])}))

serving._serve_stdio = misbehave
if plan["abi"] is not None:
    from mcp_servers.confinement import confining
    confining.abi_version = lambda: plan["abi"]
importlib.import_module(f"mcp_servers.{plan['server']}.__main__").main(plan["arguments"])
"""

FILES_INSIDE = {"read inside"}
CHANGES_INSIDE = {"write inside", "create and remove inside"}
ALWAYS = {"read a time zone", "import a module", "random bytes"}
OUTSIDE = {
    "read outside", "list outside", "overwrite outside", "append outside", "truncate outside", "create outside",
    "make a folder outside", "remove outside", "move outside in", "move inside out", "link outside in",
    "read through a link", "write through a link", "read outside by a child",
    "read another process's command line", "run a shell", "run a planted program", "connect", "bind",
    "signal a process", "connect to an abstract socket",
}  # fmt: skip
SIGNALS = {"signal a process"}


@dataclass(frozen=True)
class Case:
    """A server as it is started, and what its process may do besides `ALWAYS`."""

    server: str
    options: tuple[str, ...]
    """`{inside}` stands for the folder that it serves."""
    may: frozenset[str]


def case(server: str, *options: str, may: set[str]) -> Any:
    name = " ".join((server, *(each for each in options if each.startswith("--"))))
    return pytest.param(Case(server, options, frozenset(may)), id=name)


PYTHON, TEMPORARY = {"start Python"}, {"write a temporary file"}
CASES = [
    case("filesystem", "{inside}", may=FILES_INSIDE | PYTHON),
    case("filesystem", "{inside}", "--write", may=FILES_INSIDE | CHANGES_INSIDE | PYTHON),
    case("git", "{inside}", may=FILES_INSIDE | {"start git"}),
    case("git", "{inside}", "--write", may=FILES_INSIDE | CHANGES_INSIDE | {"start git"}),
    case("sqlite", "{inside}/shop.db", may=FILES_INSIDE | PYTHON | TEMPORARY),
    case("sqlite", "{inside}/shop.db", "--write", may=FILES_INSIDE | CHANGES_INSIDE | PYTHON | TEMPORARY),
    case("sqlite", "{inside}/wal.db", "--timeout=5", may=FILES_INSIDE | CHANGES_INSIDE | PYTHON | TEMPORARY),
    case("memory", "{inside}/memory.db", may=FILES_INSIDE | CHANGES_INSIDE | PYTHON | TEMPORARY),
    case("search", "{inside}", "--index={index}/i.db", may=FILES_INSIDE | PYTHON | TEMPORARY),
    case("search", "{inside}", may=FILES_INSIDE | PYTHON | TEMPORARY),
    case("fetch", may=PYTHON | {"read the resolver's configuration", "connect to a web port"}),
    case("python", may=set()),
    case("time", may=PYTHON),
]

ONE_OF_EACH = list({each.values[0].server: each for each in CASES}.values())


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    """A folder to be served: a repository with files, databases, a link that leads out, a planted program."""
    folder = new_repository(tmp_path / "inside")
    (folder / "own").write_text("own")
    (folder / "link").symlink_to(tmp_path / "outside/secret")
    (folder / "evil").write_text("#!/bin/sh\ntrue\n")
    (folder / "evil").chmod(0o755)
    for name, mode in (("shop.db", "delete"), ("wal.db", "wal")):
        with sqlite3.connect(folder / name) as connection:
            connection.executescript(SCHEMA)
            connection.execute(f"pragma journal_mode = {mode}")
        connection.close()
    return folder


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    for name in ("secret", "victim"):
        (folder / name).write_text("secret")
    return folder


@pytest.fixture
def port(outside: Path) -> Iterator[int]:
    """A TCP port on loopback that answers; an abstract socket is named after it."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as abstract:
        number = listener.getsockname()[1]
        abstract.bind(f"\0{outside.name}{number}")
        abstract.listen()
        yield number


@dataclass(frozen=True)
class Probed:
    """Deeds that a misbehaving process managed, and the messages of its server."""

    done: frozenset[str]
    answers: dict[str, str]
    threads: int
    said: str


def probed(case: Case, inside: Path, outside: Path, port: int, *, abi: int | None = None) -> Probed:
    """Start the server with the probe in place of serving."""
    (outside.parent / "index").mkdir(exist_ok=True)
    arguments = [each.format(inside=inside, index=outside.parent / "index") for each in case.options]
    plan = {
        "server": case.server,
        "arguments": arguments,
        "probe": [str(inside), str(outside), port],
        "abi": abi,
    }
    ran = subprocess.run(
        [sys.executable, "-c", START, PROBE + PROBE_ALL, json.dumps(plan)],
        cwd=REPOSITORY, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False, timeout=120,
        env={**os.environ, "XDG_CACHE_HOME": str(outside.parent / "cache"), "TMPDIR": str(temporary(outside))},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout.splitlines()[-1])
    done = frozenset(name for name, how in told["done"].items() if how == "done")
    return Probed(done, told["done"], told["threads"], ran.stderr)


def temporary(outside: Path) -> Path:
    folder = outside.parent / "temporary"
    folder.mkdir(exist_ok=True)
    return folder


# -- what the kernel refuses


@needs_landlock
@pytest.mark.parametrize("case", CASES)
def test_a_server_that_was_taken_over_reaches_what_it_declares_and_nothing_else(
    case: Case, inside: Path, outside: Path, port: int
) -> None:
    found = probed(case, inside, outside, port)
    reached = found.done - (set() if ABI >= 6 else SIGNALS)
    # Whether something answers at a web port is another's business; to be refused by the kernel is not.
    reached -= {"connect to a web port"}
    if "PermissionError" not in found.answers["connect to a web port"] and ABI >= 4:
        reached |= {"connect to a web port"}
    assert reached == (case.may | ALWAYS), found.answers
    assert (outside / "victim").read_text() == "secret"
    assert sorted(os.listdir(outside)) == ["secret", "victim"]
    assert found.threads == 1
    assert not found.said or ABI < 4


@needs_landlock
def test_without_the_confinement_the_same_attempts_succeed_so_the_test_above_can_fail(
    inside: Path, outside: Path, port: int
) -> None:
    unconfined = Case("filesystem", (str(inside), "--write"), frozenset())
    found = probed(unconfined, inside, outside, port, abi=0)
    not_alone = {"move inside out", "link outside in", "read through a link", "write through a link"}
    not_alone |= {"remove outside", "move outside in"}  # what comes before takes the file away
    assert found.done >= OUTSIDE - not_alone - {"read outside by a child"}, found.answers
    assert found.said.startswith("The kernel does not confine this server")


@needs_landlock
@pytest.mark.parametrize("abi", [1, 2, 3, 4, 5, 6])
def test_an_older_landlock_is_used_for_what_it_can(abi: int, inside: Path, outside: Path, port: int) -> None:
    if abi > ABI:
        pytest.skip(f"this kernel has version {ABI}")
    git = Case("git", (str(inside), "--write"), frozenset())
    found = probed(git, inside, outside, port, abi=abi)
    beyond = (set() if abi >= 6 else SIGNALS) | ({"truncate outside"} if abi < 3 else set())
    assert found.done & OUTSIDE == beyond, found.answers
    assert found.done >= FILES_INSIDE | CHANGES_INSIDE | {"start git"}, found.answers
    assert found.said == ""


@needs_landlock
def test_a_landlock_without_ports_is_told_by_a_server_that_connects(
    inside: Path, outside: Path, port: int
) -> None:
    """One that connects to nothing is held to that by the filter, as the test above shows."""
    found = probed(Case("fetch", (), frozenset()), inside, outside, port, abi=3)
    assert found.said == "The kernel confines this server's files but not its TCP ports (Linux 6.7 does).\n"
    assert found.done & OUTSIDE == {"connect", "bind"} | SIGNALS, found.answers


@needs_landlock
def test_a_landlock_that_would_forbid_moving_files_is_left_alone(inside: Path, outside: Path, port: int) -> None:
    writing = Case("filesystem", (str(inside), "--write"), frozenset())
    assert "would forbid moving files" in probed(writing, inside, outside, port, abi=1).said
    reading = Case("filesystem", (str(inside),), frozenset())
    assert "read outside" not in probed(reading, inside, outside, port, abi=1).done


# -- what the kernel has not

WITHOUT_LANDLOCK = """
import ctypes, os, struct, sys
# A seccomp filter (seccomp(2)): the three system calls of Landlock fail with ENOSYS, as on Linux 5.12.
code = [(0x20, 0, 0, 0)]  # load the number of the call
code += [(0x15, 3 - n, 0, 444 + n) for n in range(3)]  # jump to the end if it is one of the three
code += [(0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x00050000 | 38)]  # allow; fail with errno 38
"""
# prctl(PR_SET_SECCOMP) fails with EINVAL, as in a kernel that was built without filters.
WITHOUT_SECCOMP = """
import ctypes, os, struct, sys
number = 157 if os.uname().machine == "x86_64" else 167
code = [(0x20, 0, 0, 0), (0x15, 0, 2, number)]  # load the number of the call; go on if it is prctl
code += [(0x20, 0, 0, 16), (0x15, 1, 0, 22)]  # load its first argument; jump to the end if it sets a filter
code += [(0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x00050000 | 22)]  # allow; fail with errno 22
"""
START_FILTERED = """
rules = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in code))
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("rules", ctypes.c_void_p)]
program = Program(len(code), ctypes.addressof(rules))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, *map(ctypes.c_ulong, (1, 0, 0, 0))) == 0
assert libc.prctl(22, ctypes.c_ulong(2), ctypes.byref(program), ctypes.c_ulong(0), ctypes.c_ulong(0)) == 0
os.execv(sys.executable, [sys.executable, "-m", *sys.argv[1:]])
"""
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}},
}


def initialized(command: list[str], tmp_path: Path) -> tuple[dict[str, Any], str]:
    """Start a server, initialize it, and return its reply and what it said on standard error."""
    ran = subprocess.run(
        [sys.executable, *command], cwd=REPOSITORY, capture_output=True, text=True,
        input=json.dumps(INITIALIZE) + "\n", check=False, env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1]), ran.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="seccomp is Linux's")
@pytest.mark.parametrize("case", ONE_OF_EACH)
def test_a_kernel_without_landlock_is_told_in_one_line_and_the_server_serves(
    case: Case, inside: Path, tmp_path: Path
) -> None:
    arguments = [each.format(inside=inside, index=tmp_path) for each in case.options]
    command = ["-c", WITHOUT_LANDLOCK + START_FILTERED, f"mcp_servers.{case.server}", *arguments]
    reply, said = initialized(command, tmp_path)
    assert reply["result"]["serverInfo"]["name"] == f"agentkit-{case.server}"
    (line,) = said.splitlines()
    assert line.startswith("The kernel does not confine this server: it has no Landlock")


@needs_landlock
@pytest.mark.parametrize("case", ONE_OF_EACH)
def test_a_kernel_without_seccomp_is_told_in_one_line_and_the_server_serves(
    case: Case, inside: Path, tmp_path: Path
) -> None:
    arguments = [each.format(inside=inside, index=tmp_path) for each in case.options]
    command = ["-c", WITHOUT_SECCOMP + START_FILTERED, f"mcp_servers.{case.server}", *arguments]
    reply, said = initialized(command, tmp_path)
    assert reply["result"]["serverInfo"]["name"] == f"agentkit-{case.server}"
    confined = "files and TCP, but not its other sockets" if ABI >= 4 else "files, but not its connections"
    assert said == f"The kernel confines this server's {confined}: Invalid argument.\n"


@needs_landlock
def test_a_machine_that_the_filter_does_not_know_is_told_in_one_line() -> None:
    code = (
        "from mcp_servers.confinement import seccomp\n"
        "from mcp_servers.confinement.confining import confine\n"
        "from mcp_servers.confinement.declared import Confinement\n"
        "seccomp.MACHINES.clear(); print(confine(Confinement()))"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert ran.stdout.endswith(f"sockets: no filter for {os.uname().machine}.\n") or ABI < 4


@needs_landlock
def test_pairs_of_sockets_event_loops_and_child_processes_of_the_standard_library_work_under_the_filter() -> None:
    code = """
import asyncio, multiprocessing, socket, subprocess, sys, threading
from concurrent.futures import ThreadPoolExecutor
from mcp_servers.confinement.confining import confine
from mcp_servers.confinement.declared import Confinement

async def loop():
    # From another thread the loop is woken by its pair of sockets.
    woken = asyncio.Event()
    running = asyncio.get_running_loop()
    threading.Thread(target=lambda: running.call_soon_threadsafe(woken.set)).start()
    await woken.wait()
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", "print(1)", stdout=subprocess.PIPE)
    return (await child.communicate())[0]

if __name__ == "__main__":
    assert confine(Confinement(executes=(sys.executable,))) == ""
    one, other = socket.socketpair()
    one.sendall(b"x")
    assert other.recv(1) == b"x"
    assert asyncio.run(loop()) == b"1\\n"
    assert ThreadPoolExecutor(2).submit(len, "ab").result() == 2
    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        here, there = context.Pipe()
        child = context.Process(target=there.send, args=("sent",))
        child.start()
        assert here.recv() == "sent"
        child.join()
"""
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr


@needs_landlock
@pytest.mark.parametrize("case", ONE_OF_EACH)
def test_a_server_that_is_confined_says_nothing_and_serves(case: Case, inside: Path, tmp_path: Path) -> None:
    arguments = [each.format(inside=inside, index=tmp_path) for each in case.options]
    reply, said = initialized(["-m", f"mcp_servers.{case.server}", *arguments], tmp_path)
    assert reply["result"]["serverInfo"]["name"] == f"agentkit-{case.server}"
    assert not said or ABI < 4


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="seccomp is Linux's")
def test_over_http_the_line_comes_behind_the_address_and_the_token() -> None:
    """Who starts the server reads these two first."""
    process = subprocess.Popen(
        [sys.executable, "-c", WITHOUT_LANDLOCK + START_FILTERED, "mcp_servers.time", "--http"],
        cwd=REPOSITORY, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    lines = [process.stderr.readline() for _ in range(3)]
    process.terminate()
    process.communicate()
    assert [line.split(":")[0] for line in lines] == [
        "agentkit-time",
        "token",
        "The kernel does not confine this server",
    ]


def test_another_system_is_told_in_one_line() -> None:
    code = (
        "import sys; from mcp_servers.confinement.confining import confine, is_confined\n"
        "from mcp_servers.confinement.declared import Confinement\n"
        "sys.platform = 'darwin'; print(confine(Confinement())); print(is_confined())"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    told, confined = ran.stdout.splitlines()
    assert told.startswith("The kernel does not confine this server: darwin has no Landlock.")
    assert confined == "False"


# -- the parts


@pytest.mark.parametrize(
    "server", ["browser", "fetch", "filesystem", "git", "memory", "python", "search", "sqlite", "time"]
)
def test_help_tells_what_a_server_is_confined_to(server: str) -> None:
    command = [sys.executable, "-m", f"mcp_servers.{server}", "--help"]
    shown = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    told = shown.partition("\nconfinement:\n")[2].partition("\n\n")[0]
    assert ("Landlock" in told) == (server != "browser")
    assert ("may start" in " ".join(told.split())) == (server != "browser")


def test_a_version_denies_what_its_manual_says() -> None:
    first = handled_by(1)
    assert first.files == FileRight(2**13 - 1)
    assert not first.ports and not first.scope
    assert handled_by(2).files == first.files | FileRight.REFER
    assert handled_by(3).files == first.files | FileRight.REFER | FileRight.TRUNCATE
    assert handled_by(4).ports == PortRight.BIND_TCP | PortRight.CONNECT_TCP
    assert handled_by(5).files == FileRight(2**16 - 1)
    assert handled_by(6).scope == Scope.ABSTRACT_UNIX_SOCKET | Scope.SIGNAL
    assert handled_by(99) == handled_by(7) == handled_by(6)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ELF is not the format of this system's programs")
def test_the_interpreter_of_a_program_is_found(tmp_path: Path) -> None:
    found = elf_interpreter(sys.executable)
    assert found is not None and os.access(found, os.X_OK)
    assert with_interpreters((sys.executable, "/usr/bin/env"))[:2] == (sys.executable, "/usr/bin/env")
    for name, content in (("script", b"#!/bin/sh\n"), ("cut", b"\x7fELF\x02\x01"), ("empty", b"")):
        (tmp_path / name).write_bytes(content)
        assert elf_interpreter(str(tmp_path / name)) is None
    assert elf_interpreter(str(tmp_path / "nothing")) is None


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no user numbers")
def test_temporary_files_go_to_a_folder_of_this_user_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = Path(_temporary_folder())
    assert folder.parent == tmp_path and stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert _temporary_folder() == str(folder)
    folder.chmod(0o755)
    assert _temporary_folder() != str(folder)
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    assert Path(_temporary_folder()).name not in (folder.name, "elsewhere")


def test_a_server_inside_another_program_does_not_confine_it(inside: Path, outside: Path) -> None:
    from mcp_servers.filesystem.server import build_server

    build_server(str(inside))
    assert not is_confined()
    assert (outside / "secret").read_text() == "secret"
