"""Escapes through files: links, mounts, devices, handles, views of other processes, bits that stay."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.agentkit.workspace.sandbox_users import Sandbox

TRY = """
import ctypes, json, os
C = ctypes.CDLL(None, use_errno=True)
outcomes = {}
def attempt(name, action):
    try:
        value = action()
        outcomes[name] = "held" if value in (None, -1, [], b"", False) else f"ESCAPED {value!r:.100}"
    except OSError as error:
        outcomes[name] = "held"
def call(name, *arguments):
    return C[name](*arguments)
"""
"""Beginning of each attack: an attempt is held if it raises, or its value says that nothing was reached."""
REPORT = "\nprint(json.dumps(outcomes))\n"


def held(sandbox: Sandbox, attack: str, **options: Any) -> None:
    """Run an attack and require that every attempt was held."""
    outcomes = sandbox.found(TRY + attack + REPORT, **options)
    assert outcomes, "no attempt was made"
    assert {name: outcome for name, outcome in outcomes.items() if outcome != "held"} == {}


def test_no_path_leads_to_files_of_the_host(sandbox: Sandbox, secret: Path) -> None:
    attack = f"""
secret = {str(secret)!r}
views = ["", "/proc/self/root", "/proc/1/root", "/proc/self/cwd/../../../../..", "/proc/1/cwd/../../../..",
         "/proc/2/root", "/proc/self/task/1/root", "/proc/thread-self/root", "/" + "../" * 40,
         "/dev/fd/../../..", "/tmp/../../.."]
for view in views:
    attempt("read " + view, lambda: open(view + secret).read())
    attempt("write " + view, lambda: open(view + secret, "w").write("x"))
for path in ("/etc/shadow", "/etc/machine-id", "/etc/resolv.conf", "/root/.bashrc", "/var/log", "/run",
             "/sys/kernel", "/boot", "/proc/1/environ", "/proc/1/mem", "/proc/1/maps", "/proc/kcore",
             "/proc/kallsyms", "/proc/keys", "/proc/cmdline", "/proc/sys/kernel/core_pattern",
             "/proc/sysrq-trigger", "/dev/mem", "/dev/kmsg", "/dev/vda", "/dev/sda", "/dev/tty", "/dev/pts",
             "/dev/ptmx", "/dev/kvm", "/dev/fuse", "/dev/net/tun", "/dev/loop0", "/dev/mqueue"):
    attempt(path, lambda: os.listdir(path) if os.path.isdir(path) else open(path, "rb").read(1) + b"read")
for path in ("/x", "/etc/passwd", "/usr/bin/x", "/usr/lib/x", "/proc/x", "/dev/x", os.__file__, "/etc/ld.so.x"):
    attempt("write " + path, lambda: open(path, "w").write("x"))
attempt("remove", lambda: os.remove("/usr/bin/env") or "removed")
attempt("rename", lambda: os.rename("/usr/bin", "/usr/other") or "renamed")
attempt("owner", lambda: os.chown("/usr/bin/env", 1000, 1000) or "changed")
"""
    held(sandbox, attack)
    assert secret.read_text(encoding="utf-8") == "the secret"


def test_links_lead_nowhere(sandbox: Sandbox, secret: Path) -> None:
    attack = f"""
secret = {str(secret)!r}
def through(name, link, target):
    if os.path.lexists(name): os.remove(name)
    link(target, name)
    return open(name).read()
attempt("symbolic", lambda: through("a", os.symlink, secret))
attempt("symbolic, relative", lambda: through("b", os.symlink, "../" * 20 + secret))
attempt("hard", lambda: through("c", os.link, secret))
attempt("hard, of a program", lambda: through("d", os.link, "/usr/bin/env"))
attempt("hard, by handle", lambda: C.linkat(os.open("/usr/bin/env", os.O_PATH), b"", -100, b"e", 0x1000) == 0)
attempt("hard, by /proc", lambda: C.linkat(-100, b"/proc/self/fd/1", -100, b"f", 0x400) == 0)
attempt("renamed to here", lambda: os.rename("/usr/bin/env", "g") or "renamed")
attempt("of folders", lambda: through("h", os.symlink, "/proc/1/root" + secret))
"""
    held(sandbox, attack)


def test_no_mount_and_no_root_of_its_own_can_be_made(sandbox: Sandbox) -> None:
    attack = """
os.makedirs("at", exist_ok=True)
n = ctypes.c_long
attempt("tmpfs", lambda: C.mount(b"x", b"at", b"tmpfs", 0, None))
attempt("proc", lambda: C.mount(b"x", b"at", b"proc", 0, None))
attempt("bind", lambda: C.mount(b"/", b"at", None, 4096 | 16384, None))
attempt("overlay", lambda: C.mount(b"x", b"at", b"overlay", 0, b"lowerdir=/usr,upperdir=/tmp,workdir=/tmp"))
attempt("writable again", lambda: C.mount(None, b"/usr", None, 32 | 4096, None))
attempt("writable root", lambda: C.mount(None, b"/", None, 32, None))
attempt("unmount", lambda: C.umount2(b"/usr", 2))
attempt("unmount root", lambda: C.umount2(b"/", 2))
attempt("pivot_root", lambda: C.pivot_root(b"at", b"at"))
attempt("chroot", lambda: C.chroot(b"at"))
for name, number, arguments in (
    ("open_tree", 428, (-100, b"/", 1)), ("fsopen", 430, (b"tmpfs", 0)), ("fspick", 433, (-100, b"/", 0)),
    ("mount_setattr", 442, (-100, b"/", 0, b"\\0" * 32, 32)), ("listmount", 458, (0, 0, 0, 0)),
    ("move_mount", 429, (-100, b"/usr", -100, b"at", 0)), ("open_by_handle_at", 304, (3, b"\\0" * 16, 0)),
    ("name_to_handle_at", 303, (-100, b"/usr", b"\\0" * 8, b"\\0" * 8, 0)),
    ("fanotify_init", 300, (0, 0)), ("quotactl", 179, (0, b"/", 0, 0)),
):
    values = [n(value) if isinstance(value, int) else ctypes.c_char_p(value) for value in arguments]
    attempt(name, lambda: C.syscall(n(number), *values))
"""
    held(sandbox, attack)


def test_devices_cannot_be_made(sandbox: Sandbox) -> None:
    attack = """
import stat
import subprocess
import sys
for name, kind, device in (("null", stat.S_IFCHR, os.makedev(1, 3)), ("mem", stat.S_IFCHR, os.makedev(1, 1)),
                           ("disk", stat.S_IFBLK, os.makedev(254, 0)), ("kmsg", stat.S_IFCHR, os.makedev(1, 11))):
    for folder in (".", "/tmp"):
        attempt(name + folder, lambda: os.mknod(f"{folder}/{name}", 0o666 | kind, device) or "made")
"""
    held(sandbox, attack)


def test_a_device_that_lies_in_the_folder_cannot_be_opened(sandbox: Sandbox) -> None:
    path = sandbox.folder / "zero"
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("only root makes a device")
    path.chmod(0o666)
    held(sandbox, "attempt('device', lambda: open('zero', 'rb').read(1) + b'read')")
    path.unlink()


def test_no_program_gains_rights_and_none_is_left_that_would(sandbox: Sandbox) -> None:
    attack = """
import stat, subprocess
open("own", "w").write("#!/bin/sh\\nid\\n")
for mode in (0o4755, 0o2755, 0o6755):
    attempt(f"chmod {mode:o}", lambda: os.chmod("own", mode) or "set")
    attempt(f"fchmod {mode:o}", lambda: os.fchmod(os.open("own", os.O_RDWR), mode) or "set")
    attempt(f"fchmodat2 {mode:o}", lambda: C.syscall(ctypes.c_long(452), -100, b"own", mode, 0))
    attempt(f"open {mode:o}", lambda: os.open(f"new{mode}", os.O_CREAT | os.O_WRONLY, mode))
    attempt(f"creat {mode:o}", lambda: C.creat(b"new", mode))
    attempt(f"mknod {mode:o}", lambda: os.mknod(f"made{mode}", mode | stat.S_IFREG) or "made")
    attempt(f"O_TMPFILE {mode:o}", lambda: os.open(".", os.O_TMPFILE | os.O_RDWR, mode))
attempt("openat2", lambda: C.syscall(ctypes.c_long(437), -100, b"own", b"\\0" * 24, 24))
capabilities = b"\\1\\0\\0\\2" + b"\\xff" * 16
attempt("capability of a file", lambda: os.setxattr("own", "security.capability", capabilities) or "set")
for name in ("setuid", "setgid", "setfsuid"):
    attempt(name, lambda: getattr(C, name)(0) if name != "setfsuid" else os.geteuid() == 0)
attempt("setgroups", lambda: os.setgroups([0]) or "set")
attempt("capset", lambda: C.capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(*[0xFFFFFFFF] * 6)))
for program in ("/usr/bin/su", "/usr/bin/mount", "/usr/bin/passwd"):
    if not os.path.exists(program): continue
    child = subprocess.Popen([program, "--help"], stdout=-1, stderr=-1)
    file = f"/proc/{child.pid}/status"
    status = open(file).read() if os.path.exists(file) else ""
    attempt(program, lambda: "NoNewPrivs:\\t0" in status or "\\nUid:\\t0" in status)
    child.communicate()
"""
    held(sandbox, attack)
    for path in sandbox.folder.rglob("*"):
        assert not path.lstat().st_mode & 0o6000, path


def test_nothing_open_is_inherited(sandbox: Sandbox) -> None:
    code = "import json, os\nprint(json.dumps(sorted(os.listdir('/proc/self/fd'))))"
    with socket.socket() as opened:
        opened.set_inheritable(True)
        os.set_inheritable(probe := os.open("/etc", os.O_RDONLY), True)
        found = sandbox.found(code)
        os.close(probe)
    assert found in (["0", "1", "2", "3"], [])  # 3 lists the folder


def test_a_link_left_in_the_folder_does_not_move_what_is_mounted_on_it(sandbox: Sandbox, secret: Path) -> None:
    """Git's own folder is covered by a read-only mount; a link in its place must not take the mount elsewhere."""
    sandbox.run("sh", "-c", f"rm -rf .git; ln -s {secret.parent} .git")
    result = sandbox.run("sh", "-c", f"cat .git/secret {secret}; ls /; echo done")
    assert b"the secret" not in result.stdout
    assert result.stdout.endswith(b"done\n")
    (sandbox.folder / ".git").unlink()


def test_a_folder_that_is_replaced_is_not_the_one_that_was_opened(sandbox: Sandbox, tmp_path: Path) -> None:
    from modelstack.errors import UserError
    from modelstack.sandbox import commands

    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    popen: Any = commands.subprocess.Popen

    def swapped(*arguments: Any, **options: Any) -> Any:
        (tmp_path / "one").rename(tmp_path / "gone")
        (tmp_path / "other").rename(tmp_path / "one")
        return popen(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands.subprocess, "Popen", swapped)
        running = commands.start_command(["touch", "x"], folder=tmp_path / "one")
    with pytest.raises(UserError, match="replaced by another folder"):
        running.wait()


def test_outside_of_a_sandbox_the_attempts_succeed(secret: Path, tmp_path: Path) -> None:
    """The attacks themselves work, so "held" means that the sandbox held them."""
    attack = f"""
attempt("read", lambda: open({str(secret)!r}).read())
attempt("link", lambda: os.link({str(secret)!r}, "linked") or "linked")
attempt("chmod", lambda: os.chmod("linked", 0o4755) or "set")
attempt("missing", lambda: open("/no/such/file").read())
"""
    program = subprocess.run(
        [sys.executable, "-"],
        input=(TRY + attack + REPORT).encode(),
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    outcomes = json.loads(program.stdout)
    assert {name for name, outcome in outcomes.items() if outcome.startswith("ESCAPED")} == {
        "read",
        "link",
        "chmod",
    }
