"""The sandbox: right programs pass, and a hostile one gains nothing, harms nothing and ends."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from modelstack.errors import UserError
from modelstack.sandbox import running
from modelstack.sandbox.limits import Limits
from modelstack.sandbox.running import COMMAND, Verdict, judge_program, require_sandbox
from modelstack.sandbox.system_calls import system_call_filter

QUICK = Limits(cpu_s=1, wall_s=20.0, memory_bytes=256 << 20, output_bytes=1 << 16)


@pytest.fixture(autouse=True, scope="module")
def isolated() -> None:
    try:
        require_sandbox()
    except UserError as error:
        pytest.skip(str(error))


def judge(source: str, tests: Sequence[str] = ("assert f() == 1",), *, limits: Limits = QUICK) -> Verdict:
    return judge_program([source], tests, ["f"], limits=limits)


def test_a_right_program_passes_and_a_wrong_one_fails_with_the_assertion() -> None:
    assert judge("def f(): return 1").passed
    verdict = judge("def f(): return 2", ["assert f() == 1"])
    assert (verdict.passed, verdict.reason) == (False, "test 1: AssertionError: assert f() == 1")


def test_every_test_must_pass() -> None:
    tests = ["assert f(1) == 1", "assert f(2) == 4", "assert f(3) == 9"]
    assert judge("def f(x): return x * x", tests).passed
    assert judge("def f(x): return 3 * x - 2", tests).reason.startswith("test 3: AssertionError")


def test_where_every_test_counts_the_judge_goes_on_after_one_that_fails() -> None:
    tests = ["assert f(1) == 1", "assert f(2) == 5", "assert f(3) == 9"]
    square = "def f(x): return x * x"
    assert judge_program([square], tests, ["f"], limits=QUICK).tests_passed == (True, False)
    verdict = judge_program([square], tests, ["f"], limits=QUICK, every_test=True)
    assert (verdict.passed, verdict.tests_passed) == (False, (True, False, True))
    assert verdict.reason.startswith("test 2: AssertionError")
    gone = judge_program(["import os\ndef f(x): os._exit(0)"], tests, ["f"], limits=QUICK, every_test=True)
    assert gone.tests_passed == (False, False, False)


@pytest.mark.parametrize(
    "value",
    [
        "(1, [2, {3}], {'a': None, (4, 5): b'x'})", "[1, 2]", "{1, 2}", "frozenset([1])", "2 ** 200", "-0.5", "1j",
        "float('inf')", "'\\ud800\\n'", "range(3)", "True", "{}",
    ],
)  # fmt: skip
def test_values_come_back_as_they_are(value: str) -> None:
    same = [f"assert f({value}) == {value}", f"assert type(f({value})) is type({value})"]
    assert judge("def f(x): return x", same).reason == "2 of 2 tests passed"


def test_an_iterator_comes_back_as_one_and_what_is_no_data_equals_nothing() -> None:
    assert judge("def f(): return (i for i in range(3))", ["assert list(f()) == [0, 1, 2]"]).passed
    assert judge("def f():\n    while True:\n        yield 1", ["assert f() is not None"]).passed
    assert not judge("def f(): return object()", ["x = f()\nassert x == x"]).passed


def test_a_list_is_no_tuple() -> None:
    assert not judge("def f(): return [1, 2]", ["assert f() == (1, 2)"]).passed


def test_a_value_that_equals_everything_equals_nothing_here() -> None:
    always = "class A({base}):\n    def __eq__(self, other): return True\n    __hash__ = None\ndef f(): return A()"
    assert not judge(always.format(base="object")).passed
    assert not judge(always.format(base="int")).passed
    assert not judge(always.format(base="list"), ["assert f() == [1]"]).passed


@pytest.mark.parametrize(
    "source",
    [
        "import sys\nsys.exit(0)",
        "import os\nos._exit(0)",
        "import sys\ndef f(): sys.exit(0)",
        "import os\ndef f(): os._exit(0)",
        'print(\'{"passed": true, "reason": ""}\')\ndef f(): return 0',
        'import os\nfor i in range(64):\n    try: os.write(i, b\'{"passed": true, "reason": ""}\\n\')\n'
        "    except OSError: pass\ndef f(): return 0",
        "import builtins, json\nbuiltins.AssertionError = None\n"
        "json.dumps = lambda *a, **k: '{\"passed\": true}'\ndef f(): return 0",
        "import json\njson.dumps = lambda *a, **k: '[' * 100_000\ndef f(): return 0",
        "import json\njson.dumps = lambda *a, **k: '{\"value\": {\"name\": \"f\"}}'\ndef f(): return 0",
        "def f():\n    x = []\n    x.append(x)\n    return x",
        "def f(): return 'x' * (1 << 25)",
        "import ctypes\ndef f(): ctypes.string_at(0)",
        "def f(: return 1",
    ],
)  # fmt: skip
def test_no_verdict_can_be_forged(source: str) -> None:
    assert not judge(source).passed


def test_the_program_cannot_find_the_expected_values() -> None:
    search = (
        "import gc, os, sys\n"
        "def f():\n"
        "    seen = repr([o for o in gc.get_objects() if isinstance(o, (str, list, dict))])\n"
        "    seen += repr(sys.argv) + repr(dict(os.environ)) + repr(os.listdir('/')) + repr(os.listdir('/tmp'))\n"
        "    print('31' + '41592' in seen)\n"
        "    return 0"
    )
    verdict = judge(search, ["assert f() == 3141592"], limits=Limits())
    assert (verdict.passed, verdict.output) == (False, "False\n")


def test_an_endless_loop_ends_at_the_cpu_limit() -> None:
    verdict = judge("def f():\n    while True: pass")
    assert not verdict.passed
    assert verdict.reason.startswith("CPU limit")


def test_a_program_that_waits_ends_at_the_time_limit() -> None:
    verdict = judge("import time\ndef f(): time.sleep(1000)", limits=Limits(wall_s=1.0))
    assert not verdict.passed
    assert "time limit" in verdict.reason


def test_memory_ends_at_its_limit() -> None:
    verdict = judge("def f():\n    x = bytearray(1 << 29)\n    return 1")
    assert verdict.reason.startswith("test 1: MemoryError")


def test_neither_processes_nor_threads_can_be_started() -> None:
    bomb = (
        "import os, threading\n"
        "def f():\n"
        "    n = 0\n"
        "    for start in (os.fork, threading.Thread(target=print).start):\n"
        "        try:\n"
        "            while start() != 0: n += 1\n"
        "        except (OSError, RuntimeError) as error: print(error)\n"
        "    return n"
    )
    verdict = judge(bomb, ["assert f() == 0"])
    assert verdict.passed, verdict
    assert "temporarily unavailable" in verdict.output


def test_a_flood_of_output_ends_the_program() -> None:
    verdict = judge("def f():\n    while True: print('x' * 1000)", limits=Limits(output_bytes=1 << 16))
    assert not verdict.passed
    assert verdict.reason.startswith("output limit")
    assert len(verdict.output) <= running.SHOWN_OUTPUT


def test_there_is_no_network() -> None:
    connect = (
        "import socket\n"
        "def f():\n"
        "    found = []\n"
        "    tries = ((socket.SOCK_STREAM, ('127.0.0.1', {port})), (socket.SOCK_DGRAM, ('1.1.1.1', 53)))\n"
        "    for kind, address in tries:\n"
        "        try:\n"
        "            with socket.socket(socket.AF_INET, kind) as s: s.connect(address)\n"
        "            found.append('open')\n"
        "        except OSError as error: found.append(error.strerror)\n"
        "    return found"
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        source = connect.replace("{port}", str(server.getsockname()[1]))
        assert judge(source, ["assert f() == ['Network is unreachable'] * 2"]).passed


def test_nothing_outside_can_be_read_or_written(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("answer", encoding="utf-8")
    paths = [
        str(secret),
        str(Path.home() / "x"),
        str(Path(__file__)),
        "/etc/passwd",
        "/proc/self/environ",
        "/dev/mem",
    ]
    source = (
        f"PATHS = {paths!r}\n"
        "def f():\n"
        "    found = []\n"
        "    for mode in 'rw':\n"
        "        for path in PATHS + ['/usr/lib/x', '/x']:\n"
        "            try: open(path, mode); found.append((mode, path))\n"
        "            except OSError: pass\n"
        "    return found"
    )
    verdict = judge(source, ["found = f()\nassert found == [], found"])
    assert verdict.passed, verdict
    assert secret.read_text(encoding="utf-8") == "answer"


def test_the_scratch_folder_takes_files_up_to_the_limit() -> None:
    fill = (
        "def f():\n"
        "    n = 0\n"
        "    try:\n"
        "        with open('big', 'wb', buffering=0) as file:\n"
        "            while True: n += file.write(b'x' * (1 << 16))\n"
        "    except OSError: return n"
    )
    assert judge(fill, [f"assert f() == {1 << 20}"], limits=Limits(file_bytes=1 << 20)).passed


def test_no_process_outside_can_be_signalled() -> None:
    source = (
        "import os\n"
        "def f():\n"
        "    found = [os.getpid(), os.getppid()]\n"
        "    for pid in (-1, PARENT, PARENT + 1):\n"
        "        try: os.kill(pid, 9); found.append(pid)\n"
        "        except OSError: pass\n"
        "    os.kill(0, 9)\n"  # its own group, which is it alone: process 1 ignores it
        "    return found"
    )
    verdict = judge(
        f"PARENT = {os.getpid()}\n{source}", ["found = f()\nassert found in ([1, 0], [1, 0, -1]), found"]
    )
    assert verdict.passed, verdict


def test_it_has_no_rights_left() -> None:
    source = (
        "import ctypes, os, resource\n"
        "C = ctypes.CDLL(None, use_errno=True)\n"
        "def f():\n"
        "    mounted = C.mount(b'none', b'/tmp', b'tmpfs', 0, None)\n"
        "    try: resource.setrlimit(resource.RLIMIT_NPROC, (9, 9)); raised = True\n"
        "    except (OSError, ValueError): raised = False\n"
        "    return mounted, raised, os.getuid(), os.getgroups(), dict(os.environ)"
    )
    verdict = judge(
        source, ["found = f()\nassert found in [(-1, False, 65534, g, {}) for g in ([], [65534])], found"]
    )
    assert verdict.passed, verdict


def test_a_new_user_namespace_does_not_lift_the_limit_of_processes() -> None:
    source = (
        "import ctypes, os\n"
        "def f():\n"
        "    ctypes.CDLL(None).unshare(0x10000000)\n"
        "    try: return os.fork()\n"
        "    except OSError: return 'refused'"
    )
    assert judge(source, ["assert f() == 'refused'"]).passed


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = set(os.listdir("/proc/self/fd"))
    judge("def f():\n    open('x', 'w').write('y')\n    return 1")
    judge("import os\nos._exit(1)")
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_launcher_ends_its_child_when_whoever_started_it_is_gone(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    reads, writes = os.pipe()
    process = subprocess.Popen(
        COMMAND,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=(reads, writes),
    )
    assert process.stdin is not None
    job = {
        "role": "program",
        "sources": ["import time\ntime.sleep(1000)"],
        "pipes": [reads, writes],
        "root": str(tmp_path / "root"),
        "limits": Limits(wall_s=200.0)._asdict(),
        "filter": system_call_filter().hex(),
    }
    process.stdin.write(json.dumps(job).encode() + b"\n")
    output, _ = process.communicate()  # closes standard input and waits
    os.close(reads)
    os.close(writes)
    assert json.loads(output)["ended"] == "stopped"


def test_a_machine_without_namespaces_runs_nothing_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    refusing = 'import sys; sys.stdin.readline(); print(\'{"ended": "not isolated", "reason": "unshare: no"}\')'
    monkeypatch.setattr(running, "COMMAND", [sys.executable, "-c", refusing])
    with pytest.raises(UserError, match=r"refuses them \(unshare: no\)"):
        judge("def f(): return 1")
    monkeypatch.setattr(running, "COMMAND", [sys.executable, "-c", "raise SystemError('broken')"])
    with pytest.raises(UserError, match="SystemError: broken"):
        judge("def f(): return 1")
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UserError, match="only in Linux namespaces; this is darwin"):
        judge("def f(): return 1")


def test_system_calls_that_programs_do_not_need_are_refused() -> None:
    source = (
        "import ctypes, errno\n"
        "C = ctypes.CDLL(None, use_errno=True)\n"
        "def f():\n"
        "    failed = []\n"
        "    for call in (lambda: C.unshare(0x10000000), lambda: C.ptrace(0, 0, 0, 0),\n"
        "                 lambda: C.socket(40, 1, 0), lambda: C.chmod(b'/tmp', 0o4777),\n"
        "                 lambda: C.syscall(ctypes.c_long(425), 1, 0)):\n"
        "        failed.append(call() == -1 and errno.errorcode[ctypes.get_errno()])\n"
        "    return failed"
    )
    verdict = judge(source, ["found = f()\nassert found == ['EPERM'] * 4 + ['ENOSYS'], found"])
    assert verdict.passed, verdict
