"""A run's tasks on datatrove's executors: the same bytes as on this machine, also where workers are killed."""

from __future__ import annotations

import html
import json
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from modelstack.commands import data
from modelstack.data.pipeline.executors import run_on
from modelstack.data.pipeline.recipe import DataRecipe
from modelstack.data.pipeline.report import write_report
from modelstack.data.pipeline.run import claim, run_recipe
from modelstack.data.shipped_corpus import domain_file
from modelstack.errors import UserError
from modelstack.recipe_file import checked_recipe, read_recipe
from modelstack.shipped_recipes import shipped_recipe
from modelstack.tokenizer.documents import read_documents
from tests.modelstack.data.reading.made_warc import http, record, warc

FINEWEB = shipped_recipe("data/run/fineweb").path
RANK = "ray::RankWorker.run_for_rank"
"""Title of a Ray worker that runs ranks for datatrove, and of the processes that it forks."""
of_datatrove = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def recipe(folder: Path, *steps: str, n: int = 6) -> DataRecipe:
    """Return the recipe of one file with n documents, half of them twice."""
    folder.mkdir(exist_ok=True)
    lines = [json.dumps({"text": f"text {i // 2} of many"}) for i in range(n)]
    (folder / "0.jsonl").write_text("\n".join(lines) + "\n")
    kinds = [{"kind": step} for step in steps]
    return checked_recipe(
        DataRecipe, {"name": "test", "inputs": [{"kind": "jsonl", "path": folder}], "steps": kinds}
    )


def outputs(run: Path) -> dict[Path, bytes]:
    """Return the files of a run but the executors' logs and the temporary files of killed processes."""
    paths = [path.relative_to(run) for path in run.rglob("[!.]*") if path.is_file()]
    return {path: (run / path).read_bytes() for path in paths if path.parts[0] != "logs"}


def write_crawl(folder: Path) -> None:
    """Write two files of a crawl: pages of prose, one twice, one with a word changed, one that is too short."""
    texts = [each.text for each in read_documents(domain_file("prose")) if 3_000 < len(each.text) < 12_000][:20]
    texts[3] = texts[12]
    texts[10] = texts[13].replace(" the ", " that ", 1)
    texts[5] = "Too short to be kept."
    texts[8] += "\n\nWrite to somebody@example.com for the rest of this long and winding story."
    folder.mkdir()
    for number in range(2):
        pages = [http(page(text)) for text in texts[number::2]]
        warc(folder, [record(n, each) for n, each in enumerate(pages)]).rename(folder / f"{number}.warc.gz")


def page(text: str) -> bytes:
    paragraphs = "".join(f"<p>{html.escape(part)}</p>" for part in text.split("\n") if part.strip())
    return f"<html><body><article>{paragraphs}</article></body></html>".encode()


def with_few_tasks(fineweb: DataRecipe) -> DataRecipe:
    """Return the recipe with three buckets of MinHash instead of 14: a bucket is a task, and a task a process.

    At two tasks a job, the buckets keep two workers busy.
    """
    steps = [
        each.model_copy(update={"n_buckets": 3}) if each.kind == "minhash" else each for each in fineweb.steps
    ]
    return fineweb.model_copy(update={"steps": tuple(steps)})


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.timeout(600)
@of_datatrove
@pytest.mark.usefixtures("two_ray_workers")
def test_fineweb_on_two_ray_workers_gives_the_bytes_of_a_local_run(tmp_path: Path) -> None:
    write_crawl(tmp_path / "crawl")
    crawl = f'inputs=[{{kind="warc", path="{tmp_path}/crawl/*.warc.gz"}}]'
    fineweb = with_few_tasks(read_recipe(DataRecipe, FINEWEB, [crawl]))
    phases = run_recipe(fineweb, tmp_path / "local")
    counts = write_report(fineweb, tmp_path / "local", phases)
    assert counts["n_documents_read"] == 20 and 8 < counts["n_documents"] < 18
    options = ["workers=2", "mem_per_cpu_gb=0.5", "tasks_per_job=2"]
    assert run_on("ray", fineweb, tmp_path / "ray", options)
    write_report(fineweb, tmp_path / "ray", run_recipe(fineweb, tmp_path / "ray"))
    assert outputs(tmp_path / "ray") == outputs(tmp_path / "local")


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@of_datatrove
@pytest.mark.usefixtures("two_ray_workers")
def test_the_command_runs_on_ray_and_writes_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe(tmp_path / "raw")
    text = f'name = "test"\ninputs = [{{kind = "jsonl", path = "{tmp_path}/raw"}}]\n'
    (tmp_path / "recipe.toml").write_text(text, encoding="utf-8")
    given, out = [str(tmp_path / "recipe.toml")], tmp_path / "run"
    with pytest.raises(UserError, match="--with is for --on ray or slurm"):
        data.run(given, out, options=["workers=2"])
    data.run(given, out, workers=2, on="ray", options=["mem_per_cpu_gb=0.5"])
    assert "6 documents read, 6 kept" in capsys.readouterr().out
    assert (out / "report.md").is_file() and (out / "logs" / "01-documents").is_dir()


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@of_datatrove
@pytest.mark.usefixtures("two_ray_workers")
def test_tasks_that_fail_end_the_run_and_the_next_one_does_them(tmp_path: Path) -> None:
    made, run = recipe(tmp_path / "raw"), tmp_path / "run"
    run.mkdir()
    claim(made, run)
    (run / "01-documents").touch()  # where the phase needs a folder
    with pytest.raises(UserError, match="1 of 1 tasks of 01-documents did not end; their logs are in .*logs"):
        run_on("ray", made, run, ["mem_per_cpu_gb=0.5"])
    assert "FileExistsError" in "".join(file.read_text() for file in (run / "logs").rglob("*.log"))
    (run / "01-documents").unlink()
    assert run_on("ray", made, run, ["mem_per_cpu_gb=0.5"])


def children(parents: set[int]) -> dict[int, str]:
    """Return the titles of the processes whose parent is one of these."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent in parents:
                found[int(folder.name)] = (folder / "cmdline").read_text().strip("\0 ")
        except (OSError, ValueError):  # no process, or one that has ended
            continue
    return found


def has_ended(pid: int) -> bool:
    """Return whether a process has ended; a zombie, which only waits for its parent to ask, has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


class Killer(threading.Thread):
    """Kills a process of the only task of a phase, before the task's record is there."""

    def __init__(self, victim: int, record: Path) -> None:
        """Take the Ray worker (0), or the process that it starts for the task (1)."""
        super().__init__(daemon=True)
        self.victim, self.record = victim, record
        self.family: list[int] = []

    def run(self) -> None:
        while not self.record.exists():
            below = children(set(children({os.getpid()})))  # of Ray's own process among them
            actors = {pid for pid, title in below.items() if title == RANK}
            started = {pid for pid, title in children(actors).items() if "spawn_main" in title}
            family = [*actors, *started, *children(started)]
            if len(family) == 3:  # the third watches the two others
                os.kill(family[1], signal.SIGSTOP)
                if self.record.exists():
                    os.kill(family[1], signal.SIGCONT)
                    return
                os.kill(family[self.victim], signal.SIGKILL)
                self.family = family
                return
            time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
@of_datatrove
@pytest.mark.usefixtures("two_ray_workers")
@pytest.mark.parametrize("victim", [0, 1], ids=["a Ray worker", "the process that it starts"])
def test_a_killed_worker_loses_nothing(tmp_path: Path, victim: int) -> None:
    made = recipe(tmp_path / "raw", n=20_000)
    run_recipe(made, tmp_path / "local")
    killer = Killer(victim, tmp_path / "ray" / "01-documents" / "00000.json")
    killer.start()
    assert run_on("ray", made, tmp_path / "ray", ["workers=2", "mem_per_cpu_gb=0.5"])
    killer.join()
    assert killer.family, "the task had ended before its process was seen"
    assert all(has_ended(pid) for pid in killer.family)
    assert outputs(tmp_path / "ray") == outputs(tmp_path / "local")


SBATCH = """#!/bin/bash
echo "$@" >> "$SUBMITTED"
script="${@: -1}"
if grep -q launch_pickled_pipeline "$script"; then
    last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$script")
    for task in $(seq 0 "$last"); do
        SLURM_NODELIST=here RUN_OFFSET=0 SLURM_ARRAY_TASK_ID=$task bash "$script" >> "$SUBMITTED.log" 2>&1
    done
fi
echo Submitted batch job $(wc -l < "$SUBMITTED")
"""
"""A stand-in for Slurm: the tasks of a job run one after the other when it is submitted."""


@pytest.mark.slow
@of_datatrove
def test_the_jobs_for_slurm_wait_for_each_other_and_do_a_runs_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = {"sbatch": SBATCH, "srun": '#!/bin/bash\nexec "${@:4}"\n', "scontrol": "#!/bin/bash\necho here\n"}
    for name, text in programs.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    path = [str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]]
    monkeypatch.setenv("PATH", os.pathsep.join(path))
    monkeypatch.setenv("SUBMITTED", str(tmp_path / "submitted"))
    made = recipe(tmp_path / "raw", "lines")
    run_recipe(made, tmp_path / "local")
    options = ["time=01:00:00", "partition=cpu"]
    assert not run_on("slurm", made, tmp_path / "slurm", options)
    assert outputs(tmp_path / "slurm") == outputs(tmp_path / "local"), (tmp_path / "submitted.log").read_text()
    # A job of a phase and one that adds up its statistics; a phase waits for the one before.
    submitted = (tmp_path / "submitted").read_text(encoding="utf-8").splitlines()[::2]
    waits = [re.findall(r"--dependency=afterok:(\d+)", line) for line in submitted]
    assert waits == [[], *([str(2 * n + 1)] for n in range(len(waits) - 1))] and len(waits) > 2
    assert run_on("slurm", made, tmp_path / "slurm", options)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cloud", [], "known: local, ray, slurm"),
        ("slurm", ["time"], "give key=value"),
        ("slurm", ["queue=long"], "'queue' is no option of slurm"),
        ("ray", ["skip_completed=1"], "'skip_completed' is no option of ray"),
        ("slurm", ["time=01:00:00"], "needs --with partition=..."),
        ("slurm", ["time=01:00:00", "partition=cpu"], "sbatch, which is not on this machine"),
    ],
)
@of_datatrove
def test_an_unknown_executor_or_option_is_refused(
    tmp_path: Path, name: str, options: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=message):
        run_on(name, recipe(tmp_path / "raw"), tmp_path / "run", options)
