"""The LoRA benchmark compares equal work on equal rows, in turns, and promises its speed beside peft's default."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from evals.speed.lora_programs import IGNORED, OURS, PEER, PEER_AT_LABELS, Lengths, Task, batches, n_tokens, ready
from evals.speed.lora_throughput import TINY, check_equal_work, main, measure, result_of
from evals.speed.lora_worker import task_from_json, task_to_json
from evals.speed.registry import BENCHMARKS
from evals.speed.results import BenchmarkResult
from evals.speed.running import read_result
from evals.speed.turns import Measured, Turns

pytestmark = pytest.mark.skipif(find_spec("peft") is None, reason="needs peft (extra `dev`)")


def measured(*seconds: float, first: float = 4.0, n_parameters: int = 1000, falls: bool = True) -> Measured:
    losses = [first, 3.0, 2.0, 1.0] if falls else [first] * 4
    return Measured(n_parameters, 900.0, losses, [[s] for s in seconds], peak_mib=100.0)


def test_rows_are_prompts_padding_and_a_target_that_can_be_learnt() -> None:
    lengths = Lengths(rows=3, shortest=20, longest=30, labelled=5)
    for rows in batches(lengths, vocabulary=100):
        n = rows.is_token_BT.sum(1)
        assert n.max() == 30 and n.min() >= 20
        assert ((rows.labels_BT != IGNORED).sum(1) == 5).all()
        assert (rows.ids_BT[~rows.is_token_BT] == 0).all()
        for row in range(3):
            target = slice(int(n[row]) - 5, int(n[row]))
            assert rows.labels_BT[row, target].tolist() == rows.ids_BT[row, :5].tolist()
    assert 60 <= n_tokens(lengths) <= 90


@pytest.mark.filterwarnings("ignore")  # transformers' and peft's own; the worker ignores them too
def test_all_programs_begin_and_go_on_with_the_same_losses() -> None:
    losses = {}
    for program in (OURS, PEER, PEER_AT_LABELS):
        n_parameters, step = ready(Task(program, TINY, None))
        losses[program] = [step() for _ in range(5)]
        assert n_parameters == 2 * 16 * (4 * 64 + 2 * (64 + 32) + 3 * (64 + 96))
    for program in (PEER, PEER_AT_LABELS):
        assert losses[program] == pytest.approx(losses[OURS], rel=0.01)


def test_other_work_is_not_compared() -> None:
    check_equal_work({OURS: measured(1.0), PEER: measured(1.0, first=4.05)})
    with pytest.raises(RuntimeError, match=r"peft trains 1001 parameters and ours 1000"):
        check_equal_work({OURS: measured(1.0), PEER: measured(1.0, n_parameters=1001)})
    with pytest.raises(RuntimeError, match=r"begins with a loss of 4\.2000 and ours of 4\.0000"):
        check_equal_work({OURS: measured(1.0), PEER: measured(1.0, first=4.2)})
    with pytest.raises(RuntimeError, match="does not learn"):
        check_equal_work({OURS: measured(1.0), PEER: measured(1.0, falls=False)})


def test_the_promise_is_beside_pefts_default_and_taken_turn_by_turn() -> None:
    found = {OURS: measured(1.0, 20.0), PEER: measured(1.2, 24.0), PEER_AT_LABELS: measured(1.1, 22.0)}
    result = result_of(found, base="toy")
    by_name = {figure.name: figure for figure in result.figures}
    default, at_labels = by_name[f"speed beside {PEER}"], by_name[f"speed beside {PEER_AT_LABELS}"]
    assert (default.value, default.low, default.high) == pytest.approx((1.2, 1.2, 1.2))
    assert (default.bound, default.holds) == (1.3, False)
    assert at_labels.value == pytest.approx(1.1) and at_labels.bound is None
    assert "toy" in result.comparisons[0].title
    assert result.comparisons[0].values[OURS] == pytest.approx(900 / 10.5)


def test_a_task_survives_its_way_to_the_worker() -> None:
    for gguf in (None, Path("/models/base.gguf")):
        task = Task(PEER, Lengths(rows=2), gguf)
        assert task_from_json(task_to_json(task)) == task


@dataclass(frozen=True)
class ShortRun:
    """The short run of the registry."""

    status: int
    result: BenchmarkResult
    turns: Turns
    measured: dict[str, Measured]


@pytest.fixture(scope="module")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> ShortRun:
    path = tmp_path_factory.mktemp("short_run") / "result.json"
    seen: list[tuple[Turns, dict[str, Measured]]] = []

    def observed(tasks: Sequence[Task], turns: Turns, threads: int) -> dict[str, Measured]:
        seen.append((turns, measure(tasks, turns, threads)))
        return seen[-1][1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evals.speed.lora_throughput.measure", observed)
        status = main([*BENCHMARKS["lora_throughput"].quick, "--threads", "1", "--result", str(path)])
    [(turns, found)] = seen
    return ShortRun(status, read_result(path), turns, found)


@pytest.mark.slow
def test_programs_in_their_own_processes_take_turns(short_run: ShortRun) -> None:
    turns = short_run.turns
    assert short_run.measured.keys() == {OURS, PEER, PEER_AT_LABELS}
    for one in short_run.measured.values():
        assert [len(turn) for turn in one.seconds] == [turns.n_steps] * turns.n_turns == [2, 2]
        assert len(one.values) == turns.n_warm + 2 * 2
        assert one.peak_mib > 100


@pytest.mark.slow
def test_the_short_run_of_the_registry_writes_a_result(short_run: ShortRun) -> None:
    assert short_run.status in (0, 1)
    names = {figure.name for figure in short_run.result.figures}
    assert {f"speed beside {PEER}", f"speed beside {PEER_AT_LABELS}"} <= names


def test_without_the_model_it_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("evals.speed.lora_throughput._default_model", lambda: None)
    assert main([]) == 2
    assert "agentkit models pull smollm2-135m" in capsys.readouterr().out
