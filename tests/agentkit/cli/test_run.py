"""`agentkit run`, in processes of its own and with real tool servers."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentkit.cli.options import mcp_toolsets
from agentkit.errors import UserError
from agentkit.messages import ModelResponse, TextPart
from agentkit.testing import ScriptedModel

Run = Callable[..., Any]


def test_the_answer_goes_to_stdout_and_the_cards_to_stderr(
    agentkit_process: Run, server: Callable[..., str]
) -> None:
    done = agentkit_process("run", "Say hello", "--model", "test", "--mcp", server("echo"))
    assert done.returncode == 0
    assert json.loads(done.stdout) == {"echo": {"result": "hello"}}
    assert "● echo {}" in done.stderr and "echo: success" in done.stderr
    assert "2 model requests · 1 tool call " in done.stderr


def test_a_reached_limit_is_exit_status_3(agentkit: Run, server: Callable[..., str]) -> None:
    done = agentkit("run", "Say hello", "--model", "test", "--mcp", server("echo"), "--max-steps", "2")
    assert done.returncode == 3
    assert "request_limit=2 is reached" in done.stderr


@pytest.mark.parametrize(
    ("reason", "status", "code", "notice"),
    [
        ("length", "truncated", 7, "cut off at the model's token limit"),
        ("content_filter", "filtered", 8, "filter"),
    ],
)
def test_an_answer_that_is_not_whole_has_a_status_of_its_own_and_a_notice(
    agentkit: Run, monkeypatch: pytest.MonkeyPatch, reason: Any, status: str, code: int, notice: str
) -> None:
    response = ModelResponse((TextPart("The answer is"),), finish_reason=reason)
    monkeypatch.setattr("agentkit.models.resolve.resolve_model", lambda _name, **_: ScriptedModel([response]))
    done = agentkit("run", "x", "--model", "test")
    assert (done.returncode, done.stdout.strip()) == (code, "The answer is")
    assert notice in done.stderr
    done = agentkit("run", "x", "--model", "test", "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["status"], report["output"]) == (code, status, "The answer is")


def test_json_is_all_that_is_printed(agentkit: Run, server: Callable[..., str], tmp_path: Path) -> None:
    arguments = ("--model", "test", "--mcp", server("echo"), "--trace-dir", str(tmp_path / "t"), "--json")
    done = agentkit("run", "Say hello", *arguments)
    report = json.loads(done.stdout)
    assert done.stderr == "" and done.returncode == 0
    assert report["status"] == "completed" and report["usage"]["tool_calls"] == 1
    assert report["tool_calls"] == [
        {"tool_name": "echo", "arguments": "{}", "probability": None, "result": "hello", "is_error": False}
    ]
    assert Path(report["trace"]).is_file()


def test_an_error_is_one_line_and_exit_status_1(agentkit_process: Run) -> None:
    done = agentkit_process("run", "x", "--model", "tost")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: model 'tost' is not known; did you mean 'test'?")
    assert done.stderr.count("\n") == 1


def test_an_error_with_json_is_json_too(agentkit: Run) -> None:
    done = agentkit("run", "x", "--model", "tost", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["type"] == "UserError"


def test_debug_shows_the_traceback(agentkit_process: Run) -> None:
    done = agentkit_process("--debug", "run", "x", "--model", "tost")
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_a_server_that_cannot_start_is_named(agentkit: Run) -> None:
    done = agentkit("run", "x", "--model", "test", "--mcp", "no-such-command --flag")
    assert done.returncode == 1 and "no-such-command" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_that_nobody_listens_on_is_named(agentkit: Run) -> None:
    done = agentkit("run", "x", "--model", "http://127.0.0.1:9/v1#none", "--no-trace")
    assert done.returncode == 1 and "127.0.0.1:9" in done.stderr and done.stderr.count("\n") == 1


def test_hostile_tool_output_does_not_reach_the_terminal(agentkit: Run, server: Callable[..., str]) -> None:
    done = agentkit("run", "x", "--model", "test", "--mcp", server("hostile"))
    assert done.returncode == 0
    assert not any(c in done.stdout + done.stderr for c in "\x1b\x9b\x07\u202e")
    assert "[bold red]not markup[/bold red]evil" in done.stderr


def test_two_servers_with_the_same_tool_need_a_prefix(agentkit: Run, server: Callable[..., str]) -> None:
    both = ("--mcp", server("echo"), "--mcp")
    assert agentkit("run", "x", "--model", "test", *both, server("echo")).returncode == 1
    done = agentkit("run", "x", "--model", "test", *both, f"b={server('echo')}")
    assert done.returncode == 0 and "● b_echo" in done.stderr


def test_a_configuration_file_names_servers(agentkit: Run, tmp_path: Path, server: Callable[..., str]) -> None:
    python, *arguments = shlex.split(server("echo"))
    config = tmp_path / "servers.json"
    config.write_text(json.dumps({"mcpServers": {"one": {"command": python, "args": arguments}}}))
    done = agentkit("run", "x", "--model", "test", "--mcp", str(config))
    assert done.returncode == 0 and "● echo" in done.stderr


@pytest.mark.parametrize(
    ("value", "message"),
    [("", "the MCP server is empty"), ("a 'b", "No closing quotation"), ("missing.json", "does not exist")],
)
def test_a_value_of_mcp_that_cannot_be_used_says_why(value: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        mcp_toolsets(value)


def test_ctrl_c_ends_the_run_and_its_server(server: Callable[..., str], tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    command = [sys.executable, "-m", "agentkit.cli.main", "run", "x", "--model", "test"]
    command += ["--mcp", server("wait", str(pid_file))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None and child.stdout is not None
        assert any("● wait {}" in line for line in child.stderr)
        child.send_signal(signal.SIGINT)
        assert "stopped" in child.stderr.read()
        assert child.stdout.read() == ""
    assert child.returncode == 130
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text(encoding="ascii")), 0)


def test_no_trace_is_kept_unless_wanted(agentkit: Run, tmp_path: Path) -> None:
    assert agentkit("run", "x", "--model", "test", "--no-trace").returncode == 0
    assert not (tmp_path / "traces").exists()
    assert agentkit("run", "x", "--model", "test").returncode == 0
    assert len(list((tmp_path / "traces").iterdir())) == 1


def test_help_loads_nothing_heavy(agentkit: Run) -> None:
    code = (
        "import sys, agentkit.cli.main; "
        "print([m for m in ('mcp', 'httpx', 'llama_cpp', 'torch', 'numpy', 'rich.console') if m in sys.modules])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
    assert "doctor" in agentkit("--help").stdout
    assert agentkit("--version").stdout.startswith("agentkit ")


def test_the_second_of_two_runs_finds_its_prompt_on_disk(
    agentkit_process: Run, tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTKIT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("AGENTKIT_PROMPT_CACHE_MB", "64")
    told = "Answer in one sentence, and say so if you do not know the answer or are not sure of it. " * 2
    options = ("--model", f"local:{tiny_gguf}", "--max-steps", "1", "--instructions", told)
    first, second = (agentkit_process("run", "Say hello", *options) for _ in range(2))
    assert "from disk" not in first.stderr and "prompt 0 reused + " in first.stderr
    assert re.search(r"prompt (\d+) reused \(\1 from disk\) \+ \d+ prefilled, first token \d", second.stderr)
    assert second.stdout == first.stdout


def test_the_task_is_read_from_standard_input(agentkit: Run) -> None:
    done = agentkit("run", "-", "--model", "test", "--json", stdin="Twice four?\n")
    assert done.returncode == 0
    run_id = json.loads(done.stdout)["run_id"]
    assert "Twice four?" in agentkit("trace", "show", run_id).stdout
    empty = agentkit("run", "-", "--model", "test", stdin=" \n")
    assert empty.returncode == 1 and "standard input is empty" in empty.stderr
