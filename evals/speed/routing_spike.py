"""A routing spike that plain roll-backs meet repeatedly and anticipatory routing (DeepSeek-V4) avoids.

V4's report (arXiv 2606.19348) says that outliers in MoE layers and routing amplify each other, and that routing by
weights of some steps earlier breaks the cycle. A toy of this size does not enter that cycle by itself. Routers
with 10 to 1000 times the learning rate (with AdamW or plain gradient descent) spike once and settle within about
twenty steps, and older routing does not help them. The cycle itself is therefore injected. During a window of
steps, every router is perturbed after a step in proportion to the tokens whose experts changed since the previous
step because routers changed (`RoutingFeedback`): changed choices create outliers, and outliers change routers. The
benchmark therefore measures the mechanism, not how often it occurs: a feedback loop with a gain above 1 per
iteration, where an iteration takes 1 step, or dt + 1 steps.

Three runs per seed, with the same data and initial weights: without a spike; with a spike, guard and roll-backs;
and with anticipatory routing from the first roll-back on. The losses on rows unseen in training are compared. The
cost of routing ahead is timed separately, on a larger model: steps with and without it, interleaved.

    OMP_NUM_THREADS=1 python -m evals.speed.routing_spike

Letters: B rows, T tokens, V vocabulary, N = B * T, D model width.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evals.speed.results import BenchmarkResult, Comparison, Curves, Figure, add_result_option, write_result
from modelstack.architecture.config import ModelConfig, build
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.initialise import initialise
from modelstack.architecture.losses import next_token_labels, total_loss
from modelstack.architecture.moe.layer import MoE
from modelstack.architecture.moe.router import TopKRouter
from modelstack.data.batches import Batch
from modelstack.stability.anticipatory import (
    AnticipatoryConfig,
    AnticipatoryLoader,
    AnticipatoryRouting,
    Choices,
    chosen_now,
)
from modelstack.stability.guard import Guard, GuardConfig
from modelstack.stability.run_checkpoints import LocalStore
from modelstack.stability.supervisor import GuardedRun, SupervisorConfig, TrainingStopped
from modelstack.train.loop import LoopConfig, Run, train
from modelstack.train.step import StepReport, local_state, train_step

B, T, V = 8, 32, 128
SURPRISE = 0.1
"""Share of random tokens, which do not follow from the one before."""
N_STEPS, N_WARMUP, N_DECAY = 300, 20, 60
SPIKE = range(100, 140)
"""Steps after which routers are perturbed."""
GAIN = 8.0
"""Size of a perturbation in standard deviations of a router's weights if all choices change; makes the loop's gain
exceed 1."""
DELAY, HEALTHY = 8, 60
SAVE_EVERY = 10
GUARD = GuardConfig(window=64, warmup=32, skips_in_a_row=3)
HELD_OUT = 10**6
"""Position of the rows that are not used in training."""
N_HELD_OUT = 40
WITHIN = 1.01
"""Maximum ratio to the clean run's loss that counts as recovered."""

CLEAN, PLAIN, AHEAD = WAYS = ("no spike", "roll-back", "anticipatory routing")


def toy(**changes: Any) -> ModelConfig:
    """Return a configuration with tied embeddings, so that only the experts can learn which token follows."""
    n_layers = changes.get("num_hidden_layers", 2)
    return build(
        {
            "model_type": "qwen3_moe",
            "vocab_size": V,
            "hidden_size": 16,
            "num_hidden_layers": n_layers,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "layer_types": ("full_attention",) * n_layers,
            "mlp_layer_types": ("moe",) * n_layers,
            "n_routed_experts": 16,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "scoring_func": "sigmoid",
            "score_correction_bias": True,
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.5,
            "tie_word_embeddings": True,
            "initializer_range": 0.1,
            **changes,
        }
    )


class Successors:
    """A loader of text in which each token has one successor, drawn by the seed, and some tokens are random."""

    def __init__(self, seed: int, position: int = 0) -> None:
        """Start at a position of a seed's text."""
        self.seed, self.position = seed, position
        self.successor_V = torch.randperm(V, generator=torch.Generator().manual_seed(seed))

    def __iter__(self) -> Iterator[Batch]:
        """Yield the next batches."""
        while True:
            generator = torch.Generator().manual_seed(self.seed * 2 * HELD_OUT + self.position)
            drawn_TB = torch.randint(0, V, (T + 1, B), generator=generator)
            surprising_TB = torch.rand(T + 1, B, generator=generator) < SURPRISE
            column = drawn_TB[0]
            columns = [column]
            for drawn, surprising in zip(drawn_TB[1:], surprising_TB[1:], strict=True):
                column = torch.where(surprising, drawn, self.successor_V[column])
                columns.append(column)
            ids = torch.stack(columns, dim=1)
            self.position += B
            yield Batch(ids, next_token_labels(ids), torch.zeros_like(ids), self.position - B)

    def state_dict(self) -> dict[str, Any]:
        """Return the position."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the position."""
        self.position = state["position"]


class RoutingFeedback:
    """Hook that injects the cycle: routers are perturbed in proportion to changed choices.

    A token of a step counts as changed if, with its features in that step, the routers that chose for this step
    select other experts than those that chose for the previous step. Training alone changes a few percent.
    """

    def __init__(self, model: CausalLM, steps: range, seed: int) -> None:
        """Watch a model's routers; perturb them after each of `steps`."""
        self._model, self._steps = model, steps
        self._generator = torch.Generator().manual_seed(seed)
        self._routers: list[TopKRouter] = []
        self._features: dict[int, Tensor] = {}
        for module in model.modules():
            if isinstance(module, MoE) and isinstance(module.routing_module, TopKRouter):
                module.routing_module.register_forward_pre_hook(self._keep(len(self._routers)))
                self._routers.append(module.routing_module)
        self._ahead: dict[int, list[tuple[Tensor, Tensor]]] = {}
        self._choosing: list[tuple[Tensor, Tensor]] = []
        self._chose_before: list[tuple[Tensor, Tensor]] = []
        self.flips: list[float] = []

    def choose(self, batch: Batch) -> Choices:
        """Choose ahead, and record the routers that chose."""
        self._ahead[batch.position] = self._now()
        return chosen_now(self._model, batch)

    def about_to_train(self, batch: Batch) -> None:
        """Record the routers that choose for a step."""
        self._choosing = self._ahead.pop(batch.position, None) or self._now()

    def after_roll_back(self) -> None:
        """Forget the previous step, whose routers no longer exist."""
        self._chose_before = []

    @torch.no_grad()
    def after_step(self, run: Run, report: StepReport) -> None:
        """Perturb the routers if the step changed any choices."""
        flips = self._flips() if self._chose_before else 0.0
        self.flips.append(flips)
        self._chose_before = self._choosing
        if report.rejected or report.step not in self._steps:
            return
        for router in self._routers:
            blow = torch.randn(router.weight.shape, generator=self._generator)
            router.weight.add_(GAIN * flips * router.weight.std() * blow)

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state, because a spike is not part of a run."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Ignore the state."""

    def _flips(self) -> float:
        shares = []
        for number, router in enumerate(self._routers):
            before, now = (
                (router.scores(self._features[number] @ weight.T) + bias)
                .topk(router.n_chosen)
                .indices.sort()
                .values
                for weight, bias in (self._chose_before[number], self._choosing[number])
            )
            shares.append((before != now).any(dim=-1).double().mean().item())
        return statistics.mean(shares)

    def _now(self) -> list[tuple[Tensor, Tensor]]:
        found = []
        for router in self._routers:
            assert router.e_score_correction_bias is not None  # the toy model has one
            found.append((router.weight.detach().clone(), router.e_score_correction_bias.clone()))
        return found

    def _keep(self, number: int) -> Callable[[Any, tuple[Any, ...]], None]:
        def keep(module: Any, args: tuple[Any, ...]) -> None:
            self._features[number] = args[0].detach()

        return keep


@dataclass(frozen=True, slots=True)
class Watched:
    """A loader that reports each batch before it is used for training."""

    inner: AnticipatoryLoader
    tell: Callable[[Batch], None]

    def __iter__(self) -> Iterator[Batch]:
        """Yield the next batches."""
        for batch in self.inner:
            self.tell(batch)
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return the inner loader's state."""
        return self.inner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the inner loader's state."""
        self.inner.load_state_dict(state)


@dataclass(slots=True)
class Outcome:
    """Result of one run."""

    losses: list[float] = field(default_factory=list[float])
    flips: list[float] = field(default_factory=list[float])
    events: list[str] = field(default_factory=list[str])
    n_rejected: int = 0
    n_roll_backs: int = 0
    stopped: bool = False
    held_out: float = float("nan")


def run_once(seed: int, way: str, n_steps: int = N_STEPS, spike: range = SPIKE) -> Outcome:
    """Train the toy model once."""
    model = initialise(CausalLM(toy()), seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.01)
    outcome = Outcome()
    feedback = RoutingFeedback(model, range(0) if way == CLEAN else spike, seed)
    loader = AnticipatoryLoader(Successors(seed), feedback.choose, DELAY)
    routing = AnticipatoryRouting(
        loader, AnticipatoryConfig(delay_steps=DELAY, healthy_steps=HEALTHY), outcome.events.append
    )

    def rolled_back(run: Run) -> None:
        outcome.n_roll_backs += 1
        feedback.after_roll_back()
        if way == AHEAD:
            routing.after_roll_back(run)

    with tempfile.TemporaryDirectory() as folder:
        supervisor = GuardedRun(
            Guard(GUARD),
            LocalStore(Path(folder), keep=100),
            SupervisorConfig(save_every=SAVE_EVERY),
            outcome.events.append,
            rolled_back,
        )
        run = Run(
            LoopConfig(n_steps=n_steps),
            local_state(model, optimizer),
            Watched(loader, feedback.about_to_train),
            lambda step: min(1.0, (step + 1) / N_WARMUP, (n_steps - step) / N_DECAY),
            supervisor,
            {"anticipatory": routing, "feedback": feedback},
        )
        try:
            for report in train(run):
                outcome.losses.append(report.losses["total"])
                outcome.n_rejected += bool(report.rejected)
        except TrainingStopped:
            outcome.stopped = True
    outcome.flips = feedback.flips
    outcome.held_out = held_out_loss(model, seed)
    return outcome


@torch.no_grad()
def held_out_loss(model: CausalLM, seed: int) -> float:
    """Return the mean loss on rows that are not used in training."""
    batches = iter(Successors(seed, HELD_OUT))
    losses = []
    for _ in range(N_HELD_OUT):
        batch = next(batches)
        output = model(batch.ids_BT, documents_BT=batch.documents_BT, with_logits=False)
        losses.append(total_loss(model, output, batch.labels_BT).total.item())
    return statistics.mean(losses)


def overhead(repeats: int) -> list[float]:
    """Return, for interleaved pairs of steps, the relative increase of a step's time with routing ahead."""
    config = toy(hidden_size=128, head_dim=64, num_hidden_layers=4, moe_intermediate_size=64)
    model = initialise(CausalLM(config), 0)
    state = local_state(model, torch.optim.AdamW(model.parameters(), lr=1e-3))
    loader = AnticipatoryLoader(Successors(0), lambda batch: chosen_now(model, batch), DELAY)

    def seconds(is_on: bool) -> float:
        started = time.perf_counter()
        batch = next(loader if is_on else plain)
        train_step(state, [batch])
        return time.perf_counter() - started

    plain = iter(Successors(0, HELD_OUT))
    loader.switch_on()
    seconds(True)
    seconds(False)
    return [seconds(True) / seconds(False) - 1 for _ in range(repeats)]


def to_result(outcomes: dict[int, dict[str, Outcome]], extra: Sequence[float], n_steps: int) -> BenchmarkResult:
    """Convert the figures to the common result type."""
    figures = []
    for seed, by_way in outcomes.items():
        ratio = by_way[AHEAD].held_out / by_way[CLEAN].held_out
        figures.append(Figure(f"seed {seed}: loss with anticipatory routing / no spike", ratio, "x", bound=WITHIN))
        for way in (PLAIN, AHEAD):
            outcome = by_way[way]
            figures.append(Figure(f"seed {seed}: {way}: roll-backs", outcome.n_roll_backs, ""))
            figures.append(Figure(f"seed {seed}: {way}: steps not taken", n_lost(outcome, n_steps), ""))
    figures.append(
        Figure(
            "seeds in which a plain roll-back ends the run or stays over 1 % above",
            sum(not recovered(by_way, PLAIN) for by_way in outcomes.values()),
            "",
            bound=len(outcomes),
            bound_kind="at least",
        )
    )
    figures.append(Figure("time of a step, added while on", 100 * statistics.median(extra), "%"))
    first = next(iter(outcomes.values()))
    lines = {way: padded(outcome.losses, n_steps) for way, outcome in first.items()}
    return BenchmarkResult(
        figures=tuple(figures),
        comparisons=tuple(
            Comparison(
                f"loss on unseen rows, seed {seed}", "nats", AHEAD, {w: o.held_out for w, o in runs.items()}
            )
            for seed, runs in outcomes.items()
        ),
        curves=(
            Curves("Training loss, first seed", "step", "loss", tuple(map(float, range(n_steps))), lines, AHEAD),
        ),
        parameters={
            "gain": str(GAIN),
            "spike": f"{SPIKE.start}-{SPIKE.stop}",
            "delay": str(DELAY),
            "steps": str(n_steps),
            "threads": str(torch.get_num_threads()),
        },
        notes=("The cycle of changed choices and perturbations is injected; see the module's docstring.",),
    )


def recovered(by_way: dict[str, Outcome], way: str) -> bool:
    """Return whether a run finished with the clean run's loss."""
    return not by_way[way].stopped and by_way[way].held_out <= WITHIN * by_way[CLEAN].held_out


def n_lost(outcome: Outcome, n_steps: int) -> int:
    """Return the number of steps that were rejected or not reached."""
    return outcome.n_rejected + n_steps - len(outcome.losses)


def padded(losses: Sequence[float], n_steps: int) -> tuple[float, ...]:
    """Pad a curve to the full length; a stopped run keeps its last value."""
    return (*losses, *[losses[-1]] * (n_steps - len(losses)))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 1 if a bound is broken, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--repeats", type=int, default=15, help="number of timed pairs of steps")
    add_result_option(parser)
    options = parser.parse_args(argv)
    outcomes: dict[int, dict[str, Outcome]] = {}
    print(f"{'seed':4} {'way':22} {'unseen':>8} {'/ clean':>8} {'roll-backs':>10} {'not taken':>10}")
    for seed in range(options.seeds):
        outcomes[seed] = {}
        for way in WAYS:
            outcome = outcomes[seed][way] = run_once(seed, way)
            ratio = outcome.held_out / outcomes[seed][CLEAN].held_out
            end = f"  stopped at step {len(outcome.losses)}" if outcome.stopped else ""
            print(
                f"{seed:4} {way:22} {outcome.held_out:8.4f} {ratio:8.4f} {outcome.n_roll_backs:10} "
                f"{n_lost(outcome, N_STEPS):10}{end}",
                flush=True,
            )
    extra = overhead(options.repeats)
    print(f"a step takes {statistics.median(extra):+.0%} while experts are chosen ahead (n = {len(extra)})")
    result = to_result(outcomes, extra, N_STEPS)
    write_result(options.result, result)
    return 1 if result.broken else 0


if __name__ == "__main__":
    sys.exit(main())
