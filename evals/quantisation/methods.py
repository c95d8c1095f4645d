"""Divergence of quantised models from the original: our methods beside llama.cpp's number types.

Every candidate is compared with the original on the same held-out rows: mean KL per token with Student's interval
over rows, the share of equal choices, and perplexity. llama.cpp's types are written by `export_gguf` and read
again, so that both sides are computed by the same torch code, in fp32. Embedding and head are the original's on
both sides: what is compared is the rounding of the blocks.

    python -m evals.quantisation.methods smollm2-135m --text documents --format int4-g32 --type q4_0 --type q4_1

Full-precision weights are not published for every model. `--dither` makes a stand-in for them from a quantised
file: each weight is moved within the step of its block of 32, uniformly, which is where the original weight was.
The result has the outliers and correlations of the model, on no lattice.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.gguf.export import export_gguf
from modelstack.architecture.gguf.load import load_gguf
from modelstack.inference.quantise.calibration import CalibrationText, read_calibration
from modelstack.inference.quantise.comparison import Comparison, compare
from modelstack.inference.quantise.quantisation import named_format
from modelstack.inference.quantise.rounded_model import METHODS, FormatOf, quantise
from modelstack.posttrain.base import Base
from modelstack.posttrain.starting_point import starting_point
from modelstack.reasoning.sampling.frozen_model import load_merged
from modelstack.tokenizer.gguf_tokenizer import gguf_fields
from modelstack.train.process import set_up_process

DITHER_COLUMNS, DITHER_STEPS = 32, 15
"""Columns of a block and steps between its smallest and largest weight: those of Q4_1."""
FORMATS, TYPES = ("int4-g32",), ("q4_0", "q4_1", "q5_0", "q8_0")


@dataclass(frozen=True, slots=True)
class Row:
    """Result of one candidate."""

    name: str
    bits_per_weight: float
    """Average over the linear layers of the blocks, scales included."""
    comparison: Comparison


def dithered(model: CausalLM, seed: int) -> None:
    """Move the weights of the blocks' linear layers within the step of their block of 32, in place."""
    generator = torch.Generator().manual_seed(seed)
    for layer in model.model.layers.modules():
        if type(layer) is torch.nn.Linear and layer.in_features % DITHER_COLUMNS == 0:
            blocks = layer.weight.data.view(layer.out_features, -1, DITHER_COLUMNS)
            step = (blocks.amax(-1, keepdim=True) - blocks.amin(-1, keepdim=True)) / DITHER_STEPS
            blocks += (torch.rand(blocks.shape, generator=generator) - 0.5) * step


def put_on_disk(model: CausalLM, file: Path) -> None:
    """Move a model's weights to a file that is mapped: memory that the system takes back when it needs it."""
    torch.save(model.state_dict(), file)
    model.load_state_dict(torch.load(file, mmap=True), assign=True)


def rows(
    base: Base, text: CalibrationText, formats: Sequence[str], methods: Sequence[str], types: Sequence[str]
) -> Iterator[Row]:
    """Yield the result of each type of llama.cpp, then of each of our formats with each method."""
    original = base.model
    for type_name in types:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "m.gguf"
            fields = gguf_fields(base.tokenizer)
            export_gguf(original.config, original.state_dict(), fields, path, type_name=type_name)
            loaded = load_gguf(path, dtype=torch.float32)
            _restore_ends(loaded.model, original)
            yield Row(
                f"llama.cpp {type_name}", _bits(path, original), compare(original, loaded.model, text.held_out)
            )
    for name in formats:
        of_weight = formats_of(name)
        for method in methods:
            model = copy.deepcopy(original, {id(weight): weight for weight in _ends(original)})
            result = quantise(model, of_weight, METHODS[method], text.training, scale_type=torch.float16)
            n_bits = sum(tensor.bits_per_weight * tensor.n_weights for tensor in result.tensors)
            bits = n_bits / sum(tensor.n_weights for tensor in result.tensors)
            yield Row(f"{name}, {method}", bits, compare(original, model, text.held_out))


def formats_of(text: str) -> FormatOf:
    """Return the format of each weight from a description such as "int4-g32,down_proj=int5-g32".

    Raises:
        UserError: A format is not known.
    """
    usual, *exceptions = text.split(",")
    of_layer = {layer: named_format(name) for layer, _, name in (each.partition("=") for each in exceptions)}
    default = named_format(usual)
    return lambda name, _: next((of for layer, of in of_layer.items() if f".{layer}" in name), default)


@torch.no_grad()
def _restore_ends(model: CausalLM, original: CausalLM) -> None:
    """Give a model the original's embedding and head."""
    for weight, of_original in zip(_ends(model), _ends(original), strict=True):
        weight.copy_(of_original)


def _ends(model: CausalLM) -> Sequence[Tensor]:
    """Return the weights of embedding and head, which no method rounds."""
    return [model.get_submodule(name).get_parameter("weight") for name in ("model.embed_tokens", "lm_head")]


def _bits(path: Path, model: CausalLM) -> float:
    """Return the average bits of the linear layers of the blocks in a GGUF file."""
    from gguf import GGUFReader

    shapes = {tuple(w.shape) for n, w in model.state_dict().items() if ".layers." in n and w.ndim == 2}
    tensors = [
        tensor
        for tensor in GGUFReader(path).tensors
        if tensor.name.startswith("blk.") and tuple(reversed(tensor.shape.tolist())) in shapes
    ]
    return 8 * sum(int(t.n_bytes) for t in tensors) / sum(int(t.n_elements) for t in tensors)


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line per candidate, and JSON lines to a file; return 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="checkpoint folder, stage, GGUF file or a model's name")
    parser.add_argument("--text", type=Path, action="append", required=True, help="file or folder with text")
    parser.add_argument(
        "--format",
        action="append",
        help=f"default: {', '.join(FORMATS)}; with exceptions: int4-g32,down_proj=int8-g32",
    )
    parser.add_argument("--method", action="append", choices=[*METHODS], help="default: all")
    parser.add_argument("--type", action="append", help=f"llama.cpp's; default: {', '.join(TYPES)}; none: no type")
    parser.add_argument("--tokens", type=int, default=32_768)
    parser.add_argument("--held-out", type=int, default=8_192)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--dither", type=int, metavar="SEED", help="move weights within their quantisation step")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args(argv)
    set_up_process(options.threads)
    base = load_merged(starting_point(options.source), precision="fp32", device="cpu")
    if options.dither is not None:
        dithered(base.model, options.dither)
    text = read_calibration(
        options.text, base.tokenizer, n_tokens=options.tokens, length=options.length, n_held_out=options.held_out
    )
    types = [each for each in options.type or TYPES if each != "none"]
    with tempfile.TemporaryDirectory() as folder:
        put_on_disk(base.model, Path(folder) / "original.pt")
        results = _printed(rows(base, text, options.format or FORMATS, options.method or [*METHODS], types))
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in results], indent=1) + "\n", encoding="utf-8")
    return 0


def _printed(rows: Iterable[Row]) -> list[Row]:
    """Print rows as they come; return them."""
    results: list[Row] = []
    print(f"{'':22} {'bits':>5}  {'KL':>17}  {'same':>6}  perplexity")
    for row in rows:
        results.append(row)
        found = row.comparison
        print(
            f"{row.name:22} {row.bits_per_weight:5.2f}  {found.kl:.4f} ± {found.kl_half_width:.4f}  "
            f"{found.same_choice:6.1%}  {found.perplexity_after:.3f} ({found.perplexity_before:.3f})",
            flush=True,
        )
    return results


if __name__ == "__main__":
    sys.exit(main())
