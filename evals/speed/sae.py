"""Sparse autoencoders: quality and speed of our trainer beside SAELens, on the same states, several seeds.

Real states are those of a layer of SmolLM2-135M on the corpus in the package; quality is measured on held-out
documents, with the same code for both programs. Known states are sums of directions that the benchmark drew, so it
can count how many a dictionary found. Programs take turns, each training in its own process. SAELens has an
environment of its own that shares our torch. Our folder is also loaded in SAELens, and outputs are compared.

    python -m evals.speed.sae [--tokens 2000000] [--seeds 3] [--threads 2] [--env .venv-peers-sae] [--work FOLDER]
    modelstack sae features smollm2-135m --sae FOLDER/real-modelstack-0 --out FOLDER/features
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from evals.speed.peers import printed_by
from evals.speed.results import BenchmarkResult, Comparison, Figure, add_result_option, finish
from evals.speed.sae_worker import LOADED, OURS, PEER, SaeTask, task_to_json
from evals.speed.train_peer_packages import peer_python

if TYPE_CHECKING:
    from torch import Tensor

PACKAGES = ("sae-lens==6.54.12",)
REAL, KNOWN = "real", "known"
LEAST_RECOVERED, LEAST_ALIVE = 0.97, 0.95
"""Bounds on real states: loss recovered, and share of latents that fire on held-out text."""
MOST_DIFFERENCE = 1e-4
"""Bound of the difference of outputs of one folder in both programs, over the largest output."""
HELD_OUT, ROW_TOKENS, SKIP_FIRST, EVALUATION_ROWS = 0.05, 512, 1, 64
KNOWN_DIRECTIONS, KNOWN_WIDTH, KNOWN_ACTIVE, KNOWN_BATCH = 1024, 256, 16, 1024
SHOWN = {
    REAL: ("loss_recovered", "explained_variance", "alive", "l0"),
    KNOWN: ("mcc", "f1", "alive", "l0"),
}
"""Figures by part."""
Found = dict[str, list[dict[str, float]]]
"""Figures of each training, by program, in the order of the seeds."""


def real_states(options: argparse.Namespace, file: Path) -> tuple[int, Callable[[Path], dict[str, float]]]:
    """Write states of the model to a file; return their width, and the measurement of a folder."""
    from modelstack.align.sae.hook_point import HookPoint
    from modelstack.align.sae.reconstruction import measured
    from modelstack.align.sae.sae_folder import load_sae, save_sae
    from modelstack.align.sae.state_windows import StateSource
    from modelstack.data.loader import PackedLoader, PackingConfig
    from modelstack.data.shard_writing import SourcedText, write_shards
    from modelstack.data.shards import Shards
    from modelstack.data.shipped_corpus import SHIPPED_CORPUS
    from modelstack.posttrain.starting_point import starting_point
    from modelstack.reasoning.sampling.frozen_model import load_merged
    from modelstack.tokenizer.documents import find_files, sample_documents
    from modelstack.train.process import set_up_process

    set_up_process(options.threads)
    base = load_merged(starting_point(options.model), precision="bf16", device="cpu")
    source = StateSource(
        base.model, HookPoint(layer=options.layer), base.tokenizer.vocabulary.special_ids, SKIP_FIRST
    )
    loaders: list[PackedLoader] = []
    for is_out in (False, True):
        documents = sample_documents(find_files([SHIPPED_CORPUS]), None, held_out=is_out, share=HELD_OUT)
        folder = file.with_suffix(".held-out" if is_out else ".shards")
        write_shards((SourcedText(each.text, each.domain) for each in documents), base.tokenizer, folder)
        packing = PackingConfig(row_tokens=ROW_TOKENS)
        shards = Shards(folder, base.tokenizer)
        loaders.append(PackedLoader(shards, packing, rows_per_batch=1 if is_out else 8))
    n_written = 0
    with file.open("wb") as states:
        while n_written < options.tokens:
            x_ND, _ = source.states(next(loaders[0]))
            x_ND = x_ND[: options.tokens - n_written].bfloat16().contiguous()
            write_states(states, x_ND)
            n_written += len(x_ND)
            print(f"\rstates: {n_written:,} of {options.tokens:,}", end="", flush=True)
    print()
    rows = list(islice(loaders[1], options.rows))

    def measure(folder: Path) -> dict[str, float]:
        saved = load_sae(folder)
        figures, found = measured(source, saved.autoencoder, rows)
        if saved.origin is not None:  # ours: with the values of its latents, `modelstack sae steer` opens it
            densities_F, highest_F = found.density_F, found.highest_F
            save_sae(folder, saved.autoencoder, saved.origin, density_F=densities_F, highest_F=highest_F)
        return figures

    return base.config.hidden_size, measure


def known_states(options: argparse.Namespace, file: Path) -> tuple[int, Callable[[Path], dict[str, float]]]:
    """Write states of a drawn dictionary to a file; return their width, and the measurement of a folder."""
    import torch

    from modelstack.align.sae.known_dictionary import KnownDictionary, recovered
    from modelstack.align.sae.reconstruction import StateTotals
    from modelstack.align.sae.sae_folder import load_sae

    known = KnownDictionary.drawn(KNOWN_DIRECTIONS, KNOWN_WIDTH, active=KNOWN_ACTIVE)
    generator = torch.Generator().manual_seed(0)
    with file.open("wb") as states:
        for start in range(0, options.known_tokens, KNOWN_BATCH):
            write_states(states, known.states(min(KNOWN_BATCH, options.known_tokens - start), generator)[0])
    held_out_ND, _ = known.states(8 * KNOWN_BATCH, torch.Generator().manual_seed(1))

    def measure(folder: Path) -> dict[str, float]:
        autoencoder = load_sae(folder).autoencoder
        totals = StateTotals(KNOWN_WIDTH, KNOWN_DIRECTIONS)
        totals.add(autoencoder, held_out_ND, held_out_ND)
        return totals.figures | asdict(recovered(autoencoder, known))

    return KNOWN_WIDTH, measure


def write_states(file: IO[bytes], x_ND: Tensor) -> None:
    """Append states as raw bfloat16."""
    import torch

    file.write(x_ND.bfloat16().contiguous().view(torch.int16).numpy().tobytes())


def trained(
    part: str, options: argparse.Namespace, python: Path | None, folder: Path
) -> tuple[Found, float | None]:
    """Train each program with each seed in turn; return their figures, and the difference of our folder."""
    file = folder / f"{part}.bf16"
    width, measure = (real_states if part == REAL else known_states)(options, file)
    pythons = {OURS: Path(sys.executable)} | ({} if python is None else {PEER: python})
    found: Found = {program: [] for program in pythons}
    task = _task(part, options, file, width)
    for seed in range(options.seeds):
        for program in list(pythons) if seed % 2 == 0 else list(reversed(pythons)):
            out = folder / f"{part}-{program}-{seed}"
            own = _changed(task, program=program, seed=seed, out=str(out))
            figures = printed_by(pythons[program], "evals.speed.sae_worker", task_to_json(own))
            found[program].append(figures | measure(out))
            told = "  ".join(f"{name} {found[program][-1][name]:.4f}" for name in SHOWN[part])
            print(f"{part} seed {seed} {program:10} {figures['tokens_per_s']:7.0f} tokens/s  {told}", flush=True)
    if python is None:
        return found, None
    ours = _changed(task, program=LOADED, seed=0, out=str(folder / f"{part}-{OURS}-0"))
    return found, printed_by(python, "evals.speed.sae_worker", task_to_json(ours))["difference"]


def _task(part: str, options: argparse.Namespace, file: Path, width: int) -> SaeTask:
    is_real = part == REAL
    tokens, batch = (options.tokens, options.batch) if is_real else (options.known_tokens, KNOWN_BATCH)
    latents = options.latents if is_real else KNOWN_DIRECTIONS
    n_steps = tokens // batch
    return SaeTask(
        program=OURS,
        states=str(file),
        width=width,
        out="",
        latents=latents,
        k=options.k if is_real else KNOWN_ACTIVE,
        tokens=tokens,
        batch=batch,
        rate=options.lr if is_real else options.known_lr,
        warmup=n_steps // 20,
        decay=n_steps // 5,
        seed=0,
        threads=options.threads,
        precision=options.precision,
        **(_origin(options) if is_real else {}),
    )


def _origin(options: argparse.Namespace) -> dict[str, Any]:
    from modelstack.posttrain.starting_point import starting_point

    parent = starting_point(options.model).parent
    weights = {"model": parent.name, "weights_sha256": parent.sha256}
    return {**weights, "layer": options.layer, "row_tokens": ROW_TOKENS, "skip_first": SKIP_FIRST}


def _changed(task: SaeTask, **changes: Any) -> SaeTask:
    return SaeTask(**asdict(task) | changes)


def result_of(part: str, found: Found, difference: float | None) -> BenchmarkResult:
    """Return figures with Student's intervals over seeds, differences to SAELens, and the comparison of speeds."""
    bounds = {"loss_recovered": LEAST_RECOVERED, "alive": LEAST_ALIVE} if part == REAL else {}
    figures: list[Figure] = []
    for name in SHOWN[part]:
        ours = [each[name] for each in found[OURS]]
        label = f"{name.replace('_', ' ')}, {part} states"
        figures.append(_figure(label, ours, bounds.get(name)))
        if PEER in found:
            pairs = zip(ours, (each[name] for each in found[PEER]), strict=True)
            figures.append(_figure(f"{label}, ours - SAELens", [a - b for a, b in pairs], None))
    speeds = {
        program: statistics.median(each["tokens_per_s"] for each in several) for program, several in found.items()
    }
    if PEER in found:
        pairs = zip(found[OURS], found[PEER], strict=True)
        ratios = [a["tokens_per_s"] / b["tokens_per_s"] for a, b in pairs]
        figures.append(_figure(f"speed beside SAELens, {part} states", ratios, 1.0, unit="x"))
    if difference is not None:
        name = f"difference of outputs in SAELens, {part} states"
        figures.append(Figure(name, difference, "of the largest", bound=MOST_DIFFERENCE))
    comparison = Comparison(f"training an autoencoder, {part} states", "tokens/s", OURS, speeds)
    return BenchmarkResult(tuple(figures), (comparison,))


def _figure(name: str, values: Sequence[float], bound: float | None, unit: str = "") -> Figure:
    from modelstack.student import half_width_95

    mean = statistics.fmean(values)
    low, high = (mean - half_width_95(values), mean + half_width_95(values)) if len(values) > 1 else (None, None)
    return Figure(name, mean, unit, low, high, bound, "at least")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 1 if a bound is broken, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=[REAL, KNOWN], default=[REAL, KNOWN])
    parser.add_argument("--only", choices=[OURS], help="leave SAELens out")
    parser.add_argument("--env", type=Path, default=Path(".venv-peers-sae"), help="environment of SAELens")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--layer", type=int, default=15)
    parser.add_argument("--latents", type=int, default=4608)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=2_000_000, help="real states, each learnt once")
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--rows", type=int, default=EVALUATION_ROWS, help="rows of held-out text")
    parser.add_argument("--known-tokens", type=int, default=1_000_000)
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate of both, real states")
    parser.add_argument("--known-lr", type=float, default=3e-3, help="learning rate of both, known states")
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16", help="of our scores")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, help="folder of states and autoencoders, kept; else a temporary one")
    add_result_option(parser)
    options = parser.parse_args(argv)
    python = None if options.only else peer_python(options.env, PACKAGES, with_dependencies=True).absolute()
    figures: list[Figure] = []
    comparisons: list[Comparison] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for part in options.part:
            result = result_of(part, *trained(part, options, python, folder))
            figures += result.figures
            comparisons += result.comparisons
    for figure in figures:
        interval = "" if figure.low is None else f" ({figure.low:.4f} to {figure.high:.4f})"
        print(f"{figure.name}: {figure.value:.4f}{interval} {figure.unit}".rstrip())
    names = (
        "model",
        "layer",
        "latents",
        "k",
        "tokens",
        "batch",
        "known_tokens",
        "lr",
        "known_lr",
        "precision",
        "seeds",
        "threads",
    )
    parameters = {name: str(getattr(options, name)) for name in names}
    return finish(options.result, BenchmarkResult(tuple(figures), tuple(comparisons), parameters=parameters))


if __name__ == "__main__":
    sys.exit(main())
