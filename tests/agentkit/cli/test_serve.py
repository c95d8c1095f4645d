"""`agentkit serve`: a real server of the command line, and what it refuses before it listens."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from agentkit.cli.main import app
from agentkit.cli.serve import SETTINGS_VARIABLE
from agentkit.serving.garbage import YOUNG_OBJECTS
from tests.agentkit.serving.killed_servers import free_port

MODULE = """
from agentkit import Agent, ModelResponse, TextPart
from agentkit.testing import FunctionModel

agent = Agent(FunctionModel(lambda messages, parameters: ModelResponse((TextPart("hello"),))), name="greeter")
number = 7

def make_agent():
    return agent
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delitem(sys.modules, "greeting_app", raising=False)
    # Loading a file lets its folder be searched for modules, by the worker processes of later tests too.
    monkeypatch.setattr(sys, "path", list(sys.path))
    file = tmp_path / "greeting_app.py"
    file.write_text(MODULE)
    return file


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["serve", "greeting_app:make_agent"], "serves greeting_app:make_agent"),
        (["serve", "greeting_app.py:agent", "--workers", "2"], "serves greeting_app.py:agent"),
        (["studio", "greeting_app.py:agent", "--no-open"], "/studio/"),
    ],
)
def test_an_agent_is_served_until_the_server_is_told_to_stop(
    module: Path, tmp_path: Path, arguments: list[str], told: str
) -> None:
    port = free_port()
    command = [str(Path(sys.executable).with_name("agentkit")), *arguments, "--port", str(port)]
    command += ["--journal", str(tmp_path / "new" / "runs.db")]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as server:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:
            wait_for(client, server)
            run_id = client.post("/runs", json={"prompt": "Hi."}).json()["run_id"]
            assert client.get(f"/runs/{run_id}?wait=20").json()["output"] == "hello"
            assert client.get("/studio/").status_code == (200 if arguments[0] == "studio" else 404)
        server.send_signal(signal.SIGTERM)
        said = server.communicate(timeout=30)[1]
    assert f"http://127.0.0.1:{port}" in said and told in said and "Traceback" not in said


def test_the_studio_names_what_it_cannot_show(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(module.parent)
    for arguments, told in (
        (["nothing"], "names no agent"),
        (["greeting_app.py:number"], "is int, not an Agent"),
        (
            ["greeting_app.py:agent", "--model", "local:tiny", "--no-trace"],
            "--model, --no-trace would have no effect",
        ),
    ):
        result = CliRunner().invoke(app, ["studio", *arguments, "--no-open"])
        assert result.exit_code == 1 and told in " ".join(result.output.split())


def wait_for(client: httpx.Client, server: subprocess.Popen[str]) -> None:
    for _ in range(600):
        assert server.poll() is None, server.communicate()[1]
        try:
            if client.get("/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError("the server did not get ready")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nothing"], "'nothing' names no agent: write MODULE:NAME or FILE.py:NAME"),
        (["greeting_app.py:other"], "greeting_app.py has no 'other'; agents in it: agent"),
        (["greeting_app.py:number"], "is int, not an Agent"),
        (["json.py:agent"], "json.py has the name of the module 'json', which is in use: rename the file"),
        (["missing.py:agent"], "there is no file 'missing.py'"),
        (["no_such_module_here:agent"], "there is no module 'no_such_module_here'"),
        (["greeting_app.py:agent", "--host", "0.0.0.0"], "lets other machines run this agent"),
        (["greeting_app.py:agent", "--journal", "postgresql://me:hunter2@[::1/x"], "the DSN cannot be read"),
        (["greeting_app.py:agent", "--key", "web"], "--key 'web': write NAME=VARIABLE"),
        (["greeting_app.py:agent", "--key", "web=UNSET_KEY"], "'UNSET_KEY' with a client's key is empty"),
        (["greeting_app.py:agent", "--key", "web=SHORT_KEY"], "the key of 'web' has 5 characters"),
        (["greeting_app.py:agent", "--key", "a b=LONG_KEY"], "keys='a b': a client's name has"),
    ],
)
def test_what_cannot_be_served_is_named(
    module: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], told: str
) -> None:
    monkeypatch.chdir(module.parent)
    module.with_name("json.py").write_text(MODULE)
    monkeypatch.setenv("SHORT_KEY", "short")
    monkeypatch.setenv("LONG_KEY", "l" * 32)
    result = CliRunner().invoke(app, ["serve", "--journal", str(module.with_suffix(".db")), *arguments])
    assert result.exit_code == 1 and told in " ".join(result.output.split())
    assert "hunter2" not in result.output
    if arguments[0] == "json.py:agent":  # it must not hide the module from processes that start later
        assert str(module.parent) not in sys.path


def test_collections_leave_out_what_an_application_consists_of(
    module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SETTINGS_VARIABLE, "")  # restored afterwards
    n_visited: list[int] = []
    threshold = gc.get_threshold()
    monkeypatch.setattr("uvicorn.run", lambda *_, **__: n_visited.append(len(gc.get_objects())))
    try:
        told = CliRunner().invoke(app, ["serve", f"{module}:agent", "--journal", str(tmp_path / "runs.db")])
        assert told.exit_code == 0, told.output
        assert n_visited[0] < 10_000 < gc.get_freeze_count()
        assert gc.get_threshold() == (YOUNG_OBJECTS, *threshold[1:])
    finally:
        gc.unfreeze()
        gc.set_threshold(*threshold)
