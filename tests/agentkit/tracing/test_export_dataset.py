"""A file of examples from a folder of traces: which runs, in which order, and the file itself."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentkit import Agent, ModelError, UsageLimits, UserError
from agentkit.messages import ModelResponse, TextPart
from agentkit.testing import ScriptedModel, TestModel, call
from agentkit.tracing.evidence import Reason
from agentkit.tracing.export import RunChoice, export_examples
from mcp_servers.distribution import install_command
from modelstack.data.examples import read_examples
from tests.agentkit.tracing.traced_runs import Runs, add, double, targets


def test_runs_that_did_not_end_well_are_left_out_whole(runs: Runs) -> None:
    runs.run(call("double", n=4), ModelError("broken"))
    runs.run(call("double", n=4), "Eight.", limits=UsageLimits(request_limit=2))
    killed = runs.folder / f"{runs.run('Hello.', prompt='Hi')}.jsonl"
    killed.write_text("".join(killed.read_text().splitlines(keepends=True)[:-1]))
    good = runs.run("Eight.")
    examples, report = runs.export()
    assert [example.id for example in examples] == [f"{good}-1"]
    assert report.runs_left_out == {"failed": 1, "limit_reached": 1, "unfinished": 1}
    assert (report.n_runs, report.n_replies) == (4, 1)


def test_a_run_that_goes_on_from_another_is_left_out(runs: Runs) -> None:
    agent = Agent(ScriptedModel(["Eight.", "Nine."]), trace=runs.folder)
    agent.run_sync("And one more?", message_history=agent.run_sync("Twice four?").messages)
    examples, report = runs.export()
    assert targets(examples) == ["Eight."]
    assert list(report.runs_left_out.elements()) == [
        "goes on from earlier runs, whose messages its trace does not hold"
    ]


def test_a_trace_from_before_schemas_were_kept_is_left_out(runs: Runs) -> None:
    runs.edit(runs.run("Eight."), "model_request", lambda event: event.pop("tools"))
    examples, report = runs.export()
    assert not examples
    assert list(report.runs_left_out.elements()) == ["older trace, which does not hold the tools' schemas"]


@pytest.mark.parametrize(
    "text", ["", "not json\n", '{"version":1,"time":1,"event_kind":"limit_reached","limit":"x"}\n']
)
def test_one_bad_file_does_not_hide_the_others(runs: Runs, text: str) -> None:
    runs.run("Eight.")
    (runs.folder / "run_bad.jsonl").write_text(text)
    examples, report = runs.export()
    assert targets(examples) == ["Eight."] and report.n_runs == 2
    (told,) = report.unreadable
    assert "run_bad.jsonl" in told


def test_a_trace_that_is_damaged_later_on_gives_nothing(runs: Runs) -> None:
    good = runs.run("Eight.")
    damaged = runs.folder / f"{runs.run(call('double', n=4), 'Eight.')}.jsonl"
    lines = damaged.read_text().splitlines(keepends=True)
    damaged.write_text("".join([*lines[:-1], "not json\n", lines[-1]]))
    joined = runs.folder / f"{runs.run('Nine.')}.jsonl"
    joined.write_text(joined.read_text() * 2)
    early = runs.folder / f"{runs.run(call('double', n=5), 'Ten.')}.jsonl"
    lines = early.read_text().splitlines(keepends=True)
    early.write_text("".join([lines[0], *lines[3:]]))
    examples, report = runs.export()
    assert [example.id for example in examples] == [f"{good}-1"]
    assert len(report.unreadable) == report.runs_left_out["trace that cannot be read"] == 3


def test_a_second_trace_of_a_run_gives_nothing(runs: Runs) -> None:
    text = (runs.folder / f"{runs.run('Eight.')}.jsonl").read_text()
    (runs.folder / "run_copy.jsonl").write_text(text.replace("Eight.", "Nine."))
    examples, report = runs.export()
    assert len(examples) == 1 and report.runs_left_out == {"second trace of the same run": 1}


def test_runs_are_chosen_by_id_by_model_and_by_time(runs: Runs) -> None:
    old, new, other = (runs.run(f"{n}", name=name, prompt=f"{n}?") for n, name in enumerate(("a", "a", "b")))
    for at, run_id in enumerate((old, new, other)):
        runs.edit(run_id, "run_started", lambda event, at=at: event.update(time=1000.0 + at))

    def chosen(**choice: Any) -> list[str]:
        return [example.id.removesuffix("-1") for example in runs.export(RunChoice(**choice))[0]]

    assert chosen() == [old, new, other]
    assert chosen(run_ids=(other, old, old)) == [old, other]
    assert chosen(model_name="a") == [old, new]
    assert chosen(since=1001.0) == [new, other]
    assert chosen(model_name="a", since=1001.0) == [new]
    with pytest.raises(UserError, match=r"none of the 3 runs is as chosen; their models are \['a', 'b'\]"):
        chosen(model_name="c")
    with pytest.raises(UserError, match="matches 0 traces"):
        chosen(run_ids=("run_zzz",))


def test_order_does_not_depend_on_when_files_were_touched(runs: Runs) -> None:
    ids = [runs.run(f"{n}", prompt=f"{n}?") for n in range(3)]
    runs.export()
    before = runs.out.read_bytes()
    for at, run_id in enumerate(reversed(ids)):
        os.utime(runs.folder / f"{run_id}.jsonl", (at, at))
    assert [example.id for example in runs.export()[0]] == [f"{run_id}-1" for run_id in ids]
    assert runs.out.read_bytes() == before


def test_the_same_context_and_reply_come_once(runs: Runs) -> None:
    for reply in ("Eight.", "Eight.", "8"):
        runs.run(reply)
    runs.run("Eight.", tools=())
    examples, report = runs.export()
    assert targets(examples) == ["Eight.", "8", "Eight."]
    assert report.replies_left_out == {Reason.DUPLICATE: 1}


def test_only_the_last_reply_of_a_run_where_that_is_wanted(runs: Runs) -> None:
    runs.run(call("double", n=4), "Eight.")
    runs.run(call("double", n=4), ModelResponse((TextPart("Eig"),), finish_reason="length"))
    examples, report = runs.export(last_only=True)
    assert targets(examples) == ["Eight."]
    assert report.replies_left_out == {Reason.NOT_LAST: 2, Reason.CUT: 1}


def test_runs_of_the_test_model_become_examples(runs: Runs) -> None:
    Agent(TestModel(), tools=[double, add], trace=runs.folder).run_sync("x")
    assert [example.kind for example in runs.export()[0]] == ["multi", "answer"]


def test_the_licence_is_the_users_word(runs: Runs) -> None:
    runs.run("Eight.")
    assert runs.export(license_id="CC-BY-4.0")[0][0].license == "CC-BY-4.0"
    with pytest.raises(UserError, match="licence is empty"):
        runs.export(license_id=" ")


def test_a_compressed_file_holds_the_same(runs: Runs) -> None:
    runs.run(call("double", n=4), "Eight.")
    plain = runs.export()[0]
    runs.out = runs.out.with_suffix(".jsonl.zst")
    assert runs.export()[0] == plain
    assert runs.out.read_bytes()[:4] == b"\x28\xb5\x2f\xfd"


def test_compression_that_is_not_installed_is_named(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    runs.run("Eight.")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(UserError, match=rf"zstandard is not installed; {re.escape(install_command('train'))}"):
        runs.write(out=runs.out.with_suffix(".jsonl.zst"))
    assert runs.export()[0]


def test_without_what_checks_calls_the_extra_is_named(runs: Runs) -> None:
    runs.run(call("double", n=4), "Eight.")
    code = (
        "import sys; sys.modules['numpy'] = None\n"
        "from pathlib import Path\n"
        "from agentkit.tracing.export import export_examples\n"
        "export_examples(Path(sys.argv[1]), Path(sys.argv[2]), license_id='MIT')"
    )
    done = subprocess.run([sys.executable, "-c", code, runs.folder, runs.out], capture_output=True, text=True)
    assert f"UserError: checking calls needs numpy: {install_command('train')}" in done.stderr
    assert not runs.out.exists()


def test_only_its_owner_can_read_it_and_it_replaces_what_was_there(runs: Runs) -> None:
    runs.run("Eight.")
    runs.out.write_text("old")
    runs.write()
    assert stat.S_IMODE(runs.out.stat().st_mode) == 0o600
    assert len(list(read_examples(runs.out))) == 1


def test_without_a_good_reply_nothing_is_written(runs: Runs) -> None:
    runs.run(" ")
    runs.out.write_text("old")
    assert not runs.write().written
    assert runs.out.read_text() == "old"


def test_a_failure_on_the_way_leaves_nothing_behind(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    runs.run(call("double", n=4), "Eight.")
    runs.out.write_text("old")
    written = os.fsync

    def full(descriptor: int) -> None:
        written(descriptor)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="cannot be written: No space left on device"):
        runs.write()
    assert runs.out.read_text() == "old"
    assert {path.name for path in runs.out.parent.iterdir()} == {"traces", "examples.jsonl"}


def test_an_interruption_on_the_way_leaves_nothing_behind(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    runs.run(call("double", n=4), "Eight.")

    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        runs.write()
    assert {path.name for path in runs.out.parent.iterdir()} == {"traces"}


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("run_0", "ends neither in .jsonl nor in .jsonl.zst"),
        ("traces/run_x.jsonl", "would be taken for a trace"),
        ("missing/x.jsonl", "cannot be written: No such file"),
        ("folder.jsonl", "cannot be written: Is a directory"),
    ],
)
def test_a_name_that_cannot_be_written_says_why(runs: Runs, out: str, message: str) -> None:
    runs.run("Eight.")
    (runs.folder.parent / "folder.jsonl").mkdir()
    with pytest.raises(UserError, match=message):
        runs.write(out=runs.folder.parent / out)


def test_an_evaluations_log_is_never_trained_on(runs: Runs, tmp_path: Path) -> None:
    log = tmp_path / "log.eval"
    log.touch()
    with pytest.raises(UserError, match="for measuring, never for training"):
        export_examples(log, runs.out, license_id="MIT")


def test_a_folder_without_traces_says_so(runs: Runs) -> None:
    with pytest.raises(UserError, match="there are no traces in"):
        runs.write()
