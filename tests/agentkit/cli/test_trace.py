"""`agentkit trace`: what it says of runs that really happened."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentkit import Agent, AgentRunError, ModelError, ModelResponse, UsageLimits
from agentkit.cli.main import app
from agentkit.messages import DecodingStats, TextPart, ToolCallPart
from agentkit.testing import ScriptedModel

CALL = ToolCallPart("double", '{"n":4}', probability=0.75, alternatives=(("halve", 0.2),))
DECODING = DecodingStats(reused_tokens=310, prefilled_tokens=12, sampled_tokens=9, forced_tokens=21)

ANY = UsageLimits()


def double(n: int) -> int:
    """Double a number."""
    return 2 * n


def trace(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["trace", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def run(tmp_path: Path, *script: ModelResponse | Exception, limits: UsageLimits = ANY) -> str:
    agent = Agent(ScriptedModel(script), tools=[double], trace=tmp_path / "traces", limits=limits)
    return agent.run_sync("What is twice four?").run_id


def test_runs_are_counted(tmp_path: Path) -> None:
    calling = ModelResponse((CALL,), decoding=DECODING)
    for _ in range(3):
        run(tmp_path, calling, ModelResponse((TextPart("Eight."),), p_answer=0.9))
    with pytest.raises(AgentRunError):
        run(tmp_path, ModelError("down"))
    wrong = ToolCallPart("double", '{"n":"x"}')
    run(tmp_path, ModelResponse((wrong,)), ModelResponse((TextPart("Eight."),)))
    shown = json.loads(trace("stats", "--json"))
    (model,), (tool,) = shown["models"], shown["tools"]
    assert model["statuses"] == {"completed": 4, "failed": 1} and model["median_tool_choice"] == 0.75
    assert tool["outcomes"] == {"success": 3, "retry": 1} and tool["success_share"] == 0.75
    assert shown["guardrails"] == []


def test_where_there_is_nothing_to_count_it_says_so(tmp_path: Path) -> None:
    assert "no traces in" in trace("stats")


def test_a_trace_that_cannot_be_read_does_not_hide_the_others_from_the_count(tmp_path: Path) -> None:
    run_id = run(tmp_path, ModelResponse((TextPart("Eight."),)))
    (tmp_path / "traces" / "run_bad.jsonl").write_text("no json\n")
    shown = trace("stats")
    assert "completed=1" in shown and "run_bad" in shown and run_id


def test_a_run_is_shown_step_by_step(tmp_path: Path) -> None:
    calling = ModelResponse((CALL,), decoding=DECODING)
    run_id = run(tmp_path, calling, ModelResponse((TextPart("Eight."),), p_answer=0.9))
    shown = trace("show", run_id)
    for expected in (
        run_id,
        "What is twice four?",
        "310 reused + 12 prefilled, reply 9 sampled + 21 forced tokens",
        '● double {"n":4}  p 0.75 (else halve 0.20)',
        "double: success",
        "chose no tool, p 0.90",
        "Eight.",
        "completed · 2 model requests · 1 tool call ·",
        "tool choice 0.75",
    ):
        assert expected in shown


def test_the_beginning_of_an_id_is_enough(tmp_path: Path) -> None:
    run_id = run(tmp_path, ModelResponse((TextPart("Eight."),)))
    assert "Eight." in trace("show", run_id[:8])


def test_runs_are_listed_with_how_they_ended(tmp_path: Path) -> None:
    run(tmp_path, ModelResponse((TextPart("Eight."),)))
    run(
        tmp_path, ModelResponse((CALL,)), ModelResponse((TextPart("Eight."),)), limits=UsageLimits(request_limit=2)
    )
    with pytest.raises(AgentRunError):
        run(tmp_path, ModelError("broken"))
    listed = trace("list")
    assert all(status in listed for status in ("completed", "limit_reached", "failed"))
    assert len(json.loads(trace("list", "--limit", "1", "--json"))) == 1


def test_a_failed_run_says_why(tmp_path: Path) -> None:
    with pytest.raises(AgentRunError):
        run(tmp_path, ModelError("the server is on fire"))
    (path,) = (tmp_path / "traces").iterdir()
    assert "failed · ModelError: the server is on fire" in trace("show", path.stem)


def test_a_run_that_was_killed_is_unfinished(tmp_path: Path) -> None:
    run_id = run(tmp_path, ModelResponse((TextPart("Eight."),)))
    path = tmp_path / "traces" / f"{run_id}.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]) + lines[2][:20])
    assert "unfinished" in trace("show", run_id)
    assert "unfinished" in trace("list")


def test_one_bad_file_does_not_hide_the_others(tmp_path: Path) -> None:
    run_id = run(tmp_path, ModelResponse((TextPart("Eight."),)))
    (tmp_path / "traces" / "run_bad.jsonl").write_text("not json\n")
    listed = trace("list")
    assert run_id in listed and "line 1 is not an event" in listed


def test_an_unknown_run_is_exit_status_1(tmp_path: Path) -> None:
    run(tmp_path, ModelResponse((TextPart("Eight."),)))
    result = CliRunner().invoke(app, ["trace", "show", "run_zzz"])
    assert result.exit_code == 1 and "matches 0 traces" in result.output


def test_no_traces_are_said_to_be_none(tmp_path: Path) -> None:
    assert "no traces in" in trace("list", "--trace-dir", str(tmp_path / "empty"))
