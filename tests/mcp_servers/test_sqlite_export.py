"""CSV exports: complete or not there, never over another file, within their limits."""

from __future__ import annotations

import csv
import io
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp import Client, StdioServerParameters
from server_harness import REPOSITORY, Ask, ask_once, asker

from mcp_servers.failures import StartError, ToolFailure
from mcp_servers.sqlite import exporting
from mcp_servers.sqlite.csv_text import check_file_name, count_formulas, csv_line
from mcp_servers.sqlite.exporting import TEMPORARY_PREFIX, ExportFolder
from mcp_servers.sqlite.policy import Limits
from mcp_servers.sqlite.server import build_server
from tests.mcp_servers.conftest import make_database

FOREVER = "with recursive r(n) as (select 1 union all select n + 1 from r) select n from r"
TEN = f"{FOREVER} limit 10"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@dataclass(frozen=True)
class Narrow:
    """A server that exports little, with its database and its folder for exports."""

    ask: Ask
    database: Path
    folder: Path


@pytest.fixture(scope="module")
async def narrow(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Narrow]:
    base = tmp_path_factory.mktemp("narrow")
    (base / "exports").mkdir()
    database = make_database(base / "shop.db")
    limits = Limits(export_timeout_s=0.5, export_max_rows=1_000, export_max_bytes=5_000)
    server = build_server(database, export=str(base / "exports"), limits=limits, write=True)
    async with Client(server) as client:
        yield Narrow(asker(client), Path(database), base / "exports")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "exports"
    path.mkdir()
    return path


@pytest.fixture
def every_poll_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "PROGRESS_INTERVAL_S", 0.0)


@pytest.mark.anyio
async def test_all_rows_become_a_csv_file_of_ones_own(database: str, folder: Path) -> None:
    async with Client(build_server(database, export=str(folder))) as client:
        ask = asker(client)
        sql = "select id, name, photo, ? as note from users order by id"
        assert await ask("export_csv", sql=sql, file="users.csv", parameters=['a "b",\nc']) == (
            "wrote users.csv: 2 rows, 66 bytes",
            False,
        )
        result = await client.call_tool("export_csv", {"sql": f"{FOREVER} limit 12345", "file": "n.csv"})
        assert result.structured_content is not None and result.structured_content["rows"] == 12345
    assert (folder / "users.csv").read_bytes() == (
        b'id,name,photo,note\r\n1,Ann,00ff,"a ""b"",\nc"\r\n2,Bob,,"a ""b"",\nc"\r\n'
    )
    assert (folder / "users.csv").stat().st_mode & 0o777 == 0o600
    lines = (folder / "n.csv").read_text(encoding="utf-8").split()
    assert lines == ["n", *map(str, range(1, 12346))]
    assert sorted(os.listdir(folder)) == ["n.csv", "users.csv"]


@pytest.mark.anyio
async def test_over_stdio(database: str, folder: Path) -> None:
    arguments = ["-m", "mcp_servers.sqlite", database, "--export", str(folder)]
    target = StdioServerParameters(command=sys.executable, args=arguments, cwd=REPOSITORY)
    async with Client(target) as client:
        text, is_error = await asker(client)("export_csv", sql="select 1 as a", file="a.csv")
        assert (text, is_error) == ("wrote a.csv: 1 row, 6 bytes", False)
    assert (folder / "a.csv").read_bytes() == b"a\r\n1\r\n"


@pytest.mark.anyio
async def test_the_tool_is_there_only_with_a_folder_and_marked_as_adding(database: str, folder: Path) -> None:
    async with Client(build_server(database, write=True)) as client:
        assert "export_csv" not in {tool.name for tool in (await client.list_tools()).tools}
    async with Client(build_server(database, export=str(folder))) as client:
        (tool,) = (tool for tool in (await client.list_tools()).tools if tool.name == "export_csv")
        assert tool.annotations is not None
        assert (tool.annotations.read_only_hint, tool.annotations.destructive_hint) == (False, False)


def test_a_folder_that_is_none_is_a_start_error(database: str) -> None:
    for path in ("/no/such/folder", database):
        with pytest.raises(StartError, match="cannot open the export folder"):
            build_server(database, export=path)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            ".",
            "..",
            ".csv",
            "../a.csv",
            "/etc/a.csv",
            "a/b.csv",
            "a\\b.csv",
            "a.csv/",
            "C:a.csv",
            "a.csv:x.csv",
        ),
        *("a", "a.txt", "a.csv ", "a.csv\n", "a\0.csv", "a\n.csv", "-a.csv", " a.csv", "~a.csv", "$(x).csv"),
        *("a\u202evsc.csv", "x" * 97 + ".csv", "\u00e9" * 49 + ".csv", "a.csv.", "\ud800.csv", "%2e%2e/a.csv"),
    ],
)
def test_only_a_plain_name_is_taken(name: str) -> None:
    with pytest.raises(ToolFailure, match="end with .csv"):
        check_file_name(name)


@pytest.mark.parametrize("name", ["a.csv", "A-1_b.CSV", "\u00fcbersicht 2026.csv", "a..b.csv", "x" * 96 + ".csv"])
def test_a_plain_name_is_taken_as_it_is(name: str) -> None:
    assert check_file_name(name) == name


@pytest.mark.anyio
async def test_what_has_the_name_already_is_left_alone(database: str, folder: Path, tmp_path: Path) -> None:
    (folder / "file.csv").write_text("old", encoding="utf-8")
    (tmp_path / "outside").write_text("old", encoding="utf-8")
    os.symlink(tmp_path / "outside", folder / "link.csv")
    os.symlink(tmp_path / "nowhere", folder / "dangling.csv")
    (folder / "folder.csv").mkdir()
    before = sorted(os.listdir(folder))
    async with Client(build_server(database, export=str(folder))) as client:
        for name in before:
            text, is_error = await asker(client)("export_csv", sql=TEN, file=name)
            assert is_error and "exists already" in text
    assert sorted(os.listdir(folder)) == before and not (tmp_path / "nowhere").exists()
    assert [(path / "outside").read_text(encoding="utf-8") for path in (tmp_path,)] == ["old"]


def test_a_name_that_is_taken_meanwhile_stays_the_others(folder: Path) -> None:
    exports = ExportFolder(str(folder))
    with pytest.raises(ToolFailure, match="exists already"), exports.new_file("a.csv") as file:
        file.write(b"ours")
        (folder / "a.csv").write_bytes(b"theirs")
    assert (folder / "a.csv").read_bytes() == b"theirs" and os.listdir(folder) == ["a.csv"]


def test_a_folder_that_is_swapped_for_a_link_gets_nothing(folder: Path, tmp_path: Path) -> None:
    exports = ExportFolder(str(folder))
    (tmp_path / "elsewhere").mkdir()
    folder.rename(tmp_path / "moved")
    os.symlink(tmp_path / "elsewhere", folder)
    with exports.new_file("a.csv") as file:
        file.write(b"x")
    assert os.listdir(tmp_path / "moved") == ["a.csv"] and os.listdir(tmp_path / "elsewhere") == []


def test_a_full_disk_leaves_nothing(folder: Path) -> None:
    """A file-size limit makes the kernel refuse the write half way, as a full disk does."""
    exports = ExportFolder(str(folder))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
    try:
        with pytest.raises(ToolFailure, match="Nothing was written"), exports.new_file("a.csv") as file:
            file.write(b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(folder) == []


def test_an_export_that_is_killed_has_no_file_under_its_name(folder: Path) -> None:
    code = (
        "import sys; from mcp_servers.sqlite.exporting import ExportFolder\n"
        f"with ExportFolder({str(folder)!r}).new_file('a.csv') as file:\n"
        "    file.write(b'half a row'); file.flush(); print('written', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == b"written\n"
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    (left,) = os.listdir(folder)
    assert left.startswith(TEMPORARY_PREFIX)
    with ExportFolder(str(folder)).new_file("a.csv") as file:
        file.write(b"x")
    assert (folder / "a.csv").read_bytes() == b"x"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("sql", "hint"),
    [
        ("delete from users", "only reading is possible"),
        ("insert into users(name) values ('x') returning id", "only reading is possible"),
        ("attach ':memory:' as other", "not allowed"),
        ("select load_extension('x')", "not allowed"),
        ("select nam from users", "Did you mean 'name'?"),
        ("select 1; select 2", "one statement"),
        ("select ?", "bindings"),
        ("", "sql is empty"),
        ("select " + ", ".join(["1"] * 101), "101 columns"),
        (FOREVER, "more than 1000 rows"),
        ("select hex(zeroblob(3000))", "larger than 5000 bytes"),
        (FOREVER + " limit 1000 offset 100000000", "longer than 0.5 s"),
        ("select zeroblob(2000000)", "larger than 1048576 bytes"),
        ("select " + ", ".join(["zeroblob(1000000)"] * 50), "Leave a column out"),
    ],
)
async def test_what_cannot_be_exported_leaves_nothing(narrow: Narrow, sql: str, hint: str) -> None:
    before = narrow.database.read_bytes()
    text, is_error = await narrow.ask("export_csv", sql=sql, file="a.csv")
    assert is_error and hint in text
    assert os.listdir(narrow.folder) == []
    assert await narrow.ask("export_csv", sql=TEN, file="a.csv") == ("wrote a.csv: 10 rows, 34 bytes", False)
    (narrow.folder / "a.csv").unlink()
    assert narrow.database.read_bytes() == before


@pytest.mark.anyio
async def test_a_statement_that_looks_at_no_clock_is_killed(
    database: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`instr` of two long strings is one opcode: neither the progress handler nor an interrupt stops it."""
    monkeypatch.setattr(exporting, "GRACE_S", 0.2)
    slow = "instr(hex(zeroblob(400000)), hex(zeroblob(200000)) || ?)"
    sql = "select " + ", ".join([slow] * 60)
    limits = Limits(export_timeout_s=0.3)
    async with Client(build_server(database, export=str(folder), limits=limits)) as client:
        ask = asker(client)
        text, is_error = await ask("export_csv", sql=sql, file="a.csv", parameters=["1"] * 60)
        assert is_error and "longer than 0.3 s" in text
        assert os.listdir(folder) == []
        assert not (await ask("export_csv", sql="select 1", file="a.csv"))[1]


@pytest.mark.anyio
@pytest.mark.usefixtures("every_poll_reports")
async def test_a_long_export_reports_progress_and_leaves_nothing_when_it_is_cancelled(
    database: str, folder: Path
) -> None:
    reports: list[tuple[float, float | None, str | None]] = []
    limits = Limits(export_max_rows=10**9, export_max_bytes=10**9)
    async with Client(build_server(database, export=str(folder), write=True, limits=limits)) as client:
        with anyio.CancelScope() as scope:

            async def report(progress: float, total: float | None, message: str | None) -> None:
                reports.append((progress, total, message))
                if len(reports) == 3:
                    scope.cancel()

            arguments = {"sql": FOREVER.replace("select n from r", "select n from users, r"), "file": "a.csv"}
            await client.call_tool("export_csv", arguments, progress_callback=report)
        assert scope.cancelled_caught
        # The statement held a lock on the file, which ends with its child: within a few waits for it, here.
        insert = {"sql": "insert into users(name) values ('Cid')"}
        assert any([not (await client.call_tool("execute", insert)).is_error for _ in range(5)])
    assert len(reports) >= 3
    assert [progress for progress, _, _ in reports] == sorted({progress for progress, _, _ in reports})
    assert all(
        total == limits.export_timeout_s and message and message.endswith("rows") for _, total, message in reports
    )
    assert os.listdir(folder) == []


@pytest.mark.anyio
@pytest.mark.usefixtures("every_poll_reports")
async def test_queries_go_on_beside_an_export_and_another_export_waits_for_its_turn(
    database: str, folder: Path
) -> None:
    limits = Limits(export_max_rows=10**9, export_max_bytes=10**9)
    started = anyio.Event()

    async def report(progress: float, total: float | None, message: str | None) -> None:
        started.set()

    async with Client(build_server(database, export=str(folder), limits=limits)) as client:
        ask = asker(client)
        async with anyio.create_task_group() as group:

            async def export() -> None:
                await client.call_tool("export_csv", {"sql": FOREVER, "file": "a.csv"}, progress_callback=report)

            group.start_soon(export)
            await started.wait()
            assert await ask("query", sql="select 1 as a") == ("a\n1", False)
            text, is_error = await ask("export_csv", sql=TEN, file="b.csv")
            assert is_error and "Another export is running" in text
            group.cancel_scope.cancel()
    assert os.listdir(folder) == []


@pytest.mark.anyio
async def test_formulas_are_counted_and_left_as_they_are(database: str, folder: Path) -> None:
    connection = sqlite3.connect(database)
    connection.execute("insert into users(name) values ('=cmd|'' /C calc''!A0'), ('@x'), ('x=1')")
    connection.commit()
    connection.close()
    sql = "select name, -id as number from users where id > 2"
    text, is_error = await ask_once(
        build_server(database, export=str(folder)), "export_csv", sql=sql, file="a.csv"
    )
    assert not is_error and "left as they are: 2; in a spreadsheet import the columns as text" in text
    assert (folder / "a.csv").read_bytes() == b"name,number\r\n=cmd|' /C calc'!A0,-3\r\n@x,-4\r\nx=1,-5\r\n"


@pytest.mark.anyio
async def test_bytes_that_are_no_text_are_replaced_and_counted(database: str, folder: Path) -> None:
    sql = "select cast(x'ff41' as text) as a, 'ok' as b"
    text, _ = await ask_once(build_server(database, export=str(folder)), "export_csv", sql=sql, file="a.csv")
    assert "not UTF-8: 1" in text
    assert (folder / "a.csv").read_text(encoding="utf-8") == "a,b\n\ufffdA,ok\n"


@pytest.mark.parametrize("start", [*"=+-@\t\r\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
def test_a_formula_is_a_text_that_begins_like_one(start: str) -> None:
    assert count_formulas([f"{start}1", f"x{start}", -1, -1.5, None, b"=1"]) == 1


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=1, max_size=5)
)
def test_any_texts_are_read_back_as_they_were(values: list[str]) -> None:
    assert list(csv.reader(io.StringIO(csv_line(values), newline=""), strict=True)) == [values]


def test_null_is_empty_and_the_empty_text_is_quoted() -> None:
    assert csv_line([None, "", 1, 1.5, b"\x00\xff"]) == ',"",1,1.5,00ff\r\n'
    assert csv_line([None]) == '""\r\n'
