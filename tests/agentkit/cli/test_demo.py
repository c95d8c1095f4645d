"""`agentkit demo`: real tool servers, and the embedded model where it is installed."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from agentkit import FunctionToolset, ModelError
from agentkit.cli import demo
from agentkit.cli.console import output_console
from agentkit.cli.demo import described, problems_of
from agentkit.cli.demo_data import N_ORDERS, write_database, write_notes
from agentkit.cli.demo_tasks import TASKS, numbers_in, unsolved
from agentkit.context import RunContext
from agentkit.mcp.toolset import MCPToolset
from agentkit.messages import ModelMessage, ModelResponse, ToolCallPart
from agentkit.models import resolve
from agentkit.models.catalog import entries
from agentkit.models.catalog.entries import is_present
from agentkit.models.catalog.store import ModelFileError
from agentkit.testing import ScriptedModel, call
from agentkit.tools.tool import Tool
from mcp_servers.filesystem.server import build_server as build_filesystem
from mcp_servers.sqlite.server import build_server as build_sqlite
from mcp_servers.time.server import build_server as build_time
from tests.golden import TERMINAL, on_screen

Run = Callable[..., Any]


def double(n: int) -> int:
    """Double a number."""
    return 2 * n


async def tools() -> dict[str, Tool]:
    return {tool.name: tool for tool in await FunctionToolset([double]).list_tools(RunContext(deps=None))}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("made", "problem"),
    [
        (ToolCallPart("double", '{"n":4}'), None),
        (ToolCallPart("double", '{"n":"four"}'), "invalid arguments"),
        (ToolCallPart("double", '{"n":4,"extra":1}'), "invalid arguments"),
        (ToolCallPart("double", '{"n":4'), "invalid arguments"),
        (ToolCallPart("treble", '{"n":4}'), "is no tool"),
    ],
)
async def test_every_call_is_checked_against_its_tool(made: ToolCallPart, problem: str | None) -> None:
    messages: list[ModelMessage] = [ModelResponse((made,))]
    found = problems_of("completed", messages, await tools())
    assert found == [] if problem is None else problem in found[0]


def test_a_run_must_end_well() -> None:
    assert problems_of("limit_reached", [], {}) == []
    assert problems_of("failed", [], {}) == ["the run ended as 'failed'"]


def test_the_demo_data_is_the_same_everywhere(tmp_path: Path) -> None:
    write_notes(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"todo.md", "meeting.md", "prices.csv"}
    for name in ("a.db", "b.db"):
        write_database(tmp_path / name)
    rows = [
        sqlite3.connect(tmp_path / name).execute("SELECT * FROM orders").fetchall() for name in ("a.db", "b.db")
    ]
    assert rows[0] == rows[1] and len(rows[0]) == N_ORDERS
    assert len({row[3] for row in rows[0]}) == 5 and len({row[1] for row in rows[0]}) == 6


LINES, COLUMNS, DEGREES, PRICE = TASKS
SOLUTION = [
    call("file_info", path="todo.md"), "It has 9 lines.",
    call("describe_table", table="orders"), "They are id, customer_id, day, product, quantity and price_cent.",
    call("convert_units", amount="180", from_unit="degC", to_unit="degF"), "That is 356 degrees Fahrenheit.",
    call("search_text", text="croissant"), call("write_file", path="croissant.txt", text="1.40"), "It is written.",
]  # fmt: skip


@pytest.fixture
def servers_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the demo's servers be in this process: the same code and protocol without 0.5 s of start for each."""
    build = {"filesystem": build_filesystem, "sqlite": build_sqlite, "time": build_time}

    def connected(program: str, name: str, *args: str | Path, id: str, pins: None, trust: Any) -> MCPToolset:
        write = {"write": True} if "--write" in args else {}
        places = [str(arg) for arg in args if arg != "--write"]
        return MCPToolset(build[name](*places, **write), id=id, pins=pins, trust=trust)

    monkeypatch.setattr(MCPToolset, "stdio", connected)


def test_the_demo_runs_its_tasks_on_real_servers(agentkit: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "resolve_model", lambda _: ScriptedModel(SOLUTION))
    done = agentkit("demo", "--model", "test")
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(task.text in " ".join(done.stdout.split()) for task in TASKS)
    assert "● describe_table" in done.stdout
    assert "lines: 9" in done.stdout
    assert done.stdout.count("✓ solved") == 4 and "✗" not in done.stdout
    assert "4 of 4 solved" in done.stdout
    assert re.search(r"the model worked for \d+\.\d s; \d+\.\d s in all", done.stdout)


@pytest.mark.usefixtures("servers_in_this_process")
def test_the_demo_fits_80_columns_on_a_terminal(agentkit: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TERMINAL.items():
        monkeypatch.setenv(name, value)
    wordy = ["no tool needed " * 30, call("search_text", text="butter " * 40), "done", "x", "y"]
    for script in (SOLUTION, wordy):
        model = ScriptedModel(script)
        monkeypatch.setattr(resolve, "resolve_model", lambda _, model=model: model)
        done = agentkit("demo", "--model", "test")
        assert max(map(len, on_screen(done.stdout).splitlines())) <= 80


@pytest.mark.usefixtures("servers_in_this_process")
@pytest.mark.parametrize("n_wrong", [1, 3, 5, 8])
def test_one_wrong_answer_is_exit_status_1(n_wrong: int, agentkit: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    script = [*SOLUTION[:n_wrong], *(["All is well."] if n_wrong < 8 else [""]), *SOLUTION[n_wrong + 1 :]]
    monkeypatch.setattr(resolve, "resolve_model", lambda _: ScriptedModel([*script, "", ""]))
    done = agentkit("demo", "--model", "test")
    assert done.returncode == 1
    assert "3 of 4 solved" in done.stdout


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    write_notes(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "answer",
    ["9", "It has 9 lines.", "**todo.md** has nine lines.", "todo.md: 9 lines"],
)
def test_right_counts_of_lines(answer: str, notes: Path) -> None:
    assert unsolved(LINES, answer, notes) == ""


@pytest.mark.parametrize(
    "answer", ["", "It has 19 lines.", "8", "7 of 9", "9 or 10", "todo.md has lines.", "9.5", "x9"]
)
def test_wrong_counts_of_lines(answer: str, notes: Path) -> None:
    assert unsolved(LINES, answer, notes) != ""


@pytest.mark.parametrize(
    "answer",
    [
        "id, customer_id, day, product, quantity, price_cent",
        "The columns of the table orders are: id, customer_id, day, product, quantity and price_cent.",
        "It has six columns:\n- id\n- customer_id\n- day\n- product\n- quantity\n- price_cent",
        "`id` (INTEGER), `customer_id`, `day`, `product`, `quantity`, and `price_cent`.",
    ],
)
def test_right_columns(answer: str, notes: Path) -> None:
    assert unsolved(COLUMNS, answer, notes) == ""


@pytest.mark.parametrize(
    "answer",
    [
        "The table customers has id 1 and name customers",
        "The table orders has customer_id, product, quantity, price_cent.",
        "id, customer_id, day, product, quantity, price_cent, total",
        "id, name, customer_id, day, product, quantity and price_cent",
        "It has 6 columns.",
    ],
)
def test_wrong_columns(answer: str, notes: Path) -> None:
    assert unsolved(COLUMNS, answer, notes) != ""


@pytest.mark.parametrize(
    ("answer", "is_right"),
    [
        ("180 degrees Celsius are 356 degrees Fahrenheit.", True),
        ("356 °F", True),
        ("356.0", True),
        ("180", False),
        ("82.2 degrees", False),
        ("about 350 to 356", False),
    ],
)
def test_degrees(answer: str, is_right: bool, notes: Path) -> None:
    assert (unsolved(DEGREES, answer, notes) == "") is is_right


@pytest.mark.parametrize(
    ("text", "is_right"),
    [("1.40", True), ("1.4 euros\n", True), ("A croissant costs 1.40 EUR.", True), ("1,40", True),
     ("2.30", False), ("1.40 and 2.30", False), ("the price", False), ("", False)],
)  # fmt: skip
def test_the_price_must_stand_in_the_file(text: str, is_right: bool, notes: Path) -> None:
    assert unsolved(PRICE, "It costs 1.40 and is written.", notes) == "there is no file 'croissant.txt'"
    (notes / "croissant.txt").write_text(text, encoding="utf-8")
    assert (unsolved(PRICE, "It is written.", notes) == "") is is_right


def test_damage_to_other_notes_is_no_solution(notes: Path) -> None:
    (notes / "croissant.txt").write_text("1.40", encoding="utf-8")
    assert unsolved(LINES, "9", notes) == "'croissant.txt' was made, which nobody asked for"
    (notes / "extra.txt").touch()
    assert unsolved(PRICE, "Done.", notes) == "'extra.txt' was made, which nobody asked for"
    (notes / "prices.csv").write_text("", encoding="utf-8")
    assert unsolved(PRICE, "Done.", notes) == "'prices.csv' was changed"
    (notes / "todo.md").unlink()
    assert unsolved(LINES, "9", notes) != ""


def test_numbers_are_read_in_digits_and_small_words() -> None:
    assert numbers_in("nine of 12.5, not 3,5 or one, a2 b") == {9.0, 12.5, 3.5}


@pytest.mark.usefixtures("servers_in_this_process")
def test_the_demo_fails_where_a_run_fails(agentkit: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ScriptedModel([ModelError("broken"), call("list_tables", unknown=1), "no idea", "356", "Done."])
    monkeypatch.setattr(resolve, "resolve_model", lambda _: model)
    done = agentkit("demo", "--model", "test")
    assert done.returncode == 1
    assert "ModelError: broken" in done.stdout
    assert "a call of 'list_tables' with invalid arguments" in done.stdout
    assert "there is no file 'croissant.txt'" in done.stdout
    assert "1 of 4 solved" in done.stdout


@pytest.mark.usefixtures("servers_in_this_process")
def test_the_demo_says_which_model_took_the_place_of_the_one_asked_for(
    agentkit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = ModelFileError("no source has it")
    monkeypatch.setattr(demo, "usable_model", lambda name, output: ("local:smollm2-135m", failure))
    monkeypatch.setattr(resolve, "resolve_model", lambda _: ScriptedModel(SOLUTION))
    done = agentkit("demo")
    said = " ".join(done.stdout.split())
    assert "local:small cannot be fetched, so local:smollm2-135m does the tasks: no source has it" in said
    assert "Model: smollm2-135m" in said
    assert done.returncode == 0


def test_a_profile_that_cannot_be_fetched_leaves_the_tasks_to_the_tiny_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pull(spec: str, **_: object) -> Path:
        if spec != "smollm2-135m":
            raise ModelFileError("no source has it")
        return tmp_path / "tiny.gguf"

    monkeypatch.setenv("AGENTKIT_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(entries, "pull", pull)
    name, failure = demo.usable_model("local:small", output_console())
    assert name == "local:tiny" and str(failure) == "no source has it"


def test_what_can_be_expected_of_a_model_is_said() -> None:
    assert re.search(
        r"smollm2-135m .* It gets \d+ of 60 requests .* right .*: expect wrong answers", described("local:tiny")
    )
    assert described("openai:gpt") == "Model: openai:gpt."


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed")
@pytest.mark.skipif(not is_present("smollm2-135m"), reason="agentkit models pull smollm2-135m")
def test_the_embedded_model_makes_valid_calls_and_its_exit_status_is_what_it_shows(
    agentkit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "TASKS", (LINES, COLUMNS))
    done = agentkit("demo", "--model", "local:tiny")
    n_solved = done.stdout.count("✓ solved")
    assert done.stdout.count("✗ not solved") == 2 - n_solved, done.stdout + done.stderr
    assert f"{n_solved} of 2 solved" in done.stdout
    assert done.returncode == (0 if n_solved == 2 else 1)
    assert n_solved >= 1
    assert "invalid arguments" not in done.stdout and "which is no tool" not in done.stdout
    assert "reused" in done.stdout and "forced" in done.stdout


def test_make_demo_installs_what_the_demos_servers_need() -> None:
    makefile = (Path(__file__).parents[3] / "Makefile").read_text(encoding="utf-8")
    installed = re.search(r"^\$\(VENV\)/\.local:.*?-e \"\.\[(.*?)\]\"", makefile, re.MULTILINE | re.DOTALL)
    assert installed and installed[1].split(",") == ["local", "servers"]
