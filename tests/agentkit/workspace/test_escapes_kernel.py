"""Parts of the kernel that programs do not need and exploits begin with; and the Python server's attacks here."""

from __future__ import annotations

import errno
import json
import os
import re
import textwrap
from pathlib import Path

import pytest

from modelstack.sandbox.kernel_calls import IsolationError
from modelstack.sandbox.system_calls import ABSENT, CHECKED, MACHINES, REFUSED, system_call_filter
from tests.agentkit.workspace.sandbox_users import QUICK, Sandbox
from tests.mcp_servers.test_attacks_python import BOMBS, ESCAPES

HEADERS = {
    0: Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    1: Path("/usr/include/asm-generic/unistd.h"),
}


@pytest.mark.parametrize("table", HEADERS)
def test_numbers_are_those_of_the_kernels_headers(table: int) -> None:
    if not HEADERS[table].exists():
        pytest.skip(f"no {HEADERS[table]}: the headers of the C library are not installed")
    defined = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)\b", HEADERS[table].read_text())
    known = {name: int(number) for name, number in defined}
    ours = {name: numbers[table] for calls in (REFUSED, ABSENT, CHECKED) for name, numbers in calls.items()}
    wrong = {
        name: (number, known[name]) for name, number in ours.items() if name in known and number != known[name]
    }
    assert wrong == {}
    assert len(ours.keys() & known.keys()) > 50


def test_refused_calls_fail_whatever_their_arguments(sandbox: Sandbox) -> None:
    table = MACHINES[os.uname().machine][1]
    calls = {name: numbers[table] for group in (REFUSED, ABSENT) for name, numbers in group.items()}
    code = f"""
        import ctypes, errno, json
        C = ctypes.CDLL(None, use_errno=True)
        failed = {{}}
        for name, number in {calls!r}.items():
            if number is not None:
                result = C.syscall(ctypes.c_long(number), *[ctypes.c_long(0)] * 6)
                failed[name] = errno.errorcode[ctypes.get_errno()] if result == -1 else "it ran"
        print(json.dumps(failed))
    """
    found = sandbox.found(code)
    assert {name for name, code in found.items() if code == "EPERM"} == {n for n in REFUSED if n in found}
    assert {name for name, code in found.items() if code == "ENOSYS"} == {n for n in ABSENT if n in found}
    assert {"keyctl", "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "unshare", "setns"} <= set(found)


def test_no_namespace_can_be_made_by_another_call(sandbox: Sandbox) -> None:
    code = """
        import ctypes, errno, json, os
        C = ctypes.CDLL(None, use_errno=True)
        n, clone = ctypes.c_long, 56 if os.uname().machine == "x86_64" else 220
        failed = {}
        for name, flag in (("user", 0x10000000), ("mount", 0x20000), ("net", 0x40000000), ("pid", 0x20000000),
                           ("ipc", 0x08000000), ("uts", 0x04000000), ("cgroup", 0x02000000)):
            for extra in (17, 17 | 1 << 40):
                child = C.syscall(n(clone), n(flag | extra), n(0), n(0), n(0), n(0))
                if child == 0: os._exit(0)
                failed[f"{name} {extra}"] = errno.errorcode[ctypes.get_errno()] if child == -1 else "made"
        print(json.dumps(failed))
    """
    assert set(sandbox.found(code).values()) == {"EPERM"}


def test_other_sets_of_numbers_are_no_way_around(sandbox: Sandbox) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("only x86_64 has other sets of system call numbers")
    code = """
        import ctypes, json, mmap
        C = ctypes.CDLL(None, use_errno=True)
        x32 = C.syscall(ctypes.c_long(0x40000000 | 39)), ctypes.get_errno()
        # mov eax, 20 (getpid of i386); int 0x80; ret
        page = mmap.mmap(-1, 4096, prot=7)
        page.write(bytes.fromhex("b814000000cd80c3"))
        run = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
        print(json.dumps([*x32, run()]))
    """
    result = sandbox.python(code)
    if result.signal is not None:  # the kernel was built without the calls of i386
        return
    assert json.loads(result.stdout) == [-1, errno.ENOSYS, -errno.ENOSYS]


def test_ordinary_programs_are_not_disturbed(sandbox: Sandbox) -> None:
    code = """
        import asyncio, json, multiprocessing, os, socket, subprocess, tempfile, threading
        def square(x): return x * x
        async def echo():
            process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
            return (await process.communicate(b"echo"))[0].decode()
        with multiprocessing.get_context("fork").Pool(2) as pool: squares = pool.map(square, [1, 2, 3])
        found = {"squares": squares, "echo": asyncio.run(echo())}
        thread = threading.Thread(target=lambda: found.setdefault("thread", 1))
        thread.start(); thread.join()
        with tempfile.NamedTemporaryFile() as file: file.write(b"x"); os.chmod(file.name, 0o755)
        found["pipe"] = subprocess.run("echo a | tr a b", shell=True, stdout=-1).stdout.decode()
        a, b = socket.socketpair(); a.send(b"x"); found["pair"] = b.recv(1).decode()
        print(json.dumps(found))
    """
    want = {"squares": [1, 4, 9], "echo": "echo", "thread": 1, "pipe": "b\n", "pair": "x"}
    assert sandbox.found(code) == want


def test_another_machine_has_no_filter_and_no_sandbox() -> None:
    with pytest.raises(IsolationError, match="no filter of system calls for s390x"):
        system_call_filter("s390x")
    for machine in MACHINES:
        assert len(system_call_filter(machine)) % 8 == 0


ATTACKS = """
import json, os, resource, signal, sys
ends = {}
for number, code in enumerate(json.loads(sys.argv[1])):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        signal.setitimer(signal.ITIMER_REAL, 0.25)
        resource.setrlimit(resource.RLIMIT_CPU, (1, 1))
        resource.setrlimit(resource.RLIMIT_AS, (300 << 20, 300 << 20))
        for output in (1, 2): os.dup2(write, output)
        os.close(read); os.close(write)
        exec(compile(code, "<attack>", "exec"), {"__name__": "__main__"})
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as file: text = file.read(100_000)
    os.waitpid(child, 0)
    ends[number] = text.decode("utf-8", "replace")
print(json.dumps(ends))
"""


def test_the_python_servers_escapes_reach_nothing_of_the_host(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a real Python they are ordinary code: what counts is that they find nothing and change nothing."""
    monkeypatch.setenv("A_SECRET", "of-this-process")
    host = Path("/etc/passwd").read_text(encoding="utf-8").splitlines()[0]
    result = sandbox.run(
        "python3", "-I", "-c", textwrap.dedent(ATTACKS), json.dumps(ESCAPES), limits=QUICK._replace(wall_s=60)
    )
    assert result.exit_status == 0, result.stderr
    told = "".join(json.loads(result.stdout).values())
    assert len(told) > 1000  # they ran
    assert "of-this-process" not in told and host not in told
    assert not Path("escaped").exists()
    changed = {path.name for path in sandbox.folder.iterdir()}
    assert changed <= {"escaped"}, changed


def test_the_python_servers_bombs_end_with_the_command(sandbox: Sandbox) -> None:
    limits = QUICK._replace(wall_s=60, cpu_s=60, memory_bytes=400 << 20)
    result = sandbox.run("python3", "-I", "-c", textwrap.dedent(ATTACKS), json.dumps(BOMBS), limits=limits)
    assert result.exit_status == 0 or result.stopped_by in ("memory limit", "CPU limit"), result
