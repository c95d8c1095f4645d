"""The command that runs all benchmarks, on benchmarks that measure nothing."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import pkgutil
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="needs matplotlib (extra `evals`)")

import evals.speed
from evals.speed import __main__ as command
from evals.speed import machine, registry, running, turns
from evals.speed.machine import Load, busy_warning, describe_machine, git_commit, measure_load
from evals.speed.registry import BENCHMARKS, Benchmark
from evals.speed.results import BenchmarkResult, Figure
from evals.speed.running import (
    ROOT,
    Record,
    child_environment,
    is_finished,
    lines_of,
    read_record,
    run_benchmark,
    status_of,
)

FAKE = '''
"""Counts how often it runs and reports a figure."""
import argparse, os, sys
from pathlib import Path
from evals.speed.results import BenchmarkResult, Comparison, Curves, Figure, add_result_option, write_result

parser = argparse.ArgumentParser()
add_result_option(parser)
parser.add_argument("--value", type=float, default=1.0)
parser.add_argument("--fail", action="store_true")
options = parser.parse_args()
with open(Path(__file__).with_name("runs.txt"), "a") as runs:
    runs.write("x")
print("measuring", os.environ["OMP_NUM_THREADS"], os.environ.get("OMP_WAIT_POLICY"))
if options.fail:
    sys.exit("no such model")
figure = Figure("time", options.value, "ms", bound=2.0)
comparison = Comparison("time of a step", "ms", "agentkit", {"agentkit": options.value, "peer|x": 30.0})
curves = Curves("time along steps", "steps", "ms", (10.0, 50.0), {"agentkit": (1.0, 1.1), "peer|x": (9.0, 30.0)})
write_result(options.result, BenchmarkResult((figure,), (comparison,), (curves,), {"repeats": "5"}))
sys.exit(0 if figure.holds else 1)
'''
RESULT = BenchmarkResult((Figure("time", 3.0, "ms", 2.5, 3.5, bound=2.0),))
QUIET = Load("2026-01-01T00:00:00+00:00", (0.1, 0.1, 0.1), 0.01)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Register one benchmark that measures nothing, and return the output folder."""
    (tmp_path / "fake_benchmark.py").write_text(FAKE, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(machine, "SAMPLE_S", 0.0)
    monkeypatch.setattr(machine, "git_commit", lambda root: "abc")
    for name in list(BENCHMARKS):
        monkeypatch.delitem(registry.BENCHMARKS, name)
    monkeypatch.setitem(
        registry.BENCHMARKS, "fake", Benchmark("fake_benchmark", "nothing", quick=("--value", "0.5"))
    )
    return tmp_path / "out"


def n_runs(out: Path) -> int:
    return len((out.parent / "runs.txt").read_text(encoding="utf-8"))


def record(result: BenchmarkResult | None = RESULT, **changes: Any) -> Record:
    made = Record(
        benchmark="fake", status="bound broken", arguments=(), quick=False, result=result,
        machine=replace(describe_machine(ROOT), commit="abc"), before=QUIET, after=QUIET, wall_s=1.0, exit_code=1,
        environment={}, tail=("last line",),
    )  # fmt: skip
    return replace(made, **changes)


def test_every_module_that_can_be_run_is_in_the_registry() -> None:
    modules = {
        f"evals.speed.{found.name}"
        for found in pkgutil.iter_modules(evals.speed.__path__)
        if found.name != "__main__" and "add_result_option(parser)" in _source(found.name)
    }
    assert modules == {benchmark.module for benchmark in BENCHMARKS.values()}


def _source(name: str) -> str:
    path = Path(evals.speed.__path__[0]) / f"{name}.py"
    return path.read_text(encoding="utf-8").replace("def add_result_option(parser", "")


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_a_registered_benchmark_knows_the_options_that_the_registry_gives_it(name: str) -> None:
    benchmark = BENCHMARKS[name]
    pytest.importorskip("llguidance", reason="needs llguidance (extra `local`)")
    source = inspect.getsource(importlib.import_module(benchmark.module))
    if "add_turns_options(parser" in source:
        source += inspect.getsource(turns.add_turns_options)
    known = set(re.findall(r'add_argument\(\s*"(--[a-z-]+)"', source))
    wanted = {argument for argument in benchmark.quick if argument.startswith("--")}
    wanted |= {"--bfcl"} if benchmark.takes_bfcl else set()
    wanted |= {"--model"} if benchmark.takes_model else set()
    assert wanted <= known


def test_a_run_leaves_record_log_table_and_plots(fake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--out", str(fake)]) == 0
    raw = json.loads((fake / "fake.json").read_text(encoding="utf-8"))
    assert raw["status"] == "ok"
    assert raw["machine"]["packages"]["pydantic"]
    assert {"cpu", "cores", "governor", "commit", "python"} <= set(raw["machine"])
    assert set(raw["before"]) == {"time", "average", "busy_share"}
    kept = read_record(fake / "fake.json")
    assert kept is not None and kept.result is not None
    assert kept.result.figures[0].value == 1.0
    assert (fake / "fake.log").read_text(encoding="utf-8").startswith("measuring ")
    report = (fake / "report.md").read_text(encoding="utf-8")
    assert "| time | 1 ms | at most 2 | ok |" in report
    assert "| peer\\|x | 30 | 30 |" in report
    plots = sorted(path.name for path in (fake / "plots").iterdir())
    assert plots == ["fake-time-along-steps-along-steps.png", "fake-time-of-a-step.png"]
    assert all(f"](plots/{name})" in report for name in plots)
    assert "peer|x" in capsys.readouterr().out
    assert not list(fake.glob("*.part")) and not list(fake.glob("*.result.json"))


def test_what_is_finished_is_kept_only_when_asked_and_unchanged(
    fake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "draw_all", lambda records, folder: {})
    command.main(["--out", str(fake)])
    command.main(["--out", str(fake)])
    assert n_runs(fake) == 2
    command.main(["--out", str(fake), "--resume"])
    assert n_runs(fake) == 2
    command.main(["--out", str(fake), "--resume", "--quick"])  # other arguments
    assert n_runs(fake) == 3


def test_the_benchmarks_are_listed_and_an_unknown_one_is_refused(
    fake: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--list"]) == 0
    assert capsys.readouterr().out.split() == ["fake", "nothing"]
    assert command.main(["fakir", "--out", str(fake)]) == 2
    assert "benchmark 'fakir' is not known; nearest: 'fake'" in " ".join(capsys.readouterr().out.split())
    assert not fake.exists()


def test_a_failing_benchmark_does_not_hide_the_others(
    fake: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(registry.BENCHMARKS, "missing", Benchmark("no_such_module", "nothing"))
    monkeypatch.setitem(registry.BENCHMARKS, "last", Benchmark("fake_benchmark", "nothing"))
    assert command.main(["--out", str(fake)]) == 1
    out = capsys.readouterr().out
    assert "missing: failed" in out and "No module named no_such_module" in out
    assert "last: ok" in out
    report = (fake / "report.md").read_text(encoding="utf-8")
    assert [line for line in report.splitlines() if line.startswith("## ")] == [
        "## fake",
        "## missing failed",
        "## last",
        "## Conditions",
    ]


def test_a_rerun_of_one_benchmark_keeps_the_others_in_the_report(
    fake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry.BENCHMARKS, "last", Benchmark("fake_benchmark", "nothing"))
    command.main(["--out", str(fake)])
    command.main(["last", "--out", str(fake)])
    assert n_runs(fake) == 3
    assert "## fake\n" in (fake / "report.md").read_text(encoding="utf-8")


def test_ratios_to_an_earlier_run_are_printed_and_in_the_report(
    fake: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command.main(["--out", str(fake)])
    monkeypatch.setattr(command, "arguments_of", lambda benchmark, options: ["--value", "1.5"])
    command.main(["--out", str(fake), "--compare", str(fake / "fake.json")])
    assert "| time | 1 ms | 1.5 ms | 1.50 |" in (fake / "report.md").read_text(encoding="utf-8")
    assert "now / before" in capsys.readouterr().out
    assert command.main(["--out", str(fake), "--compare", str(fake / "plots")]) == 2


INTERRUPTING = '''
"""Interrupts the command, as Ctrl-C would, and goes on for ever."""
import os, signal
from pathlib import Path
Path(__file__).with_name("pid.txt").write_text(str(os.getpid()))
os.kill(os.getppid(), signal.SIGINT)
while True:
    signal.pause()
'''
INTERRUPTED = """
import sys
from pathlib import Path
from evals.speed import __main__ as command, machine, registry
machine.SAMPLE_S = 0.0
registry.BENCHMARKS.clear()
for name in ("fake_benchmark", "interrupting", "never"):
    registry.BENCHMARKS[name] = registry.Benchmark(name, "nothing")
sys.exit(command.main(["--out", sys.argv[1]]))
"""


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc")
def test_an_interrupt_ends_the_child_and_keeps_what_is_done(fake: Path) -> None:
    (fake.parent / "interrupting.py").write_text(INTERRUPTING, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(fake.parent), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(fake)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 130, done.stderr
    assert "not measured: interrupting, never" in done.stdout
    assert is_gone(int((fake.parent / "pid.txt").read_text(encoding="utf-8")))
    kept = read_record(fake / "fake_benchmark.json")
    assert kept is not None and kept.status == "ok"
    assert not (fake / "interrupting.json").exists()
    assert "## fake_benchmark" in (fake / "report.md").read_text(encoding="utf-8")


def test_another_commit_or_a_failure_makes_a_record_stale() -> None:
    assert is_finished(record(), [], "abc")
    assert not is_finished(record(), [], "def")
    assert not is_finished(record(machine=replace(record().machine, commit=None)), [], None)
    assert not is_finished(record(), ["--model", "x"], "abc")
    assert not is_finished(record(None, status="failed"), [], "abc")
    assert not is_finished(None, [], "abc")


def test_a_broken_bound_and_a_failure_end_with_1_and_are_in_the_report(
    fake: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "arguments_of", lambda benchmark, options: ["--value", "3"])
    assert command.main(["--out", str(fake)]) == 1
    assert "BROKEN" in (fake / "report.md").read_text(encoding="utf-8")
    monkeypatch.setattr(command, "arguments_of", lambda benchmark, options: ["--fail"])
    assert command.main(["--out", str(fake)]) == 1
    report = (fake / "report.md").read_text(encoding="utf-8")
    assert "## fake failed\n\nExit code 1." in report
    assert "no such model" in report
    assert "no such model" in capsys.readouterr().out


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc")
def test_what_a_benchmark_started_ends_with_it() -> None:
    grandchild = "import signal; signal.pause()"
    child = (
        f"import subprocess as s, sys; p = s.Popen([sys.executable, '-c', {grandchild!r}]); print(p.pid); p.wait()"
    )
    lines = lines_of([sys.executable, "-u", "-c", child], os.environ, [0])
    pid = int(next(lines))
    assert not is_gone(pid)
    lines.close()
    while not is_gone(pid):  # the orphan dies some moments after its parent; a hang is caught by the time-out
        os.sched_yield()


def is_gone(pid: int) -> bool:
    """Say whether a process has ended; one that nobody has reaped yet has."""
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return True


DEAF = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid())
while True:
    signal.pause()
"""


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc")
def test_a_child_that_ignores_the_request_to_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "GRACE_S", 0.01)
    lines = lines_of([sys.executable, "-u", "-c", DEAF], os.environ, [0])
    pid = int(next(lines))
    lines.close()
    assert is_gone(pid)


def test_a_result_that_cannot_be_read_is_a_failure_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torn = """import sys; open(sys.argv[sys.argv.index("--result") + 1], "w").write("{'figures': 3}")"""
    (tmp_path / "torn_benchmark.py").write_text(torn, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(machine, "SAMPLE_S", 0.0)
    told: list[str] = []
    done = run_benchmark(
        "torn", "torn_benchmark", [], tmp_path, describe_machine(ROOT), quick=False, on_line=told.append
    )
    assert (done.status, done.result, told) == ("failed", None, [])
    assert "its result cannot be read" in done.tail[-1]


def test_only_a_broken_bound_explains_exit_code_1() -> None:
    good = BenchmarkResult((Figure("time", 1.0, "ms", bound=2.0),))
    assert status_of(good, 0) == "ok"
    assert status_of(RESULT, 1) == "bound broken"
    assert status_of(RESULT, 0) == "bound broken"
    assert status_of(good, 1) == "failed"
    assert status_of(good, -11) == "failed"
    assert status_of(None, 0) == "failed"


def test_a_record_that_is_damaged_counts_as_none(tmp_path: Path) -> None:
    path = tmp_path / "fake.json"
    assert read_record(path) is None
    path.write_text('{"benchmark": "fake"}', encoding="utf-8")
    assert read_record(path) is None


def test_openmp_settings_of_the_shell_do_not_reach_a_benchmark() -> None:
    ours = {"OMP_NUM_THREADS": "7", "OMP_WAIT_POLICY": "active", "KMP_AFFINITY": "x", "HOME": "/home/a"}
    environment = child_environment(ours, {"OMP_NUM_THREADS": "2"})
    assert environment == {"HOME": "/home/a", "OMP_NUM_THREADS": "2", "PYTHONPATH": str(ROOT)}


def test_a_busy_machine_is_warned_of() -> None:
    assert busy_warning(QUIET, 2) is None
    assert "load average is 1.5" in (busy_warning(replace(QUIET, average=(1.5, 1.0, 1.0)), 2) or "")
    assert busy_warning(replace(QUIET, average=(1.5, 1.0, 1.0)), 8) is None
    assert "90%" in (busy_warning(replace(QUIET, busy_share=0.9), 2) or "")
    assert busy_warning(Load("now", None, None), 2) is None


def test_the_load_is_measured_and_the_commit_of_no_repository_is_none(tmp_path: Path) -> None:
    naps: list[float] = []
    load = measure_load(naps.append)
    assert load.time.endswith("+00:00")
    assert len(naps) <= 1
    assert git_commit(tmp_path) is None


def test_changes_of_tracked_files_are_part_of_the_commit(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    git("init")
    file = tmp_path / "file"
    file.write_text("one", encoding="utf-8")
    git("add", "file")
    git("commit", "-m", "first")
    clean = git_commit(tmp_path)
    assert clean is not None and re.fullmatch("[0-9a-f]{12}", clean)
    file.write_text("two", encoding="utf-8")
    two = git_commit(tmp_path)
    file.write_text("three", encoding="utf-8")
    three = git_commit(tmp_path)
    assert two is not None and three is not None
    assert two.startswith(f"{clean}+") and three.startswith(f"{clean}+")
    assert two != three
