"""Speed of `modelstack`'s models compared with transformers: same weights, same machine, interleaved runs.

Three kinds of work: a forward pass (prefill and scoring), forward and backward (training, the same loss for both),
and cached decoding token by token. Each in fp32 and bf16, for a llama and a qwen3 of published shapes.
transformers runs with its defaults: SDPA attention, its own dynamic cache, and only the last token's logits where
these suffice. Both are driven by the same loop, so `generate` adds no cost.

Runs are interleaved and the ratio is computed pair by pair, because a disturbance of a shared machine lasts
seconds and affects both. The interval is a bootstrap over pairs. The logits of both are compared before the first
measurement.

    OMP_WAIT_POLICY=PASSIVE python -m evals.speed.model_forward
"""

from __future__ import annotations

import argparse
import gc
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from evals.speed.results import BenchmarkResult, Comparison, Figure, add_result_option, write_result
from evals.statistics import mean_interval
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.presets.registry import published, to_hf

OURS, THEIRS = "modelstack", "transformers"
SEED = 0
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("smollm2-135m", {}),
    # Qwen3-0.6B with a third of its layers and an eighth of its vocabulary, so that a pass takes a second on two
    # cores.
    "qwen3": ("qwen3-0.6b", {"num_hidden_layers": 9, "vocab_size": 18992}),
}
"""Published size and changed configuration keys, by preset."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
N_PROMPT = 64
"""Number of tokens in the cache before decoding is timed."""
MAX_DIFFERENCE = {"fp32": 1e-3, "bf16": 0.15}
"""Maximum difference of logits relative to the largest: rounding errors of a whole model in each dtype."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Amount of work of a timed run."""

    n_forward: int
    n_training: int
    n_decoded: int
    repeats: int


Work = Callable[[], Any]


def build_pair(preset: str, dtype: torch.dtype) -> tuple[CausalLM, Any]:
    """Return modelstack's and transformers' models with the same random weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    name, changes = MODELS[preset]
    config = published(name, **changes)
    torch.manual_seed(SEED)
    ours = CausalLM(config)
    for parameter in ours.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=config.initializer_range)
    json = to_hf(config)
    with torch.device("meta"):
        theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(**json), attn_implementation="sdpa")
    theirs = theirs.to_empty(device="cpu")
    theirs.tie_weights()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    theirs.model.rotary_emb = type(theirs.model.rotary_emb)(
        theirs.config
    )  # a state dict does not contain these buffers
    return ours.to(dtype).train(), theirs.to(dtype).train()


def forward(model: Any, ids: Tensor) -> Work:
    """Return work that computes all logits without gradients."""
    keywords = {} if isinstance(model, CausalLM) else {"use_cache": False}

    def work() -> Tensor:
        with torch.inference_mode():
            return logits_of(model(ids, **keywords))

    return work


def forward_backward(model: Any, ids: Tensor) -> Work:
    """Return work that computes mean cross-entropy and its gradients."""
    keywords = {} if isinstance(model, CausalLM) else {"use_cache": False}

    def work() -> None:
        logits = logits_of(model(ids, **keywords))
        F.cross_entropy(logits[0, :-1].float(), ids[0, 1:]).backward()
        model.zero_grad(set_to_none=True)

    return work


def decode(model: Any, ids: Tensor) -> Work:
    """Return work that decodes greedily, one token at a time; its time includes the prompt, for both models."""
    step = _our_steps(model) if isinstance(model, CausalLM) else _their_steps(model)

    def work() -> list[int]:
        with torch.inference_mode():
            steps = step()
            next(steps)
            token = steps.send(ids[:, :N_PROMPT])
            tokens = []
            for _ in range(ids.shape[1] - N_PROMPT):
                tokens.append(int(token))
                token = steps.send(token.view(1, 1))
            return tokens

    return work


def _our_steps(model: CausalLM) -> Callable[[], Any]:
    def steps() -> Iterator[Any]:
        cache, token = model.new_cache(), None
        while True:
            token = model((yield token), cache=cache, last_only=True).logits_BTV[0, -1].argmax()

    return steps


def _their_steps(model: Any) -> Callable[[], Any]:
    def steps() -> Iterator[Any]:
        from transformers import DynamicCache

        cache, token = DynamicCache(config=model.config), None
        while True:
            token = model((yield token), past_key_values=cache, logits_to_keep=1).logits[0, -1].argmax()

    return steps


def logits_of(output: Any) -> Tensor:
    """Return the logits of a model's output."""
    return output.logits_BTV if hasattr(output, "logits_BTV") else output.logits


def measure(ours: Work, theirs: Work, repeats: int) -> tuple[list[float], list[float]]:
    """Return the seconds of both, interleaved; the order alternates, so that neither gains from it."""
    ours()
    theirs()
    seconds: tuple[list[float], list[float]] = ([], [])
    for n in range(repeats):
        for which in (0, 1) if n % 2 == 0 else (1, 0):
            gc.collect()
            started = time.perf_counter()
            (ours, theirs)[which]()
            seconds[which].append(time.perf_counter() - started)
    return seconds


def ratio_of(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Return modelstack's speedup, pair by pair (geometric mean), and its 95 % interval."""
    interval = mean_interval([math.log(b / a) for a, b in zip(ours, theirs, strict=True)], seed=SEED)
    return math.exp(interval.value), math.exp(interval.low), math.exp(interval.high)


def check_equal(ours: CausalLM, theirs: Any, ids: Tensor, dtype: str) -> None:
    """Check that both models compute the same logits.

    Raises:
        RuntimeError: the logits differ by more than rounding errors.
    """
    a, b = forward(ours, ids)().float(), forward(theirs, ids)().float()
    difference = ((a - b).abs().max() / b.abs().max()).item()
    if difference > MAX_DIFFERENCE[dtype]:
        raise RuntimeError(f"logits differ by {difference:.3g} of their largest in {dtype}")


def run(presets: Sequence[str], sizes: Sizes) -> BenchmarkResult:
    """Measure all combinations."""
    figures, comparisons = [], []
    for preset in presets:
        for dtype_name, dtype in DTYPES.items():
            ours, theirs = build_pair(preset, dtype)
            generator = torch.Generator().manual_seed(SEED)
            ids = torch.randint(0, ours.config.vocab_size, (1, 4096), generator=generator)
            check_equal(ours, theirs, ids[:, :128], dtype_name)
            works = {
                "forward": (forward, sizes.n_forward, sizes.n_forward),
                "forward+backward": (forward_backward, sizes.n_training, sizes.n_training),
                "cached decode": (decode, N_PROMPT + sizes.n_decoded, sizes.n_decoded),
            }
            for what, (make, n_ids, n_counted) in works.items():
                mine, other = measure(make(ours, ids[:, :n_ids]), make(theirs, ids[:, :n_ids]), sizes.repeats)
                title = f"{preset} {what}, {dtype_name}"
                ratio, low, high = ratio_of(mine, other)
                name = f"{title}: speed beside transformers"
                figures.append(Figure(name, ratio, "x", low, high, 1.0, "at least"))
                speeds = {OURS: n_counted / statistics.median(mine), THEIRS: n_counted / statistics.median(other)}
                comparisons.append(Comparison(title, "tokens/s", OURS, speeds))
                print(
                    f"{title:38} {speeds[OURS]:8.1f} {speeds[THEIRS]:8.1f} tokens/s  "
                    f"{ratio:.3f}x ({low:.3f}-{high:.3f})",
                    flush=True,
                )
            del ours, theirs
    return BenchmarkResult(
        figures=tuple(figures),
        comparisons=tuple(comparisons),
        parameters={
            "models": ", ".join(f"{name} {changes or ''}".strip() for name, changes in MODELS.values()),
            "sizes": str(sizes),
            "threads": str(torch.get_num_threads()),
            "torch": torch.__version__,
            "transformers": _version(),
        },
        notes=("Decoding includes the prompt's prefill in its time, for both.",),
    )


def _version() -> str:
    from importlib.metadata import version

    return version("transformers")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 1 if a bound is broken, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", action="append", choices=list(MODELS), help="preset to measure; default: both")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--forward", type=int, default=512, metavar="TOKENS")
    parser.add_argument("--training", type=int, default=256, metavar="TOKENS")
    parser.add_argument("--decoded", type=int, default=32, metavar="TOKENS")
    parser.add_argument("--threads", type=int, help="number of threads; default: torch's own choice")
    add_result_option(parser)
    options = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    if options.threads:
        torch.set_num_threads(options.threads)
    sizes = Sizes(options.forward, options.training, options.decoded, options.repeats)
    result = run(options.preset or list(MODELS), sizes)
    write_result(options.result, result)
    return 1 if result.broken else 0


if __name__ == "__main__":
    sys.exit(main())
