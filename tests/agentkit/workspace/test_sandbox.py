"""Abilities of a command in the sandbox: it runs the machine's programs, and works in its folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from modelstack.errors import UserError
from modelstack.sandbox import commands, launching
from modelstack.sandbox.commands import Output, kept_read_only, start_command
from modelstack.sandbox.limits import CommandLimits
from tests.agentkit.workspace.sandbox_users import QUICK, Sandbox


def test_programs_of_the_machine_run_and_files_stay(sandbox: Sandbox) -> None:
    script = (
        "printf 'b\\na\\n' > words; sort words | grep -c .; mkdir -p deep/er; mv words deep/er; ls -1 deep/er; pwd"
    )
    result = sandbox.run("sh", "-c", script)
    assert (result.exit_status, result.stdout, result.stderr) == (0, b"2\nwords\n/workspace\n", b"")
    assert (sandbox.folder / "deep/er/words").read_text() == "b\na\n"
    status = (sandbox.folder / "deep/er/words").stat()
    assert status.st_uid == sandbox.folder.stat().st_uid
    assert status.st_mode & 0o777 == 0o644


def test_this_python_runs_with_its_packages(sandbox: Sandbox) -> None:
    result = sandbox.run("python3", "-c", "import sys, pydantic; print(sys.prefix); open('made', 'w').write('x')")
    assert (result.stdout.decode().strip(), result.stderr) == (sys.prefix, b"")
    assert (sandbox.folder / "made").read_text() == "x"


def test_input_and_variables_are_those_given(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "xyz")
    result = sandbox.run("sh", "-c", "cat; env | sort", stdin=b"text\n", environment={"GIVEN": "1"})
    told = dict(line.split("=", 1) for line in result.stdout.decode().splitlines()[1:])
    assert result.stdout.startswith(b"text\n")
    assert set(told) - {"PWD", "SHLVL", "_", "OLDPWD"} == {"GIVEN", "HOME", "LANG", "PATH", "TMPDIR"}


def test_the_input_cannot_be_written(sandbox: Sandbox) -> None:
    code = (
        "import os\ntry: os.write(os.open('/proc/self/fd/0', os.O_RDWR), b'x' * 100)\n"
        "except OSError: print('held')"
    )
    assert sandbox.run("python3", "-c", code, stdin=b"text").stdout == b"held\n"


def test_readable_paths_appear_at_their_own_place_and_cannot_be_changed(
    sandbox: Sandbox, open_folder: Path
) -> None:
    (open_folder / "notes").write_text("read me")
    (open_folder / "beside").write_text("x")
    script = f"cat {open_folder}/notes; echo; echo y > {open_folder}/notes"
    result = sandbox.run("sh", "-c", script, readable=[open_folder])
    assert result.stdout == b"read me\n"
    assert b"Read-only file system" in result.stderr
    script = f"ls {open_folder}; cat {open_folder}/notes"
    one = sandbox.run("sh", "-c", script, readable=[open_folder / "notes"])
    assert one.stdout == b"notes\nread me"


def test_what_only_the_callers_own_user_may_read_is_readable(open_folder: Path, tmp_path: Path) -> None:
    (open_folder / "notes").write_text("read me")
    (open_folder / "notes").chmod(0o600)
    open_folder.chmod(0o700)
    try:
        result = start_command(["cat", f"{open_folder}/notes"], folder=tmp_path, readable=[open_folder]).wait()
    except UserError as error:
        pytest.skip(str(error))
    assert result.stdout == b"read me"


def test_a_folder_may_be_read_only(sandbox: Sandbox) -> None:
    result = sandbox.run("sh", "-c", "echo x > new; echo y > /tmp/new && cat /tmp/new", writable=False)
    assert result.stdout == b"y\n"
    assert not (sandbox.folder / "new").exists()


def test_a_server_on_the_sandboxs_own_loopback_can_be_asked(sandbox: Sandbox) -> None:
    code = """
        import json, socket, threading
        server = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=lambda: server.accept()[0].sendall(b"here")).start()
        print(json.dumps(socket.create_connection(server.getsockname()).recv(9).decode()))
    """
    assert sandbox.found(code) == "here"


def test_ends_are_told_apart(sandbox: Sandbox) -> None:
    assert sandbox.run("sh", "-c", "exit 7").exit_status == 7
    by_signal = sandbox.run("sh", "-c", "kill -SEGV $$")
    assert (by_signal.exit_status, by_signal.signal, by_signal.stopped_by) == (None, 11, None)
    assert sandbox.run("no-such-program").exit_status == 127
    assert sandbox.run("no-such-program").stderr == b"no-such-program: No such file or directory\n"
    assert sandbox.run("/etc/passwd").exit_status == 126
    late = sandbox.run("sh", "-c", "echo begun; sleep 100", limits=CommandLimits(wall_s=0.8))
    assert (late.exit_status, late.stopped_by, late.timed_out, late.stdout) == (
        None,
        "time limit",
        True,
        b"begun\n",
    )


def test_the_middle_of_long_output_is_dropped(sandbox: Sandbox) -> None:
    result = sandbox.run("seq", "100000", limits=QUICK._replace(output_bytes=1000))
    assert result.stdout.startswith(b"1\n2\n") and result.stdout.endswith(b"99999\n100000\n")
    assert len(result.stdout) == 1000
    assert result.stdout_dropped == 588_895 - 1000
    assert (result.stdout_truncated, result.stderr_truncated) == (True, False)


def test_an_output_keeps_what_fits() -> None:
    output = Output(10)
    for piece in (b"abc", b"defgh", b"i"):
        output.add(piece)
    assert output.kept() == (b"abcdefghi", 0)
    output.add(b"0123456789" * 3)
    assert output.kept() == (b"abcde56789", 29)
    assert Output(10).last_line() == ""
    lines = Output(1000)
    lines.add(b"one\ntwo\n\n")
    assert lines.last_line() == "two"


def test_gits_own_folder_and_this_python_stay_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("work/.git/hooks", "work/venv/lib"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr(commands, "_pythons", lambda: [str(tmp_path / "work/venv"), sys.prefix, sys.base_prefix])
    script = (
        "echo x > .git/hooks/post-checkout; echo x > venv/lib/sitecustomize.py; rm -rf .git; mv venv other; "
        "echo x > y"
    )
    try:
        result = start_command(["sh", "-c", script], folder=tmp_path / "work", seen_as="/workspace").wait()
    except UserError as error:
        pytest.skip(str(error))
    assert result.exit_status == 0
    assert sorted(str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*")) == [
        "work", "work/.git", "work/.git/hooks", "work/venv", "work/venv/lib", "work/y",
    ]  # fmt: skip
    assert kept_read_only(str(tmp_path / "work")) == ("venv",)
    assert kept_read_only(str(tmp_path)) == ("work/venv",)


def test_the_same_place_may_be_the_folders_own(tmp_path: Path) -> None:
    try:
        result = start_command(["sh", "-c", "pwd; echo x > y"], folder=tmp_path).wait()
    except UserError as error:
        pytest.skip(str(error))
    assert result.stdout.decode() == f"{tmp_path}\n"
    assert (tmp_path / "y").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"folder": Path("/")}, "cannot be the folder of a sandbox"),
        ({"folder": Path("/proc/self")}, "cannot be the folder of a sandbox"),
        ({"folder": Path("/dev/shm/../")}, "cannot be the folder of a sandbox"),
        ({"folder": Path("/no/such/folder")}, "Create it first"),
        ({"seen_as": "/usr"}, "Name a place that the system does not use"),
        ({"seen_as": "relative"}, "Name a place that the system does not use"),
        ({"readable": [Path("/no/such/file")]}, "does not exist"),
        ({"readable": [Path("/etc/hosts")], "seen_as": "/etc/hosts"}, "Choose another `seen_as`"),
        ({"command": []}, "must be a list of a program"),
        ({"command": "ls -l"}, "must be a list of a program"),
        ({"command": ["echo", "a\0b"]}, "NUL character"),
        ({"environment": {"A=B": "1"}}, "must have a name without '='"),
        ({"environment": {"A": "a\0b"}}, "NUL character"),
        ({"limits": CommandLimits(processes=0)}, "processes=0 of a sandbox must be an integer above zero"),
        ({"limits": CommandLimits()._replace(memory_bytes=1e9)}, "must be an integer"),
        ({"limits": CommandLimits(wall_s=float("nan"))}, "wall_s=nan of a sandbox must be a number above zero"),
        ({"stdin": b"x" * ((64 << 20) + 1)}, "Put it into a file"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused_by_name(arguments: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        start_command(**{"command": ["true"], "folder": tmp_path, **arguments})


def test_a_machine_without_isolation_runs_nothing_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = str({"ended": "not isolated", "reason": "unshare: no"})
    monkeypatch.setattr(commands, "COMMAND", [sys.executable, "-c", f"print({said!r})"])
    with pytest.raises(UserError, match=r"sandboxed commands .* refuses them \(unshare: no\)"):
        start_command(["touch", "x"], folder=tmp_path).wait()
    said = str({"ended": "not isolated", "reason": "mount_setattr (owners): Invalid argument"})
    monkeypatch.setattr(commands, "COMMAND", [sys.executable, "-c", f"print({said!r})"])
    with pytest.raises(UserError, match=r"belongs to root.*chown"):
        start_command(["touch", "x"], folder=tmp_path).wait()
    monkeypatch.setattr(commands, "COMMAND", [sys.executable, "-c", "raise SystemError('broken')"])
    with pytest.raises(commands.LauncherEnded, match="SystemError: broken"):
        start_command(["touch", "x"], folder=tmp_path).wait()
    monkeypatch.setattr(launching.sys, "platform", "darwin")
    with pytest.raises(UserError, match="only in Linux namespaces; this is darwin"):
        start_command(["touch", "x"], folder=tmp_path)
    assert os.listdir(tmp_path) == []


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "work").mkdir()
    before = set(os.listdir("/proc/self/fd"))
    try:
        start_command(["sh", "-c", "exit 1"], folder=tmp_path / "work").wait()
    except UserError as error:
        pytest.skip(str(error))
    start_command(["sleep", "9"], folder=tmp_path / "work", limits=CommandLimits(wall_s=0.3)).wait()
    with pytest.raises(UserError, match="does not exist"):
        start_command(["true"], folder=tmp_path / "work", readable=[tmp_path / "none"])
    assert [each.name for each in tmp_path.iterdir()] == ["work"]
    assert len(os.listdir("/proc/self/fd")) == len(before)
