"""Use of the machine beyond the limits: memory, disk, files, output, time, archives that unpack to too much."""

from __future__ import annotations

import io
import os
import zipfile

import pytest

from tests.agentkit.workspace.sandbox_users import QUICK, Sandbox

MIB = 1 << 20
TIGHT = QUICK._replace(memory_bytes=192 * MIB, scratch_bytes=8 * MIB, file_bytes=16 * MIB, wall_s=20.0, cpu_s=10)


def test_one_process_gets_no_more_memory_than_the_limit(sandbox: Sandbox) -> None:
    code = """
        import ctypes, json, mmap
        held = 0
        try: bytearray(400 << 20)
        except MemoryError: held += 1
        try: mmap.mmap(-1, 400 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError: held += 1
        print(json.dumps(held))
    """
    assert sandbox.found(code, limits=TIGHT) == 2


@pytest.mark.parametrize(
    "allocate",
    ["x = bytearray(b'x' * (60 << 20))", "x = mmap.mmap(-1, 60 << 20)\nx.write(b'x' * (60 << 20))"],
    ids=["private", "shared"],
)
def test_all_processes_together_get_no_more_memory_than_the_limit(sandbox: Sandbox, allocate: str) -> None:
    code = f"import mmap, os, time\nfor _ in range(8):\n    if os.fork() == 0: break\n{allocate}\ntime.sleep(15)"
    result = sandbox.python(code, limits=TIGHT)
    assert (result.stopped_by, result.exit_status) == ("memory limit", None)


def test_memory_that_processes_share_counts_once(sandbox: Sandbox) -> None:
    code = """
        import os, time
        x = bytearray(b"x" * (90 << 20))
        for _ in range(4):
            if os.fork() == 0:
                time.sleep(0.6)
                os._exit(0)
        for _ in range(4): os.wait()
        print("done")
    """
    assert sandbox.python(code, limits=TIGHT).stdout == b"done\n"


def test_no_memory_is_kept_where_no_limit_counts_it(sandbox: Sandbox) -> None:
    code = """
        import ctypes, errno, json, os
        C = ctypes.CDLL(None, use_errno=True)
        n, failed = ctypes.c_long, {}
        for name, number, arguments in (
            ("memfd_create", 319, (b"x", 0)), ("memfd_secret", 447, (0,)), ("shmget", 29, (0, 4096, 0o1777)),
            ("msgget", 68, (0, 0o1777)), ("semget", 64, (0, 9, 0o1777)), ("mq_open", 240, (b"x", 66, 0o600, 0)),
        ):
            values = [n(value) if isinstance(value, int) else ctypes.c_char_p(value) for value in arguments]
            failed[name] = C.syscall(n(number), *values) == -1 and errno.errorcode[ctypes.get_errno()]
        failed["mlock"] = C.mlock(ctypes.create_string_buffer(4096), 4096) == -1 and "ENOSYS"
        print(json.dumps(failed))
    """
    if os.uname().machine != "x86_64":
        pytest.skip("the numbers are those of x86_64")
    assert set(sandbox.found(code).values()) == {"ENOSYS"}


def test_scratch_folders_end_at_their_size_and_number_of_files(sandbox: Sandbox) -> None:
    code = """
        import json, os
        n = 0
        for name in ("/tmp/a", "/dev/shm/b", "/tmp/c"):
            try:
                with open(name, "wb", buffering=0) as file:
                    while True: n += file.write(bytes(1 << 16))
            except OSError: pass
        os.remove("/tmp/a"); os.remove("/tmp/b"); os.remove("/tmp/c")
        files = 0
        try:
            while files < 100_000:
                open(f"/tmp/{files}", "w").close()
                files += 1
        except OSError: pass
        print(json.dumps([n, files]))
    """
    n_bytes, n_files = sandbox.found(code, limits=TIGHT)
    assert n_bytes <= 8 * MIB
    assert n_files < 17_000
    assert sandbox.run("sh", "-c", "ls /tmp | wc -l").stdout == b"0\n"  # nothing is kept for the next command


def test_one_file_ends_at_its_limit(sandbox: Sandbox) -> None:
    result = sandbox.run("sh", "-c", "head -c 40000000 /dev/zero > big", limits=TIGHT)
    assert result.exit_status != 0
    assert (sandbox.folder / "big").stat().st_size <= 16 * MIB
    (sandbox.folder / "big").unlink()


def test_the_folder_grows_by_no_more_than_the_limit(sandbox: Sandbox) -> None:
    code = """
        import time
        for number in range(40):
            with open(f"part{number}", "wb") as file: file.write(b"x" * (10 << 20))
            time.sleep(0.05)
    """
    result = sandbox.python(code, limits=TIGHT._replace(disk_bytes=60 * MIB))
    size = sum(path.stat().st_size for path in sandbox.folder.glob("part*"))
    for path in sandbox.folder.glob("part*"):
        path.unlink()
    assert result.stopped_by == "disk limit"
    assert size < 300 * MIB


def test_a_command_that_rewrites_one_file_is_within_the_limit(sandbox: Sandbox) -> None:
    code = """
        for number in range(12):
            with open("same", "wb") as file: file.write(b"x" * (10 << 20))
        print("done")
    """
    assert sandbox.python(code, limits=TIGHT._replace(disk_bytes=60 * MIB)).stdout == b"done\n"
    (sandbox.folder / "same").unlink()


@pytest.mark.parametrize(
    "make", ["open(f'n{number}', 'w').close()", "os.mkdir(f'n{number}')", "os.mkdir('n'); os.chdir('n')"]
)
def test_files_and_folders_end_at_their_number(sandbox: Sandbox, make: str) -> None:
    code = f"import os, time\nfor number in range(20000):\n    {make}\n    time.sleep(0.0005)"
    result = sandbox.python(code, limits=TIGHT._replace(disk_files=1000))
    sandbox.run("sh", "-c", "rm -rf n*")
    assert result.stopped_by == "disk limit"


def test_files_that_were_removed_while_open_count(sandbox: Sandbox) -> None:
    code = """
        import os, time
        kept = []
        for number in range(60):
            kept.append(os.open("gone", os.O_RDWR | os.O_CREAT))
            os.remove("gone")
            os.write(kept[-1], b"x" * (10 << 20))
            time.sleep(0.03)
        print("done")
    """
    result = sandbox.python(code, limits=TIGHT._replace(disk_bytes=60 * MIB))
    assert result.stopped_by == "disk limit"


def test_a_flood_of_output_ends_the_command(sandbox: Sandbox) -> None:
    result = sandbox.run("yes", "x" * 100, limits=TIGHT._replace(output_bytes=10_000))
    assert result.stopped_by == "output limit"
    assert len(result.stdout) == 10_000
    errors = sandbox.run("sh", "-c", "yes >&2", limits=TIGHT._replace(output_bytes=10_000))
    assert errors.stopped_by == "output limit"


def test_time_ends_whatever_a_command_does_with_signals(sandbox: Sandbox) -> None:
    script = "trap '' TERM INT HUP; while :; do sleep 1; done"
    assert sandbox.run("sh", "-c", script, limits=TIGHT._replace(wall_s=1.0)).stopped_by == "time limit"


def test_cpu_time_counts_children_that_have_ended(sandbox: Sandbox) -> None:
    code = """
        import os, time
        for _ in range(100):
            if os.fork() == 0:
                end = time.process_time() + 0.3
                while time.process_time() < end: pass
                os._exit(0)
            os.wait()
    """
    result = sandbox.python(code, limits=TIGHT._replace(cpu_s=1))
    assert result.stopped_by == "CPU limit"
    assert result.duration_s < 15


def test_open_files_end_at_their_number(sandbox: Sandbox) -> None:
    code = """
        import json, os
        n = 0
        try:
            while True: os.open("/dev/null", os.O_RDONLY); n += 1
        except OSError: print(json.dumps(n))
    """
    assert sandbox.found(code, limits=TIGHT._replace(open_files=50)) < 50


def test_an_archive_that_unpacks_to_too_much_ends_at_a_limit(sandbox: Sandbox) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for number in range(40):
            archive.writestr(f"zeros{number}", bytes(10 * MIB))
    path = sandbox.folder / "bomb.zip"
    path.write_bytes(packed.getvalue())
    path.chmod(0o644)
    in_memory = "import zipfile\nz = zipfile.ZipFile('bomb.zip')\nx = [z.read(n) for n in z.namelist()]"
    result = sandbox.python(in_memory, limits=TIGHT)
    assert b"MemoryError" in result.stderr or result.stopped_by == "memory limit"
    on_disk = (
        "import time, zipfile\nz = zipfile.ZipFile('bomb.zip')\n"
        "for n in z.namelist(): z.extract(n); time.sleep(0.05)"
    )
    result = sandbox.python(on_disk, limits=TIGHT._replace(disk_bytes=60 * MIB))
    for each in sandbox.folder.glob("zeros*"):
        each.unlink()
    path.unlink()
    assert result.stopped_by == "disk limit"
