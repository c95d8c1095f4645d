"""Console scripts and MCP servers as forks of one process that has imported packages and computed nothing.

A page's commands would spend most of their time in imports: 3 s for torch, 1 s for mcp, 6 s for inspect-ai. A
fork has those packages, the command lines, the servers of the pages and the modules that train, which would take
0.5 s; it imports this project's other modules itself. It runs the installed script with the arguments, the
environment, the folder and the standard streams of its caller, and its status is the caller's.

`warm_programs` makes a folder for the front of PATH; its programs call `_ask`. The `sys.executable` of a console
script is a program of that folder, too: a server that an agent starts (`python -m mcp_servers.time`,
`agentkit-mcp`) and a module of tests are other forks, and everything else runs in the real interpreter.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import shlex
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("agentkit", "modelstack")
_IMPORTED = (
    "torch",
    "torch._dynamo",
    "torch.distributed.fsdp",
    "torch.distributed.tensor.debug",
    "torch.distributed.tensor.parallel",
    "mcp.client",
    "mcp.server",
    "fastapi",
    "inspect_ai",
    "inspect_ai.agent._acp.server",
    "inspect_ai.model._openai_responses",
    "inspect_ai.model._providers.anthropic",
    "jsonschema",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "rich.markdown",
    "rich.table",
    "tokenizers",
    "typer.rich_utils",
    "agentkit.agent",
    "agentkit.cli.main",
    "agentkit.mcp.toolset",
    "mcp_servers.filesystem.server",
    "mcp_servers.git.server",
    "mcp_servers.memory.server",
    "mcp_servers.sqlite.server",
    "mcp_servers.time.server",
    "modelstack.cli",
    "modelstack.preferences.reward.run",
    "modelstack.preferences.run",
    "modelstack.reasoning.policy.run",
    "modelstack.reasoning.ppo.run",
    "modelstack.sft.run",
    "modelstack.train.run.launch",
)
_STANDARD_STREAMS = (0, 1, 2)
_LENGTH = struct.Struct("!Q")
"""Number of bytes of a request, before it."""
_STATUS = struct.Struct("!i")
"""Exit status of a program; a negative one is the signal that ended it."""


def can_fork() -> bool:
    """Whether this platform has what `warm_programs` needs: Linux has."""
    return hasattr(os, "pidfd_open")


@contextmanager
def warm_programs(
    folder: Path, environment: Mapping[str, str], modules: Sequence[str] = _IMPORTED
) -> Iterator[Path]:
    """Start the process that is forked; yield a folder with the programs, to be first in PATH.

    Args:
        folder: An empty folder.
        environment: Packages are imported with it. The programs have the environment in which they are called.
        modules: Modules that the process imports.
    """
    scripts, path = folder / "bin", folder / "socket"
    scripts.mkdir()
    for name in PROGRAMS:
        words = [sys.executable, "-IS", __file__, str(path), str(Path(sys.executable).with_name(name))]
        _write_program(scripts / name, f'exec {shlex.join(words)} "$@"')
    server = (
        f'"-m mcp_servers"* | "-m tests"*) exec {shlex.join([sys.executable, "-IS", __file__, str(path)])} "$@" ;;'
    )
    real = f'*) exec {shlex.quote(sys.executable)} "$@" ;;'
    _write_program(scripts / "python", f'case "$1 $2" in\n{server}\n{real}\nesac')
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        process = subprocess.Popen(
            [sys.executable, __file__, str(listener.fileno()), *modules],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,  # `sys.stdout` of a fork is made here, and a pipe cannot seek
            stderr=subprocess.STDOUT,
            pass_fds=[listener.fileno()],
        )
    try:
        yield scripts
    finally:
        process.kill()
        sys.stderr.write(process.communicate()[0].decode())


def _write_program(path: Path, commands: str) -> None:
    path.write_text(f"#!/bin/sh\n{commands}\n", encoding="utf-8")
    path.chmod(0o755)


def _ask(path: str, script: str, arguments: list[str]) -> int:
    """Have a script, or the module after "-m", run in a fork; return its status.

    The fork has this process's streams, environment and folder.
    """
    request = {
        "script": script,
        "arguments": arguments,
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "python": str(Path(path).with_name("bin") / "python"),
    }
    data = json.dumps(request).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        socket.send_fds(connection, [_LENGTH.pack(len(data))], _STANDARD_STREAMS)
        connection.sendall(data)
        (status,) = _STATUS.unpack(connection.recv(_STATUS.size, socket.MSG_WAITALL))
    if status < 0:
        for ignored_or_caught in (signal.SIGPIPE, signal.SIGINT):
            signal.signal(ignored_or_caught, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return int(status)


def _serve(listener: socket.socket, modules: Sequence[str]) -> str:
    """Import modules, then fork for each request; return the script, in the fork that is to run it."""
    for name in modules:
        importlib.import_module(name)
    n_threads = len(os.listdir("/proc/self/task"))
    assert n_threads == 1, f"{n_threads} threads, of which a fork would have one"
    gc.collect()
    gc.freeze()
    running: set[int] = set()
    while True:
        connection, _ = listener.accept()
        running -= {process for process in running if os.waitpid(process, os.WNOHANG)[0]}
        if waiting := os.fork():
            running.add(waiting)
            connection.close()
        else:
            listener.close()
            return _run_for(connection)


def _run_for(connection: socket.socket) -> str:
    """Fork again: one process waits for the program or for its caller's end; the other becomes the program."""
    head, streams, _, _ = socket.recv_fds(connection, _LENGTH.size, len(_STANDARD_STREAMS))
    request = json.loads(connection.recv(_LENGTH.unpack(head)[0], socket.MSG_WAITALL))
    if program := os.fork():
        for stream in streams:
            os.close(stream)
        ended = os.pidfd_open(program)
        readable, _, _ = select.select([ended, connection], [], [])
        if ended not in readable:  # the caller was killed
            os.kill(program, signal.SIGKILL)
        _, status = os.waitpid(program, 0)
        connection.sendall(_STATUS.pack(os.waitstatus_to_exitcode(status)))
        os._exit(0)
    connection.close()
    for stream, standard in zip(streams, _STANDARD_STREAMS, strict=True):
        os.dup2(stream, standard)
        os.close(stream)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    script, arguments = request["script"], request["arguments"]
    if script == "-m":
        script, *arguments = arguments
        sys.path[0] = request["folder"]
    else:
        sys.path[0] = str(Path(script).parent)
        sys.executable = request["python"]
    sys.argv[:] = [script, *arguments]
    return str(script)


def _run_to_the_end(script: str) -> None:
    """Run a script or a module, and end the process as the interpreter would, without freeing all of its memory.

    Freeing it would take 0.5 s: each page of memory that is still shared with the forked process is copied first.
    """
    status: int | str | None = 0
    try:
        if os.sep in script:
            runpy.run_path(script, run_name="__main__")
        else:
            runpy.run_module(script, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code
    if isinstance(status, str):
        print(status, file=sys.stderr)
        status = 1
    threading._shutdown()  # pyright: ignore
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit((status or 0) & 0xFF)


if __name__ == "__main__":
    if sys.argv[1].isdecimal():
        _run_to_the_end(_serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:]))
    else:
        sys.exit(_ask(sys.argv[1], sys.argv[2], sys.argv[3:]))
