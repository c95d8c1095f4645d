"""Escapes through processes: tracing, signals, daemons that outlive, fork bombs, core dumps and the terminal."""

from __future__ import annotations

import os
import secrets
import threading
import time
from pathlib import Path

from modelstack.sandbox.commands import start_command
from tests.agentkit.workspace.sandbox_users import QUICK, Sandbox
from tests.agentkit.workspace.test_escapes_files import held


def running(mark: str) -> list[str]:
    """Return the processes of the host with a mark in their arguments, without this one."""
    found: list[str] = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and folder.name != str(os.getpid()):
            try:
                if mark.encode() in (folder / "cmdline").read_bytes():
                    found.append(folder.name)
            except OSError:
                continue
    return found


def test_no_process_outside_is_seen_signalled_or_read(sandbox: Sandbox) -> None:
    parent = os.getpid()
    attack = f"""
import signal
n = ctypes.c_long
def reached(path):
    handle = os.open(path, os.O_RDONLY)
    try: return os.read(handle, 8)
    except IsADirectoryError: return "a folder"
own = {{os.getpid(), os.getppid(), 1}}
attempt("seen", lambda: [name for name in os.listdir("/proc") if name.isdigit() and int(name) not in own])
for pid in (1, {parent}, {os.getppid()}, -{os.getpgrp()}):
    for number in (9, 15, 19):
        if pid == 1:
            # The first process ignores it where it is of the same user.
            os.kill(1, number) if os.stat("/proc/1").st_uid == os.getuid() else None
        else:
            attempt(f"kill {{pid}} {{number}}", lambda: os.kill(pid, number) or "sent")
    attempt(f"ptrace {{pid}}", lambda: C.ptrace(16, pid, None, None))
    attempt(f"seize {{pid}}", lambda: C.ptrace(0x4206, pid, None, None))
    attempt(f"pidfd_getfd {{pid}}", lambda: C.syscall(n(438), os.pidfd_open(abs(pid)), 0, 0))
    for name in ("root", "cwd", "fd/0", "environ", "syscall", "stack", "auxv"):
        attempt(f"{{name}} {{pid}}", lambda: reached(f"/proc/{{pid}}/{{name}}"))
    for name in ("mem", "ns/user", "ns/mnt"):
        attempt(f"{{name}} {{pid}}", lambda: os.open(f"/proc/{{pid}}/{{name}}", os.O_RDONLY))
class Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))
buffer = ctypes.create_string_buffer(8)
local, remote = Vector(ctypes.addressof(buffer), 8), Vector(ctypes.addressof(buffer), 8)
ends = ctypes.byref(local), n(1), ctypes.byref(remote), n(1), n(0)
for name in ("process_vm_readv", "process_vm_writev"):
    attempt(name, lambda: getattr(C, name)(1, *ends))
    attempt(name + " of itself", lambda: getattr(C, name)(os.getpid(), *ends))
attempt("setns", lambda: C.setns(os.open("/proc/self/ns/mnt", os.O_RDONLY), 0))
attempt("priority of another", lambda: os.setpriority(os.PRIO_PROCESS, {parent}, 5) or "set")
attempt("session", lambda: os.getsid(0) == {os.getsid(0)})
"""
    held(sandbox, attack)


def test_killing_everything_kills_only_the_sandbox(sandbox: Sandbox) -> None:
    script = "sleep 50 & kill -9 -1; kill -9 0; echo not reached"
    result = sandbox.run("sh", "-c", script)
    assert b"not reached" not in result.stdout
    assert result.signal == 9
    assert sandbox.run("echo", "here").stdout == b"here\n"


def test_nothing_outlives_the_command(sandbox: Sandbox) -> None:
    mark = f"mark-{secrets.token_hex(8)}"
    code = f"""
        import os, signal, sys, time
        for number in range(1, 32):
            if number not in (9, 19): signal.signal(number, signal.SIG_IGN)
        for depth in range(6):
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    os.execvp("sh", ["sh", "-c", "trap '' 1 2 15; exec 0<&- 1>&- 2>&-; sleep 1;"
                                     "echo late > late; sleep 60 # {mark}"])
                os._exit(0)
        time.sleep(0.2)
        print("done")
    """
    started = time.monotonic()
    result = sandbox.python(code)
    assert (result.stdout, result.exit_status) == (b"done\n", 0)
    assert time.monotonic() - started < 20
    assert running(mark) == []
    assert not (sandbox.folder / "late").exists()


def test_a_command_that_is_stopped_leaves_nothing(tmp_path: Path, sandbox: Sandbox) -> None:
    mark = f"mark-{secrets.token_hex(8)}"
    command = start_command(["sh", "-c", f"echo begun > begun; (sleep 60; : {mark}) & wait"], folder=tmp_path)
    waiting = threading.Thread(target=command.wait)
    waiting.start()
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    assert running(mark)
    command.stop()
    waiting.join(timeout=20)
    assert not waiting.is_alive()
    assert running(mark) == []


def test_processes_and_threads_end_at_their_limit(sandbox: Sandbox) -> None:
    code = """
        import json, os, threading, time
        n = 0
        try:
            while n < 1000:
                if os.fork() == 0:
                    time.sleep(30)
                    os._exit(0)
                n += 1
        except OSError: pass
        threads = 0
        try:
            while threads < 1000:
                threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
                threads += 1
        except RuntimeError: pass
        print(json.dumps([n, threads]), flush=True)
        os._exit(0)
    """
    n_processes, n_threads = sandbox.found(code, limits=QUICK._replace(processes=20))
    assert 15 <= n_processes <= 19
    assert n_threads <= 1


def test_a_fork_bomb_ends_with_the_command(sandbox: Sandbox) -> None:
    mark = f"mark-{secrets.token_hex(8)}"
    bomb = f"import os  # {mark}\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    result = sandbox.run("python3", "-I", "-S", "-c", bomb, limits=QUICK._replace(wall_s=1.5, processes=30))
    assert result.stopped_by in ("time limit", "CPU limit")
    assert running(mark) == []


def test_no_core_is_dumped(sandbox: Sandbox) -> None:
    before = set(os.listdir(sandbox.folder))
    code = """
        import os, resource
        print(resource.getrlimit(resource.RLIMIT_CORE))
        try: resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20))
        except (OSError, ValueError): print("held", flush=True)
        os.abort()
    """
    result = sandbox.python(code)
    assert (result.signal, result.stdout) == (6, b"(1, 1)\nheld\n")
    assert set(os.listdir(sandbox.folder)) == before


def test_no_terminal_takes_input_from_it(sandbox: Sandbox) -> None:
    attack = """
import errno, fcntl, termios
for name, request in (("TIOCSTI", 0x5412), ("TIOCLINUX", 0x541C), ("TIOCSTI, high bits", 0x5412 | 1 << 40)):
    for handle in (0, 1, 2):
        C.ioctl.argtypes = None
        def refused():
            result = C.ioctl(handle, ctypes.c_ulong(request), b"x")
            return "by the filter" if result == -1 and ctypes.get_errno() == errno.EPERM else "not by the filter"
        outcomes[f"{name} {handle}"] = "held" if refused() == "by the filter" else "not held"
attempt("a terminal", lambda: os.open("/dev/tty", os.O_RDWR))
attempt("a new terminal", lambda: os.openpty())
attempt("is one", lambda: any(map(os.isatty, (0, 1, 2))))
"""
    held(sandbox, attack)
