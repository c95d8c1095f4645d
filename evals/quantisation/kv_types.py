"""Perplexity, memory and speed of the torch engine with each type of KV cache, beside the model's own numbers.

Held-out rows are read as replies are written: by the engine's steps, a token of each row at a time, so every key
and value that attention sees was stored in the cache and restored. The change of perplexity is paired by rows,
with Student's interval, in fp32. Memory and speed are those of a bf16 model. Speed is CPU time of single tokens
behind a prompt, the types in turn; its ratio to the model's own numbers is paired.

    python -m evals.quantisation.kv_types smollm2-135m --text modelstack/data/corpus/howto.jsonl.zst
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from evals.speed.model_forward import ratio_of
from modelstack.architecture.decoder import CausalLM
from modelstack.inference.quantise.calibration import read_calibration
from modelstack.inference.scheduler import StepLimits
from modelstack.inference.torch.kv_numbers import KVType
from modelstack.inference.torch.packing import can_pack, pack_linear_layers
from modelstack.inference.torch.stream_batch import StreamBatch
from modelstack.posttrain.starting_point import starting_point
from modelstack.reasoning.sampling.frozen_model import load_merged
from modelstack.student import half_width_95
from modelstack.train.process import set_up_process

TYPES: Sequence[KVType] = get_args(KVType)
N_WRITTEN = 32
"""Tokens whose CPU time is measured behind a prompt."""


@dataclass(frozen=True, slots=True)
class Row:
    """Result of one type."""

    kv_type: KVType
    perplexity: float
    change: float
    """Relative change of perplexity against the model's own numbers."""
    half_width: float
    """Half the width of the 95 % interval of the change."""
    bytes_per_1000_tokens: float
    tokens_per_cpu_s: float
    speed: float
    """Ratio to the model's own numbers, with the ends of its interval."""
    speed_low: float
    speed_high: float


def losses(model: CausalLM, rows_RT: Tensor, kv_type: KVType) -> list[float]:
    """Return the mean negative log-likelihood of each row."""
    R, T = rows_RT.shape
    batch = StreamBatch(model, R * (T + 16), StepLimits(R, max(R, 16)), kv_type=kv_type)
    texts = {batch.queue.submit(row[:1], T): row for row in rows_RT.tolist()}
    sums = dict.fromkeys(texts, 0.0)
    while len(batch.queue):
        ready = batch.step()
        log_p_RV = torch.from_numpy(ready.logits_RV).log_softmax(-1)
        for stream, log_p_V in zip(ready.streams, log_p_RV, strict=True):
            n, text = len(stream.tokens), texts[stream]
            sums[stream] -= float(log_p_V[text[n]])
            if n == T - 1:
                batch.queue.remove(stream)
            else:
                batch.queue.extend(stream, [text[n]])
    return [each / (T - 1) for each in sums.values()]


def seconds(batch: StreamBatch, prompt: Sequence[int], n_written: int) -> float:
    """Return the CPU time of some greedy tokens behind a prompt."""
    stream = batch.queue.submit(prompt, len(prompt) + n_written + 1)
    started = 0.0
    while len(stream.tokens) < len(prompt) + n_written + 1:
        ready = batch.step()
        for logits_V in ready.logits_RV:  # none while the prompt is read
            started = started or time.process_time()
            batch.queue.extend(stream, [int(logits_V.argmax())])
    elapsed = time.process_time() - started
    batch.queue.remove(stream)
    batch.queue.pool.drop_cache()  # each prompt is read anew
    return elapsed


def speeds(
    model: CausalLM, prompt: Sequence[int], types: Sequence[KVType], repeats: int, n_written: int
) -> tuple[dict[KVType, list[float]], dict[KVType, float]]:
    """Return the seconds of each type, and the bytes of its cache per token; packs the model's weights."""
    n_tokens = len(prompt) + n_written + 16
    batches: dict[KVType, StreamBatch] = {
        each: StreamBatch(model, n_tokens, StepLimits(), kv_type=each) for each in types
    }
    if can_pack(model):
        pack_linear_layers(model)
    taken: dict[KVType, list[float]] = {each: [] for each in types}
    for number in range(repeats + 1):
        for kv_type in types if number % 2 == 0 else reversed(types):
            found = seconds(batches[kv_type], prompt, n_written)
            if number:  # the first one warms up
                taken[kv_type].append(found)
    return taken, {each: batch.bytes_in_use() / batch.n_tokens for each, batch in batches.items()}


def measure(
    source: str, text: Sequence[Path], types: Sequence[KVType], *, held_out: int, length: int, repeats: int
) -> list[Row]:
    """Return the result of each type; the first one, the model's own numbers, is what others are compared with."""
    start = starting_point(source)
    base = load_merged(start, precision="fp32", device="cpu")
    read = read_calibration(text, base.tokenizer, n_tokens=length, length=length, n_held_out=held_out)
    rows_RT = torch.cat(list(read.held_out))
    of_types: dict[KVType, list[float]] = {}
    for kv_type in types:
        of_types[kv_type] = losses(base.model.eval(), rows_RT, kv_type)
        perplexity = math.exp(statistics.fmean(of_types[kv_type]))
        print(f"{kv_type}: perplexity {perplexity:.3f}", file=sys.stderr, flush=True)
    served = load_merged(start, precision="bf16", device="cpu").model.eval()
    taken, n_bytes = speeds(served, rows_RT[0].tolist(), types, repeats, N_WRITTEN)
    results: list[Row] = []
    for kv_type in types:
        changes = [after - before for after, before in zip(of_types[kv_type], of_types[types[0]], strict=True)]
        ratio, low, high = 1.0, 1.0, 1.0
        if kv_type != types[0]:
            ratio, low, high = ratio_of(taken[kv_type], taken[types[0]])
        results.append(
            Row(
                kv_type,
                math.exp(statistics.fmean(of_types[kv_type])),
                math.expm1(statistics.fmean(changes)),
                half_width_95(changes),
                1000 * n_bytes[kv_type],
                N_WRITTEN / statistics.median(taken[kv_type]),
                ratio,
                low,
                high,
            )
        )
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line per type, and JSON to a file; return 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="checkpoint folder, stage, GGUF file or a model's name")
    parser.add_argument("--text", type=Path, action="append", required=True, help="file or folder with text")
    parser.add_argument("--type", action="append", choices=TYPES[1:], help="default: all")
    parser.add_argument("--held-out", type=int, default=8_192)
    parser.add_argument("--length", type=int, default=1_024, help="tokens of a row, and of the prompt")
    parser.add_argument("--repeats", type=int, default=4, help="prompts whose speed is measured")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args(argv)
    set_up_process(options.threads)
    types: list[KVType] = [TYPES[0], *(options.type or TYPES[1:])]
    results = measure(
        options.source,
        options.text,
        types,
        held_out=options.held_out,
        length=options.length,
        repeats=options.repeats,
    )
    print(
        f"{'':6} {'perplexity':>10}  {'change':>18}  {'MB per 1,000':>12}  {'tokens/CPU s':>12}  beside {types[0]}"
    )
    for row in results:
        print(
            f"{row.kv_type:6} {row.perplexity:10.3f}  {row.change:+8.3%} ± {row.half_width:.3%}  "
            f"{row.bytes_per_1000_tokens / 1e6:12.2f}  {row.tokens_per_cpu_s:12.1f}  "
            f"{row.speed:.3f}x ({row.speed_low:.3f}-{row.speed_high:.3f})"
        )
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in results], indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
