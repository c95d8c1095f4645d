"""Quantisation of a model to a folder or file: text, formats, rounding, comparison, report."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from modelstack.architecture.checkpoint import save_checkpoint
from modelstack.architecture.compressed_tensors import check_can_store
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.gguf.export import export_gguf
from modelstack.architecture.gguf.rounded_blocks import type_of
from modelstack.architecture.rounded_weight import NumberFormat
from modelstack.errors import UserError
from modelstack.files import replacing
from modelstack.inference.quantise.budget import Choice, choose_formats
from modelstack.inference.quantise.calibration import CalibrationText, read_calibration
from modelstack.inference.quantise.comparison import Comparison, compare
from modelstack.inference.quantise.finished_blocks import FinishedBlocks, key_of
from modelstack.inference.quantise.rounded_model import METHODS, Quantised, quantise
from modelstack.inference.quantise.rounded_tensor import RoundedTensor
from modelstack.terminal.progress_bars import Tell
from modelstack.tokenizer.gguf_tokenizer import gguf_fields
from modelstack.tokenizer.text_tokenizer import TextTokenizer
from modelstack.tokenizer.tokenizer_folder import save_text_tokenizer

REPORT = "quantisation.json"
"""File name of the report in a quantised folder; beside a GGUF file, the suffix of its name."""
SEARCHED_TOKENS = 4096
"""Approximate number of tokens of the pass that prices formats."""
_NAME = re.compile(r"int(?P<bits>[2-8])(-g(?P<group>[1-9]\d*))?|fp8(-(?P<scales>row|block))?")
_STRATEGY = {None: "tensor", "row": "channel", "block": "block"}


@dataclass(frozen=True, slots=True)
class Settings:
    """Parameters of a quantisation."""

    formats: tuple[NumberFormat, ...]
    """Formats to choose from; one: all weights have it."""
    method: str
    """A name in `METHODS`."""
    bits: float | None = None
    """Maximum average bits per weight; required with several formats."""
    n_tokens: int = 32_768
    """Tokens to calibrate on."""
    n_held_out: int = 8_192
    """Tokens to measure on."""
    length: int = 512
    """Tokens of a row."""


@dataclass(frozen=True, slots=True)
class Result:
    """Files and measurements of a quantisation."""

    path: Path
    report: Path
    quantised: Quantised
    n_bytes: int
    """Bytes of the file, or of all files of the folder."""
    choice: Choice | None
    """Choice of the formats; None with one format."""
    comparison: Comparison | None
    """Comparison with the original on held-out text; None without text."""
    measured: tuple[Mapping[str, float], Mapping[str, float]] | None = None
    """Further figures by name, before and after; None: nothing else was measured."""
    notes: Sequence[str] = ()


def named_format(name: str) -> NumberFormat:
    """Return the format with a name such as int4-g32, int8 or fp8-block.

    Raises:
        UserError: No format has this name.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise UserError(
            f"format {name!r} is not known. Integers: int4-g32 (bits, columns per scale), int8 (one scale per "
            f"row, 8-bit activations too). FP8: fp8 (one scale per tensor), fp8-row, fp8-block (128 x 128)"
        )
    if match["bits"] is None:
        return NumberFormat("float", 8, _STRATEGY[match["scales"]])  # pyright: ignore[reportArgumentType]
    group = match["group"]
    return NumberFormat("int", int(match["bits"]), "group" if group else "channel", int(group) if group else None)


def format_name(number_format: NumberFormat) -> str:
    """Return the name of a format."""
    if number_format.kind == "float":
        return {"tensor": "fp8", "channel": "fp8-row", "block": "fp8-block"}[number_format.strategy]
    group = f"-g{number_format.group_size}" if number_format.group_size else ""
    return f"int{number_format.bits}{group}"


def run(
    model: CausalLM,
    tokenizer: TextTokenizer,
    out: Path,
    texts: Sequence[Path],
    settings: Settings,
    told: Tell,
    measure: Callable[[CausalLM], Mapping[str, float]] | None = None,
) -> Result:
    """Quantise a model and write a folder for vLLM, or a GGUF file if the name of `out` ends so.

    An interrupted run continues with the block that it was at, if it is started again with the same arguments.

    Args:
        model: The model in fp32, which is changed.
        tokenizer: Its tokenizer.
        out: Folder or file to write.
        texts: Files or folders with calibration text; may be empty with the method rtn.
        settings: Parameters.
        told: Receives progress.
        measure: Returns further figures of a model by name, taken before and after.

    Raises:
        UserError: A setting contradicts another one or the model, or the text is too short; nothing was written.
    """
    is_gguf = out.suffix == ".gguf"
    _check(settings, texts, is_gguf=is_gguf)
    method = METHODS[settings.method]
    text: CalibrationText | None = None
    if texts:
        told("text")
        text = read_calibration(
            texts,
            tokenizer,
            n_tokens=settings.n_tokens,
            length=settings.length,
            n_held_out=settings.n_held_out,
        )
    scale_type = torch.float16 if is_gguf else torch.bfloat16
    original = copy.deepcopy(model) if text is not None else None
    before = None
    if measure is not None:
        told("tasks before")
        before = measure(model)
    choice = None
    if len(settings.formats) > 1:
        assert text is not None and settings.bits is not None, "checked above"
        told("formats")
        searched = text.training[: max(1, SEARCHED_TOKENS // text.training[0].numel())]
        choice = choose_formats(model, settings.formats, settings.bits, searched, scale_type=scale_type)
    batches = text.training if text is not None else ()
    parameters = dataclasses.asdict(settings) | {"formats_of": choice and choice.formats, "scales": scale_type}
    finished = FinishedBlocks(Path(f"{out}.part"), key_of(parameters, model.state_dict(), batches))
    widest = max(settings.formats, key=lambda each: each.bits)
    quantised = quantise(
        model,
        (lambda name, _: choice.formats.get(name, widest)) if choice is not None else lambda _, __: widest,
        method,
        batches,
        scale_type=scale_type,
        finished=finished,
        on_block=lambda done, total: told("blocks", done, total),
    )
    comparison = None
    if text is not None and original is not None:
        comparison = compare(
            original, model, text.held_out, on_batch=lambda done, total: told("held-out text", done, total)
        )
    measured = None
    if measure is not None and before is not None:
        told("tasks after")
        measured = before, measure(model)
    notes = _write(model, tokenizer, out, quantised)
    report = Path(f"{out}.{REPORT}") if is_gguf else out / REPORT
    result = Result(out, report, quantised, _bytes_of(out), choice, comparison, measured, notes)
    with replacing(report) as temporary:
        temporary.write_text(json.dumps(as_json(result, settings), indent=1) + "\n", encoding="utf-8")
    finished.remove()
    return result


def _check(settings: Settings, texts: Sequence[Path], *, is_gguf: bool) -> None:
    """Raise before any work if the settings cannot be met."""
    if settings.method not in METHODS:
        raise UserError(f"method {settings.method!r} is not known; known: {', '.join(METHODS)}")
    for number_format in settings.formats:
        if is_gguf:
            type_of(number_format)
        else:
            check_can_store(number_format)
    if (len(settings.formats) > 1) != (settings.bits is not None):
        raise UserError(
            "a budget and several formats belong together: give --bits and --format more than once, or neither"
        )
    if texts and settings.n_held_out <= settings.length:
        raise UserError(
            f"{settings.n_held_out} held-out tokens are one row of {settings.length}; the interval of a "
            f"comparison needs two or more: raise --held-out, or lower --length"
        )
    if not texts and (settings.bits is not None or METHODS[settings.method].needs_text):
        why = "a budget" if settings.bits is not None else f"the method {settings.method}"
        raise UserError(f"{why} requires calibration text; give some with --text, or use --method rtn")


def _write(model: CausalLM, tokenizer: TextTokenizer, out: Path, quantised: Quantised) -> Sequence[str]:
    """Write the quantised model; return what llama.cpp does differently."""
    if out.suffix != ".gguf":
        with tempfile.TemporaryDirectory() as folder:
            save_text_tokenizer(tokenizer, folder)
            save_checkpoint(model, out, tokenizer=folder, dtype=torch.bfloat16, rounded=quantised.weights)
        return ()
    exported = export_gguf(
        model.config,
        model.state_dict(),
        gguf_fields(tokenizer),
        out,
        type_name="q8_0" if _rows_fit(model) else "f16",
        rounded=quantised.weights,
        name=out.stem,
    )
    return exported.notes


def _rows_fit(model: CausalLM) -> bool:
    """Return whether the matrices that are not rounded can be Q8_0."""
    return all(w.shape[-1] % 32 == 0 for w in model.state_dict().values() if w.ndim > 1)


def _bytes_of(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def as_json(result: Result, settings: Settings) -> Mapping[str, Any]:
    """Return the report: settings, sizes, comparison, and a row per tensor."""
    tensors = [
        dataclasses.asdict(tensor) | {"format": format_name(tensor.format)} for tensor in result.quantised.tensors
    ]
    return {
        "method": settings.method,
        "formats": [format_name(each) for each in settings.formats],
        "calibration_tokens": settings.n_tokens if result.comparison else 0,
        "bytes": result.n_bytes,
        "bits_per_weight": bits_per_weight(result.quantised),
        "predicted_kl": result.choice.predicted_kl if result.choice else None,
        "comparison": dataclasses.asdict(result.comparison) if result.comparison else None,
        "measured": dict(zip(("before", "after"), result.measured, strict=True)) if result.measured else None,
        "tensors": tensors,
    }


def bits_per_weight(quantised: Quantised) -> float:
    """Return the average bits of the rounded weights, scales included."""
    n_weights = sum(tensor.n_weights for tensor in quantised.tensors)
    return sum(tensor.bits_per_weight * tensor.n_weights for tensor in quantised.tensors) / n_weights


def summary_rows(quantised: Quantised) -> list[tuple[str, str, int, float, float, float | None]]:
    """Return a row per kind of layer and format: name, format, tensors, mean bits and errors."""
    kinds: dict[tuple[str, str], list[RoundedTensor]] = {}
    for tensor in quantised.tensors:
        name = re.sub(r"^model\.layers\.\d+\.|\.weight$", "", tensor.name)
        kinds.setdefault((name, format_name(tensor.format)), []).append(tensor)
    rows: list[tuple[str, str, int, float, float, float | None]] = []
    for (name, number_format), tensors in kinds.items():
        outputs = [tensor.output_error for tensor in tensors if tensor.output_error is not None]
        bits, error = fmean(t.bits_per_weight for t in tensors), fmean(t.weight_error for t in tensors)
        rows.append((name, number_format, len(tensors), bits, error, fmean(outputs) if outputs else None))
    return rows


def sentences(result: Result) -> Iterator[str]:
    """Yield the result in sentences."""
    average = bits_per_weight(result.quantised)
    yield f"{result.path}: {result.n_bytes / 1e6:,.1f} MB, {average:.2f} bits per rounded weight; {result.report}"
    if (compared := result.comparison) is not None:
        yield (
            f"On {compared.n_tokens:,} held-out tokens: KL {compared.kl:.4f} ± {compared.kl_half_width:.4f} nats "
            f"a token, the same choice at {compared.same_choice:.1%}, perplexity {compared.perplexity_before:.3f} "
            f"before and {compared.perplexity_after:.3f} after"
        )
    if result.measured is not None:
        before, after = result.measured
        yield "; ".join(f"{name} {before[name]:.1%} before and {after[name]:.1%} after" for name in before)
    yield from result.notes
