"""Sentences that all-MiniLM-L6-v2 embeds in a second of CPU time, on one thread: numpy, llama.cpp, transformers.

The sentences are those of `evals.speed.retrieval_vectors`, of 20 tokens. llama.cpp gets the same weights as a
GGUF file, one sentence a call (it attends over all tokens of a batch, so that larger batches are slower), in the
build of this project. transformers gets batches of 32 sentences sorted by length. CPU time is `time.process_time`.
The figure "least cosine" compares a program's vectors with those of numpy.

    OMP_NUM_THREADS=1 python -m evals.speed.embedding [--sentences 200] [--only numpy]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evals.speed.results import BenchmarkResult, Comparison, Figure, add_result_option, finish
from evals.speed.retrieval_vectors import chosen_passages
from modelstack.inference.minilm import minilm, minilm_folder

WARM_UP = 20
MAX_TOKENS = 256
MIN_COSINE = 0.999
Embed = Callable[[Sequence[str]], NDArray[np.float32]]


def main() -> int:
    """Measure, print the table, and return 1 if a program's vectors differ, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=int, default=200)
    parser.add_argument("--only", choices=("numpy",), help="leave out the others")
    add_result_option(parser)
    options = parser.parse_args()
    _, texts = chosen_passages()
    texts = texts[: options.sentences]
    folder = minilm_folder()
    model = minilm()
    assert folder is not None
    speeds, figures = dict[str, float](), list[Figure]()
    with tempfile.TemporaryDirectory() as temporary:
        programs = {"numpy": lambda: model.embed}
        if options.only is None:
            programs |= {
                "transformers": lambda: by_transformers(folder),
                "llama.cpp, F16": lambda: by_llama(written_gguf(folder, Path(temporary), "F16")),
                "llama.cpp, Q8_0": lambda: by_llama(written_gguf(folder, Path(temporary), "Q8_0")),
            }
        exact = model.embed(texts)
        for name, load in programs.items():
            embed = load()
            embed(texts[:WARM_UP])
            started = time.process_time()
            vectors = embed(texts)
            speeds[name] = len(texts) / (time.process_time() - started)
            cosine = float((vectors * exact).sum(1).min())
            print(f"{name}: {speeds[name]:.0f} sentences a second; least cosine {cosine:.5f}")
            figures += [
                Figure(f"{name}, sentences a second", speeds[name], "1/s"),
                Figure(f"{name}, least cosine", cosine, "", bound=MIN_COSINE, bound_kind="at least"),
            ]
    compared = Comparison(
        "seconds of CPU per 1,000 sentences", "s", "numpy", {k: 1e3 / v for k, v in speeds.items()}
    )
    parameters = {"sentences": str(len(texts)), "model": model.name}
    return finish(options.result, BenchmarkResult(tuple(figures), (compared,), parameters=parameters))


def by_transformers(folder: Path) -> Embed:
    """Return the function of transformers' model, on one thread."""
    import torch
    from transformers import AutoTokenizer, BertModel

    torch.set_num_threads(1)
    model: Any = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)

    @torch.no_grad()
    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        vectors = np.empty((len(texts), model.config.hidden_size), np.float32)
        for start in range(0, len(texts), 32):
            part = order[start : start + 32]
            batch = tokenizer(
                [texts[index] for index in part],
                padding=True,
                truncation=True,
                max_length=MAX_TOKENS,
                return_tensors="pt",
            )
            mask = batch["attention_mask"][..., None]
            states = (model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
            vectors[part] = torch.nn.functional.normalize(states).numpy()
        return vectors

    return embed


def by_llama(path: Path) -> Embed:
    """Return the function of llama.cpp, on one thread."""
    import llama_cpp

    model: Any = llama_cpp.Llama(
        str(path),
        embedding=True,
        n_ctx=2 * MAX_TOKENS,
        n_batch=2 * MAX_TOKENS,
        n_ubatch=2 * MAX_TOKENS,
        n_threads=1,
        n_threads_batch=1,
        pooling_type=llama_cpp.LLAMA_POOLING_TYPE_MEAN,
        verbose=False,
    )
    return lambda texts: np.asarray([model.embed(text, normalize=True) for text in texts], np.float32)


def written_gguf(folder: Path, target: Path, kind: str) -> Path:
    """Write weights and vocabulary as llama.cpp reads them, with matrices as F16 or Q8_0; return the path."""
    import gguf
    from safetensors.numpy import load_file

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    vocabulary = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    path = target / f"{kind}.gguf"
    writer: Any = gguf.GGUFWriter(path, "bert")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    special = {"[CLS]", "[SEP]", "[PAD]", "[MASK]", "[UNK]"}
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([token if token in special else _piece(token) for token in tokens])
    writer.add_token_types([gguf.TokenType.CONTROL if t in special else gguf.TokenType.NORMAL for t in tokens])
    writer.add_token_type_count(config["type_vocab_size"])
    for name, add in (("[CLS]", writer.add_bos_token_id), ("[SEP]", writer.add_eos_token_id)):
        add(vocabulary[name])
    writer.add_sep_token_id(vocabulary["[SEP]"])
    writer.add_unk_token_id(vocabulary["[UNK]"])
    writer.add_pad_token_id(vocabulary["[PAD]"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, config["num_hidden_layers"])
    for name, tensor in load_file(folder / "model.safetensors").items():
        if "position_ids" in name or name.startswith("pooler"):
            continue
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        is_matrix = tensor.ndim == 2 and name.startswith("encoder")
        quantised = gguf.GGMLQuantizationType[kind if is_matrix else "F32"]
        data = gguf.quants.quantize(tensor.astype(np.float32), quantised)
        writer.add_tensor(known, data, raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _piece(token: str) -> str:
    """Return a token of WordPiece in llama.cpp's form: the beginning of a word is marked, not its continuation."""
    return token[2:] if token.startswith("##") else "\u2581" + token


if __name__ == "__main__":
    sys.exit(main())
