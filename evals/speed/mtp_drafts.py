"""Drafts by a model's module for multi-token prediction, beside llama.cpp's (`draft-mtp`) on the same GGUF file.

The model is a checkpoint with such a module, for example that of `modelstack train nano-mtp`; without one, this
recipe is trained for a few steps first. The weights are exported in float32. Texts that the model was not
trained on are continued greedily, one at a time, by each program with and without drafts, each in a process of
its own. Printed are the shares of equal replies and of accepted draft tokens, the tokens of a step of the
model, and the speed in CPU time with drafts, relative to the same program without.

    modelstack train nano-mtp
    python -m evals.speed.mtp_drafts --model runs/nano-mtp/model [--peer]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.speed.json_process import JsonProcess
from evals.speed.model_forward import ratio_of
from evals.speed.peers import peer_python
from evals.speed.results import BenchmarkResult, Comparison, Figure, add_result_option, finish
from evals.speed.running import ROOT, child_environment
from evals.speed.serving_peers import ENVIRONMENTS
from modelstack.architecture.gguf.export import export_gguf
from modelstack.commands.tokenizer import HELD_OUT
from modelstack.data.shipped_corpus import SHIPPED_CORPUS
from modelstack.posttrain.base import Base, load_base
from modelstack.tokenizer.documents import find_files, is_held_out, read_documents
from modelstack.tokenizer.gguf_tokenizer import gguf_fields

OURS, ALWAYS, PEER = "torch", "torch, always", "llama.cpp server"
"""Programs: the engine as it is, made to draft in every step, and the peer."""
N_PROMPT = 32


@dataclass(frozen=True, slots=True)
class Written:
    """Answers of a program, with or without drafts."""

    version: str
    answers: list[dict[str, Any]]

    @property
    def replies(self) -> list[list[int]]:
        """The replies."""
        return [answer["reply"] for answer in self.answers]

    @property
    def n_accepted(self) -> int:
        """Number of draft tokens that became part of a reply."""
        return sum(answer["n_accepted"] for answer in self.answers)

    @property
    def acceptance(self) -> float:
        """Share of the drafted tokens that were accepted."""
        return self.n_accepted / max(1, sum(answer["n_drafted"] for answer in self.answers))

    @property
    def tokens_per_step(self) -> float:
        """Tokens of the replies for each step of the model."""
        n_tokens = sum(len(reply) for reply in self.replies)
        return n_tokens / (n_tokens - self.n_accepted)

    @property
    def token_s(self) -> list[float]:
        """CPU seconds per token of each reply."""
        return [answer["cpu_s"] / len(answer["reply"]) for answer in self.answers]


def trained(folder: Path, n_steps: int) -> Path:
    """Return the checkpoint of the recipe `nano-mtp`, trained for some steps."""
    schedule = f"schedule={{warmup_steps={n_steps // 20}, decay_steps={max(1, n_steps // 2)}}}"
    recipe = ["nano-mtp", f"steps={n_steps}", schedule, "--out", str(folder / "run")]
    subprocess.run([sys.executable, "-m", "modelstack", "train", *recipe], check=True, stdout=sys.stderr)
    return folder / "run" / "model"


def prompts_of(base: Base, n_prompts: int) -> list[list[int]]:
    """Return the beginnings of held-out documents of the shipped corpus, as many from each of its parts."""
    files = find_files([SHIPPED_CORPUS])
    found: list[list[int]] = []
    for file in files:
        texts = (each.text for each in read_documents(file) if is_held_out(each.text, HELD_OUT))
        beginnings = (base.tokenizer.encode(text)[:N_PROMPT] for text in texts)
        whole = (ids for ids in beginnings if len(ids) == N_PROMPT)
        found += [ids for _, ids in zip(range(-(-n_prompts // len(files))), whole, strict=False)]
    return found[:n_prompts]


def written(
    command: Sequence[str], name: str, environment: dict[str, str], errors: Path, asked: Sequence[str]
) -> Written:
    """Return what a program writes; the first request is sent twice, and its first answer is not counted."""
    with JsonProcess(command, name, environment, errors=errors) as process:
        process.ask(asked[0])
        return Written(process.first["version"], [process.ask(line) for line in asked])


def report(found: dict[str, tuple[Written, Written]], model: str) -> BenchmarkResult:
    """Print the measurements, and return them; the pair of a program is without and with drafts."""
    figures, comparisons = list[Figure](), list[Comparison]()
    for name, (plain, drafting) in found.items():
        ratio, low, high = ratio_of(drafting.token_s, plain.token_s)
        n_equal = sum(one == other for one, other in zip(plain.replies, drafting.replies, strict=True))
        print(
            f"{name:18} {drafting.acceptance:.3f} of the drafted tokens accepted, {drafting.tokens_per_step:.2f} "
            f"tokens a step, {ratio:.2f}x ({low:.2f}-{high:.2f}) the speed without, {n_equal} of "
            f"{len(plain.replies)} replies as without",
            flush=True,
        )
        figures.append(Figure(f"{name}: drafted tokens accepted", drafting.acceptance, ""))
        figures.append(Figure(f"{name}: replies as without drafts", n_equal / len(plain.replies), ""))
        figures.append(Figure(f"{name}: speed with drafts", ratio, "x", low, high))
    steps = {name: drafting.tokens_per_step for name, (_, drafting) in found.items()}
    comparisons.append(Comparison("tokens a step", "tokens", OURS, steps))
    if PEER in found:
        ours, theirs = (found[name][1].replies for name in (OURS, PEER))
        n_equal = sum(one == other for one, other in zip(ours, theirs, strict=True))
        print(f"{n_equal} of {len(ours)} replies are the same in both programs")
        figures.append(Figure("replies equal to the peer's", n_equal / len(ours), ""))
    versions = {name: plain.version for name, (plain, _) in found.items()}
    return BenchmarkResult(tuple(figures), tuple(comparisons), parameters={"model": model} | versions)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a checkpoint folder with a module")
    parser.add_argument("--steps", type=int, default=300, help="steps of training, without --model")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--prompts", type=int, default=36)
    parser.add_argument("--tokens", type=int, default=64, help="tokens of a reply")
    parser.add_argument("--peer", action="store_true", help="measure llama.cpp's server too")
    parser.add_argument("--envs", type=Path, default=ROOT, help="folder of the peer's environment")
    add_result_option(parser)
    options = parser.parse_args(argv)

    script = Path(__file__).with_name("mtp_programs.py")
    openmp = {"OMP_NUM_THREADS": str(options.threads), "OMP_WAIT_POLICY": "PASSIVE"}
    found: dict[str, tuple[Written, Written]] = {}
    with tempfile.TemporaryDirectory(prefix="mtp-drafts.") as folder:
        model: Path = options.model or trained(Path(folder), options.steps)
        base = load_base(model)
        if base.model.mtp is None:
            print(f"{model} has no module for multi-token prediction", file=sys.stderr)
            return 1
        prompts = prompts_of(base, options.prompts)
        asked = [json.dumps({"prompt": ids, "n_reply": options.tokens}) for ids in prompts]
        file = Path(folder, "model.gguf")
        export_gguf(base.config, base.model.state_dict(), gguf_fields(base.tokenizer), file, type_name="f32")
        try:
            for name in (OURS, ALWAYS, *([PEER] if options.peer else [])):
                settings, python = child_environment(os.environ, openmp), Path(sys.executable)
                if name == PEER:
                    wanted = ENVIRONMENTS["llama-cpp"]
                    python = peer_python(options.envs.resolve() / ".venv-peers-serving-llama-cpp", wanted.packages)
                    del settings["PYTHONPATH"]
                command = [str(python), "-P", str(script), name, str(file), "--threads", str(options.threads)]
                errors = Path(folder, f"{name}.log")
                plain, drafting = (
                    written([*command, *more], name, settings, errors, asked) for more in ([], ["--drafts"])
                )
                found[name] = plain, drafting
        except (RuntimeError, subprocess.CalledProcessError) as error:
            print(error, file=sys.stderr)
            return 1
    name = f"nano-mtp, {options.steps} steps" if options.model is None else str(options.model)
    return finish(options.result, report(found, name))


if __name__ == "__main__":
    raise SystemExit(main())
