"""A GGUF model and a context of llama.cpp: the owners of the C handles.

All sequences share one KV cache (`kv_unified`), so conversations use cells as they need them, and a common prefix
is stored once. Batches are numpy arrays that C reads in place: filling one takes microseconds.

Letters: V vocabulary size, D width of the states, R rows of a batch over several sequences.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from modelstack.inference.engine import EngineError
from modelstack.inference.llama.batch import DECODE_OK, MAX_REPLY_BATCH, SequencePart, TokenBatch
from modelstack.inference.llama.decode_thread import DecodeThread
from modelstack.inference.llama.file_check import check_adapter_file, check_model_file, has_quantised_stacks
from modelstack.inference.llama.layer_states import LayerStates
from modelstack.inference.llama.library import is_built_with, library, take_errors
from modelstack.inference.steering import Steering

KVType = Literal["f32", "f16", "q8_0"]
GGML_TYPES: dict[KVType, int] = {"f32": 0, "f16": 1, "q8_0": 8}
"""`enum ggml_type` of ggml.h."""
FLASH_ATTENTION_AUTO = -1
"""The automatic value of `enum llama_flash_attn_type` in llama.h; 0 is disabled, 1 enabled."""


TILES = "AMX_INT8"
"""Part of the build that computes with AMX."""
NO_POOLING = 0
"""The value of `enum llama_pooling_type` in llama.h with which each token has states of its own."""
MAX_METADATA_BYTES = 256
"""Size of a metadata value that is read as text."""


class LlamaWeights:
    """A loaded GGUF file, with an adapter if one is given."""

    def __init__(self, path: Path, lora_path: Path | None = None, lora_scale: float = 1.0) -> None:
        """Load the file.

        Raises:
            EngineError: a file is missing or damaged, or llama-cpp-python is.
        """
        self._lib = library()
        self._lock = threading.Lock()
        """Held while C reads the vocabulary, so that `free` does not release it meanwhile."""
        self.lora_scale = lora_scale
        self.model: Any = None
        self.adapter: Any = None
        tensors = check_model_file(path)
        take_errors()
        params = self._lib.llama_model_default_params()
        # llama.cpp places quantised stacks in AMX buffers, whose kernels multiply single matrices only: it aborts.
        params.use_extra_bufts = not (is_built_with(TILES) and has_quantised_stacks(tensors))
        self.model = self._lib.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise EngineError(
                f"llama.cpp cannot load {path}: {take_errors() or 'no reason given'}. The file is damaged or its "
                f"architecture is unknown to this llama-cpp-python; fetch it again or update the package."
            )
        self.vocab: Any = self._lib.llama_model_get_vocab(self.model)
        self.n_vocab: int = self._lib.llama_vocab_n_tokens(self.vocab)
        self.width: int = self._lib.llama_model_n_embd_out(self.model)
        """Width of the states that the head reads."""
        self.state_width: int = self._lib.llama_model_n_embd(self.model)
        """Width of the outputs of layers."""
        self.n_layers: int = self._lib.llama_model_n_layer(self.model)
        self.trained_context: int = self._lib.llama_model_n_ctx_train(self.model)
        if lora_path is not None:
            try:
                self.adapter = self.load_adapter(lora_path)
            except EngineError:
                self.free()
                raise

    def load_adapter(self, path: Path) -> Any:
        """Return an adapter for `LlamaContext.put_on`; it is freed with the model, or earlier by `free_adapter`.

        The file is read completely, and may be removed afterwards.

        Raises:
            EngineError: the file is missing or damaged, or made for another base model.
        """
        check_adapter_file(path)
        take_errors()
        adapter = self._lib.llama_adapter_lora_init(self.model, str(path).encode())
        if not adapter:
            raise EngineError(
                f"llama.cpp cannot load the adapter {path}: {take_errors() or 'no reason given'}. "
                f"It must be a GGUF LoRA adapter made for this base model."
            )
        return adapter

    def free_adapter(self, adapter: Any) -> None:
        """Free an adapter's memory; no context may use it."""
        self._lib.llama_adapter_lora_free(adapter)

    def chat_template(self) -> str | None:
        """Return the Jinja chat template that the file carries, if any."""
        raw = self._lib.llama_model_chat_template(self.model, None)
        return raw.decode("utf-8", errors="replace") if raw else None

    def metadata_of_architecture(self, key: str) -> str:
        """Return a value of the file's metadata under the name of its architecture, as text; "" if there is none.

        Raises:
            EngineError: the model has been freed.
        """
        architecture = self._metadata("general.architecture")
        return self._metadata(f"{architecture}.{key}")

    def _metadata(self, key: str) -> str:
        buffer = ctypes.create_string_buffer(MAX_METADATA_BYTES)
        with self._lock:
            self._require_model("read its metadata")
            n = self._lib.llama_model_meta_val_str(self.model, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", errors="replace") if n > 0 else ""

    @property
    def text_end(self) -> list[int]:
        """The end token, if the model was trained with one after each text."""
        with self._lock:
            self._require_model("encode text")
            adds_end = self._lib.llama_vocab_get_add_eos(self.vocab)
            return [self._lib.llama_vocab_eos(self.vocab)] if adds_end else []

    def tokenize(self, data: bytes, *, parse_special: bool) -> list[int]:
        """Return llama.cpp's tokens of UTF-8 `data`, without begin and end tokens.

        Raises:
            EngineError: the model has been freed.
        """
        capacity = len(data) + 8  # a token represents at least one byte; SentencePiece may add a space
        buffer = (ctypes.c_int32 * capacity)()
        with self._lock:
            self._require_model("encode text")
            n = self._lib.llama_tokenize(self.vocab, data, len(data), buffer, capacity, False, parse_special)
        if n < 0:
            raise EngineError(f"llama.cpp cannot tokenize {len(data)} bytes (code {n})")
        return buffer[:n]

    def _require_model(self, purpose: str) -> None:
        if not self.model:
            raise EngineError(f"the engine is closed; load it again to {purpose}")

    def free(self) -> None:
        """Free the model and its adapter. Idempotent."""
        with self._lock:
            if self.model:
                self._lib.llama_model_free(self.model)
            self.model = self.adapter = None


class LlamaContext:
    """KV cache, batch and logits of a model: evaluates tokens, and saves, copies or drops positions."""

    def __init__(
        self,
        weights: LlamaWeights,
        *,
        n_cells: int,
        n_sequences: int,
        n_batch: int,
        kv_type: KVType = "f16",
        flash_attention: bool | None = None,
        has_states: bool = False,
        state_layers: Sequence[int] = (),
        steering: Steering | None = None,
    ) -> None:
        """Allocate `n_cells` KV entries shared by `n_sequences` sequences.

        `has_states` is for `states`, and `state_layers` for `layer_states`.

        Raises:
            EngineError: there is not enough memory, or adapter or steering do not fit the model.
        """
        self._lib = library()
        self._n_vocab = weights.n_vocab
        self.n_batch = n_batch
        self._threads = (1, 1)
        self._width: int = weights.width
        self._layer_states = None
        if steering is not None:
            steering.require_fitting(weights.n_layers, weights.state_width)
        if state_layers:
            self._layer_states = LayerStates(state_layers, weights.n_layers, weights.state_width)
        self._context: Any = self._create(weights, n_cells, n_sequences, kv_type, flash_attention, has_states)
        self._memory: Any = self._lib.llama_get_memory(self._context)
        self._batch = TokenBatch(self._lib, n_batch)
        self._own_thread = DecodeThread(self._lib.llama_decode) if is_built_with(TILES) else None
        self._decode: Callable[[Any, Any], int] = self._own_thread or self._lib.llama_decode
        self._logits_views: dict[tuple[int, int], NDArray[np.float32]] = {}
        self._no_logits = np.empty((0, weights.n_vocab), np.float32)
        self._all_logits_address = _address_returned_by(self._lib, "llama_get_logits", ctypes.c_void_p)
        self._logits_address = _address_returned_by(
            self._lib, "llama_get_logits_ith", ctypes.c_void_p, ctypes.c_int32
        )
        try:
            if weights.adapter:
                self.put_on(weights.adapter, weights.lora_scale)
            if steering is not None:
                self._steer(steering, weights.n_layers)
        except EngineError:
            self.free()
            raise

    def _create(
        self,
        weights: LlamaWeights,
        n_cells: int,
        n_sequences: int,
        kv_type: KVType,
        flash_attention: bool | None,
        has_states: bool,
    ) -> Any:
        params = self._lib.llama_context_default_params()
        params.n_ctx = n_cells
        params.n_batch = params.n_ubatch = self.n_batch
        params.n_seq_max = n_sequences
        params.kv_unified = True
        params.type_k = params.type_v = GGML_TYPES[kv_type]
        params.flash_attn_type = self._flash_attention = self._flash_attention_type(flash_attention, kv_type)
        params.embeddings, params.pooling_type = has_states, NO_POOLING
        params.no_perf = True
        if self._layer_states is not None:
            params.cb_eval = self._layer_states.callback
        params.n_threads = params.n_threads_batch = 1
        context = self._lib.llama_init_from_model(weights.model, params)
        if not context:
            raise EngineError(
                f"llama.cpp cannot make a context of {n_cells} KV cells ({kv_type}): "
                f"{take_errors() or 'no reason given'}. Try a smaller context_window or n_cells."
            )
        return context

    @property
    def on_gpu(self) -> bool:
        """Whether this build may compute on a GPU."""
        return self._lib.llama_supports_gpu_offload()

    @property
    def flash_attention(self) -> int:
        """Value of `enum llama_flash_attn_type` in use."""
        return self._flash_attention

    @property
    def may_be_invariant(self) -> bool:
        """Whether only the number format of the weights can make logits depend on the size of a batch.

        On a CPU this holds without flash attention and without the matrix kernels of llamafile or a BLAS (switches
        of the build). Packed formats may still have different kernels for four rows and for one.
        """
        has_others = is_built_with("LLAMAFILE") or is_built_with("BLAS")
        return not self.on_gpu and self._flash_attention == 0 and not has_others

    def _flash_attention_type(self, wanted: bool | None, kv_type: KVType) -> int:
        """Return the requested type, or the best one for this machine.

        On a CPU llama.cpp's flash attention prefills 1.5 times faster but decodes 3 times slower after 2,500
        tokens (SmolLM2-135M, one thread), and a reply waits for decoding. A quantised cache requires it.
        """
        if wanted is not None:
            return int(wanted)
        if kv_type == "q8_0":
            return 1
        return FLASH_ATTENTION_AUTO if self._lib.llama_supports_gpu_offload() else 0

    def put_on(self, adapter: Any, scale: float = 1.0) -> None:
        """Apply an adapter in place of any other; cache entries computed before are not updated.

        Raises:
            EngineError: the adapter does not fit the model.
        """
        adapters = (self._lib.llama_adapter_lora_p_ctypes * 1)(adapter)
        if self._lib.llama_set_adapters_lora(self._context, adapters, 1, (ctypes.c_float * 1)(scale)) != 0:
            raise EngineError(f"llama.cpp refuses the adapter: {take_errors() or 'no reason given'}")

    def _steer(self, steering: Steering, n_layers: int) -> None:
        rows = steering.rows(n_layers)
        address = rows.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        first, last = min(steering.vectors), max(steering.vectors)
        if self._lib.llama_set_adapter_cvec(self._context, address, rows.size, rows.shape[1], first, last) != 0:
            raise EngineError(f"llama.cpp refuses the steering vectors: {take_errors() or 'no reason given'}")

    def set_threads(self, decode: int, prefill: int) -> None:
        """Set the number of threads for a reply's tokens (`decode`) and for a prompt's (`prefill`)."""
        self._threads = (decode, prefill)
        self._lib.llama_set_n_threads(self._context, decode, prefill)

    def evaluate(self, ids: Sequence[int], *, position: int, sequence: int, want_logits: int) -> int:
        """Append tokens to a sequence from `position` on; return llama_decode's code.

        `want_logits` is the number of last tokens whose logits are computed; True is 1.
        """
        return self.evaluate_parts([SequencePart(sequence, position, ids, want_logits)])

    def evaluate_parts(self, parts: Sequence[SequencePart]) -> int:
        """Append tokens to several sequences in one pass; return llama_decode's code.

        Raises:
            ValueError: there are more tokens than `n_batch`.
        """
        batch = self._batch.fill(parts)
        if self._layer_states is not None:
            self._layer_states.expect(parts)
        decode, prefill = self._threads
        # llama.cpp uses the second count for every batch, but a forced block is about as short as a token.
        n_threads = decode if batch.n_tokens <= MAX_REPLY_BATCH else prefill
        self._lib.llama_set_n_threads(self._context, decode, n_threads)
        code = self._decode(self._context, batch)
        if code == DECODE_OK and self._layer_states is not None and not self._layer_states.is_complete:
            # The graph has another form than those before: its tensors must be found by name.
            for part in parts:
                self.remove(part.sequence, part.position)
            with self._layer_states.reading_names():
                code = self._decode(self._context, batch)
        return code

    def logits_of_rows(self, n_rows: int) -> NDArray[np.float32]:
        """Return the R requested logits [R, V] of the last batch, as a view that the next call overwrites."""
        return self._logits_at(self._all_logits_address(self._context), n_rows) if n_rows else self._no_logits

    def logits(self, index: int = -1) -> NDArray[np.float32]:
        """Return the V logits after a token of the last batch, as a view that the next call overwrites."""
        return self._logits_at(self._logits_address(self._context, index), 1)[0]

    def states(self, n_rows: int) -> NDArray[np.float32]:
        """Return the states [R, D] after the final norm, of the last batch's requested tokens.

        They are a view that the next call overwrites; the context must have been made with `has_states`.
        """
        rows = self._lib.llama_get_embeddings(self._context)
        return np.ctypeslib.as_array(rows, (n_rows, self._width))

    def layer_states(self) -> NDArray[np.float32] | None:
        """Return the outputs [R, L, D] of `state_layers` at the last batch's tokens with requested logits.

        None without such layers.

        Raises:
            EngineError: the model's graph has no output of such a layer.
        """
        return None if self._layer_states is None else self._layer_states.taken()

    def _logits_at(self, address: int, n_rows: int) -> NDArray[np.float32]:
        view = self._logits_views.get((address, n_rows))
        if view is None:
            buffer = (ctypes.c_float * (n_rows * self._n_vocab)).from_address(address)
            view = np.ctypeslib.as_array(buffer).reshape(n_rows, self._n_vocab)
            self._logits_views[address, n_rows] = view
        return view

    def remove(self, sequence: int, start: int) -> bool:
        """Drop positions `start` and up of a sequence; False if this memory cannot do that."""
        return self._lib.llama_memory_seq_rm(self._memory, sequence, start, -1)

    def copy(self, source: int, target: int, n_positions: int) -> None:
        """Share the first positions of `source` with `target`; cells are not copied."""
        self._lib.llama_memory_seq_cp(self._memory, source, target, 0, n_positions)

    def extent(self, sequence: int) -> tuple[int, int]:
        """Return the lowest and highest position that a sequence holds; -1 if it is empty."""
        return (
            self._lib.llama_memory_seq_pos_min(self._memory, sequence),
            self._lib.llama_memory_seq_pos_max(self._memory, sequence),
        )

    def state_bytes(self, sequence: int) -> int:
        """Return the size of a sequence's state in bytes; 0 if llama.cpp cannot save it."""
        return self._lib.llama_state_seq_get_size(self._context, sequence)

    def save(self, sequence: int) -> NDArray[np.uint8] | None:
        """Return the state of a sequence as bytes; None if llama.cpp cannot save it."""
        state = np.empty(self.state_bytes(sequence), dtype=np.uint8)
        n = self._lib.llama_state_seq_get_data(self._context, _byte_pointer(state), state.size, sequence)
        return state if 0 < n == state.size else None

    def load(self, sequence: int, state: NDArray[np.uint8]) -> bool:
        """Replace a sequence by a saved state; after False the sequence is undefined."""
        n = self._lib.llama_state_seq_set_data(self._context, _byte_pointer(state), state.size, sequence)
        return n == state.size

    def free(self) -> None:
        """Free the context. Idempotent."""
        if self._own_thread is not None:
            self._own_thread.close()
        if self._context:
            self._lib.llama_free(self._context)
        self._context = None


def _byte_pointer(data: NDArray[np.uint8]) -> Any:
    return data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))


def _address_returned_by(lib: Any, name: str, *argument_types: Any) -> Any:
    """Return a function of the C API whose result is a plain address; the binding's builds a pointer object."""
    function = lib._lib[name]
    function.argtypes = argument_types
    function.restype = ctypes.c_void_p
    return function


def rearranges_q4_0() -> bool:
    """Return whether llama.cpp computes on a CPU with Q4_0 weights rearranged for products of many rows."""
    return not library().llama_supports_gpu_offload() and is_built_with("REPACK")
