"""`agentkit doctor URL`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentkit.cli import endpoint_report
from agentkit.cli.main import app
from tests.agentkit.models.endpoint_check.pretended_endpoint import KEY, MODEL, PretendedEndpoint, running
from tests.golden import PIPE, TERMINAL, on_screen

pytestmark = pytest.mark.xdist_group("pretended endpoint")
runner = CliRunner()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[PretendedEndpoint]:
    with running(PretendedEndpoint(KEY)) as found:
        yield found


@pytest.fixture(autouse=True)
def key_and_no_lies(endpoint: PretendedEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint.lies = set()
    monkeypatch.setenv("PRETENDED_KEY", KEY)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def doctor(endpoint: PretendedEndpoint, *words: str, env: dict[str, str] | None = None) -> tuple[str, int]:
    command = ["doctor", endpoint.url, "--key-env", "PRETENDED_KEY", *words]
    result = runner.invoke(app, command, env=env or PIPE)
    return result.output, result.exit_code


def test_a_good_endpoint_gets_a_table_and_the_line_that_makes_its_model(endpoint: PretendedEndpoint) -> None:
    output, status = doctor(endpoint, env=TERMINAL)
    shown = on_screen(output)
    assert status == 0
    assert max(map(len, shown.splitlines())) <= 80
    assert "tool_choice required          holds          held 3 of 3\n" in shown
    assert "An agent can run on this endpoint.\n" in shown
    assert shown.rstrip().endswith(
        "OpenAICompatibleModel(\n"
        f'    "{MODEL}",\n'
        f'    base_url="{endpoint.url}",\n'
        '    api_key=os.environ["PRETENDED_KEY"],\n'
        "    profile=ModelProfile(\n"
        "        logprobs=True,\n"
        "        prefix_cache=True,\n"
        "        context_window=4096,\n"
        "        native_output=True,\n"
        "    ),\n"
        ")"
    )


def test_the_key_is_shown_nowhere_although_the_server_repeats_it(endpoint: PretendedEndpoint) -> None:
    endpoint.lies = {"the key is repeated", "system prompts are dropped"}
    for words in ((), ("--json",)):
        output, status = doctor(endpoint, *words)
        assert status == 0 and KEY not in output and "[secret]" in output


def test_a_pipe_gets_plain_lines(endpoint: PretendedEndpoint) -> None:
    output, status = doctor(endpoint)
    lines = output.splitlines()
    assert status == 0 and "\x1b" not in output
    assert lines[0] == "title\tverdict\tdetail" and "tool calls\tholds\theld 3 of 3" in lines


def test_a_program_gets_json(endpoint: PretendedEndpoint) -> None:
    endpoint.lies = {"no calls beside a schema"}
    output, status = doctor(endpoint, "--json")
    report = json.loads(output)
    assert status == 0
    assert (report["model"], report["end"], report["can_run"]) == (MODEL, "complete", True)
    assert report["dialect"]["output_with_tools"] is False and report["profile"]["context_window"] == 4096
    found = {finding["id"]: finding for finding in report["findings"]}
    beside = found["calls beside a schema"]
    assert (beside["verdict"], beside["n_held"], beside["n_asked"]) == ("fails", 0, 3)
    assert report["n_requests"] > 80


def test_an_endpoint_without_tools_gives_status_1(endpoint: PretendedEndpoint) -> None:
    endpoint.lies = {"tools are refused"}
    output, status = doctor(endpoint)
    assert status == 1
    assert (
        "No agent with tools can run on this endpoint: it makes no tool calls (refused: 400: tools are" in output
    )


def test_nothing_there_is_one_finding_and_status_1() -> None:
    result = runner.invoke(app, ["doctor", "http://127.0.0.1:9/v1", "--model", "m"], env=PIPE)
    assert result.exit_code == 1
    assert "reachable\tfails\tConnectError: " in result.output and "ended early" in result.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ftp://h/v1"], "base_url='ftp://h/v1' is no http or https address"),
        (["http://user:pw@h/v1"], "may hold no credentials"),
        (
            ["http://h/v1", "--key-env", "NO_SUCH_VARIABLE"],
            "--key-env NO_SUCH_VARIABLE: the environment has no such",
        ),
        (["--key-env", "PRETENDED_KEY"], "agentkit doctor URL --key-env PRETENDED_KEY"),
    ],
)
def test_a_wrong_option_is_an_error_with_the_fix(words: list[str], said: str) -> None:
    result = runner.invoke(app, ["doctor", *words], env=PIPE)
    assert result.exit_code == 1 and said in " ".join(result.output.split())


def test_the_key_of_openai_goes_to_no_other_host(
    endpoint: PretendedEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    output = runner.invoke(app, ["doctor", endpoint.url], env=PIPE).output
    assert "text\tunknown\t401" in output
    assert endpoint_report._key(None, is_openai=True) == ("OPENAI_API_KEY", KEY)
    assert endpoint_report._key(None, is_openai=False) == (None, None)
    assert endpoint_report._key("PRETENDED_KEY", is_openai=False) == ("PRETENDED_KEY", KEY)


@pytest.mark.skipif(os.name == "nt", reason="needs SIGINT")
def test_ctrl_c_keeps_what_was_found(endpoint: PretendedEndpoint, tmp_path: Path) -> None:
    endpoint.lies = {"it hangs at tools"}
    with (tmp_path / "output").open("w+", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "agentkit.cli.main", "doctor", endpoint.url, "--key-env", "PRETENDED_KEY"],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | PIPE,
        )
        try:
            assert endpoint.is_hanging.wait(60)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
        finally:
            process.kill()
            endpoint.lies = set()
    shown = (tmp_path / "output").read_text(encoding="utf-8")
    assert "usage\tholds\t" in shown and "tool calls" not in shown
    assert "The check was interrupted; what is missing was not asked." in shown
    assert "tools were not checked yet" in shown and "Traceback" not in shown
