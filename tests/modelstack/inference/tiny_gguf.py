"""A randomly initialised llama model of some 150,000 weights as a GGUF file, and random LoRA adapters for it.

Real for llama.cpp in every respect (byte-level BPE with trained merges, control tokens, chat template), small
enough that a test loads it in milliseconds. Written by hand, not by a converter: llama.cpp refuses unknown
pre-tokenizers by hash, and needs a non-empty list of merges.

Letters: V vocabulary, D width, I feed-forward width, H heads, G KV heads, K head width.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import gguf
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
USER_DEFINED_TOKENS = ("<tool_call>", "</tool_call>")
CHATML_TEMPLATE = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TRAINING_TEXT = (
    "The quick brown fox jumps over the lazy dog. How many lines does todo.md have? There are 42 lines.",
    'You may call a tool: {"name": "read_file", "arguments": {"path": "notes/todo.md"}} and then answer.',
    "system user assistant tool result error question answer yes no please thank you when where what which",
    "Bonjour, où est la bibliothèque? Grüße aus Köln. 你好，世界。 Ünïcödé ✓ 🦊",
)


@dataclass(frozen=True)
class TinyShape:
    """Sizes of the model."""

    n_layers: int = 2
    width: int = 64
    feed_forward: int = 128
    n_heads: int = 4
    n_kv_heads: int = 2
    context: int = 1024
    n_vocab: int = 512


@cache
def tiny_tokenizer(n_vocab: int = TinyShape.n_vocab, n_user_defined: int = len(USER_DEFINED_TOKENS)) -> Tokenizer:
    """Train a byte-level BPE with all 256 bytes and single digits, as SmolLM2 has it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=n_vocab - n_user_defined,
        special_tokens=list(CONTROL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TRAINING_TEXT * 4, trainer)
    return tokenizer


def write_tiny_gguf(
    path: Path,
    *,
    seed: int = 0,
    shape: TinyShape | None = None,
    dtype: type = np.float32,
    chat_template: str | None = CHATML_TEMPLATE,
    user_defined: tuple[str, ...] = USER_DEFINED_TOKENS,
    pooling: gguf.PoolingType | None = None,
    ends: bool = True,
) -> Path:
    """Write a model with random weights and return its path; the same seed gives the same file.

    With `pooling` it says that it was trained for embeddings, of texts with the end token. Without `ends` its
    greedy replies go on until the context is full: the logits of control tokens are 0.
    """
    shape = shape or TinyShape()
    writer = gguf.GGUFWriter(path, "llama")
    _write_config(writer, shape, dtype)
    if pooling is not None:
        writer.add_pooling_type(pooling)
        writer.add_add_eos_token(True)
    _write_vocabulary(writer, shape, chat_template, user_defined)
    rng = np.random.default_rng(seed)
    for name, dimensions in _tensor_shapes(shape).items():
        if name.endswith("norm.weight"):
            tensor = np.ones(dimensions, dtype=np.float32) + 0.1 * rng.normal(size=dimensions)
            writer.add_tensor(name, tensor.astype(np.float32))
        else:
            scale = 1.0 if name == "token_embd.weight" else 1.5 / np.sqrt(dimensions[-1])
            tensor = scale * rng.normal(size=dimensions)
            if name == "output.weight" and not ends:
                tensor[: len(CONTROL_TOKENS)] = 0.0
            writer.add_tensor(name, tensor.astype(dtype))
    _finish(writer)
    return path


def write_tiny_lora(
    path: Path, *, seed: int = 1, rank: int = 4, alpha: float = 8.0, shape: TinyShape | None = None
) -> Path:
    """Write a random adapter for the attention's query and output projections of every layer."""
    shape = shape or TinyShape()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    rng = np.random.default_rng(seed)
    for name, dimensions in _tensor_shapes(shape).items():
        if ".attn_q." in name or ".attn_output." in name:
            n_out, n_in = dimensions
            writer.add_tensor(f"{name}.lora_a", (rng.normal(size=(rank, n_in)) / 8).astype(np.float32))
            writer.add_tensor(f"{name}.lora_b", (rng.normal(size=(n_out, rank)) / 2).astype(np.float32))
    _finish(writer)
    return path


def _write_config(writer: gguf.GGUFWriter, shape: TinyShape, dtype: type) -> None:
    head_width = shape.width // shape.n_heads
    writer.add_name("tiny")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32 if dtype is np.float32 else gguf.LlamaFileType.MOSTLY_F16)
    writer.add_block_count(shape.n_layers)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.n_heads)
    writer.add_head_count_kv(shape.n_kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(head_width)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(shape.n_vocab)


def _write_vocabulary(
    writer: gguf.GGUFWriter, shape: TinyShape, chat_template: str | None, user_defined: tuple[str, ...]
) -> None:
    tokenizer = tiny_tokenizer(shape.n_vocab, len(user_defined))
    content = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(content["vocab"], key=content["vocab"].__getitem__)
    tokens += [f"[unused{i}]" for i in range(shape.n_vocab - len(tokens) - len(user_defined))]
    tokens += user_defined
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([_token_type(token, user_defined) for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in content["merges"]])
    writer.add_bos_token_id(tokens.index("<|im_start|>"))
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_pad_token_id(tokens.index("<|im_end|>"))
    writer.add_add_bos_token(False)
    if chat_template is not None:
        writer.add_chat_template(chat_template)


def _token_type(token: str, user_defined: tuple[str, ...]) -> gguf.TokenType:
    if token in CONTROL_TOKENS:
        return gguf.TokenType.CONTROL
    if token in user_defined:
        return gguf.TokenType.USER_DEFINED
    return gguf.TokenType.UNUSED if token.startswith("[unused") else gguf.TokenType.NORMAL


def _tensor_shapes(shape: TinyShape) -> dict[str, tuple[int, ...]]:
    """Return name -> numpy shape, output first; the output matrix is its own, a tied one repeats its input."""
    width, kv_width = shape.width, shape.width // shape.n_heads * shape.n_kv_heads
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (shape.n_vocab, width),
        "output_norm.weight": (width,),
        "output.weight": (shape.n_vocab, width),
    }
    for layer in range(shape.n_layers):
        block = {
            "attn_norm": (width,),
            "attn_q": (width, width),
            "attn_k": (kv_width, width),
            "attn_v": (kv_width, width),
            "attn_output": (width, width),
            "ffn_norm": (width,),
            "ffn_gate": (shape.feed_forward, width),
            "ffn_up": (shape.feed_forward, width),
            "ffn_down": (width, shape.feed_forward),
        }
        shapes |= {f"blk.{layer}.{name}.weight": dimensions for name, dimensions in block.items()}
    return shapes


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
