"""The torch engine: requests of any number of callers, batched step by step over one model.

The prefix cache knows tokens, not conversations: whatever begins with the same tokens reuses the same blocks.

Reading order: `batched_engine` (turns, and the loop), `scheduler` (decisions), `blocks` (owners), `streams` (both
together), `paged_cache` (tensors), `stream_batch` (one step of the model), `reply` (tokens from logits). This
module connects them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from modelstack.architecture.checkpoint import load_checkpoint
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.gguf.load import load_gguf
from modelstack.architecture.rounded_weight import RoundedWeight
from modelstack.inference.batched_engine import BatchedEngine
from modelstack.inference.blocks import BLOCK_TOKENS
from modelstack.inference.embedding import require_texts
from modelstack.inference.engine import EngineError, GenerateRequest, require_room, require_token_ids
from modelstack.inference.pending_reply import PendingReply
from modelstack.inference.scheduler import StepLimits
from modelstack.inference.speculation.speculation import DrafterName, lookup_drafter
from modelstack.inference.state_store import StateStore
from modelstack.inference.steering import Steering
from modelstack.inference.streams import Stream
from modelstack.inference.torch.batch_adapters import LowRank
from modelstack.inference.torch.embedding import embed
from modelstack.inference.torch.kv_numbers import KVType
from modelstack.inference.torch.model_fingerprint import weights_fingerprint
from modelstack.inference.torch.mtp_drafter import MtpDrafter
from modelstack.inference.torch.packing import INT8_ROWS, Numbers, can_pack, pack_linear_layers
from modelstack.inference.torch.prefill_process import PrefillProcess
from modelstack.inference.torch.prefix_store import PrefixStore
from modelstack.inference.torch.status import EngineStatus
from modelstack.inference.torch.stream_batch import StreamBatch
from modelstack.tokenizer.gguf_tokenizer import tokenizer_from_fields
from modelstack.tokenizer.text_tokenizer import TextTokenizer
from modelstack.tokenizer.tokenizer_folder import load_tokenizer

DEFAULT_CONTEXT_WINDOW = 8192
"""Longest window by default, as for llama.cpp: the cache must hold it."""
CACHED_WINDOWS = 2
"""Default size of the cache in context windows."""
MIN_AWAY = 128
"""Number of tokens to read from which a prompt goes to the process that reads prompts."""
AWAY_POLL_S = 0.02
"""Seconds for which a step waits for that process if there is nothing else to do."""
MAX_CONVERSATIONS = 256
"""Number of conversations whose last tokens are remembered for `forget`."""


class TorchEngine(BatchedEngine[Stream]):
    """A torch model that answers several requests at a time; a `BatchingEngine`."""

    def __init__(
        self,
        model: CausalLM,
        tokenizer: TextTokenizer,
        *,
        context_window: int | None = None,
        n_cached_tokens: int | None = None,
        max_rows: int = 32,
        max_step_tokens: int = 512,
        block_tokens: int = BLOCK_TOKENS,
        seed: int | None = None,
        owns_model: bool = False,
        numbers: Numbers | None = "float",
        rounded: Mapping[str, RoundedWeight] | None = None,
        kv_type: KVType = "model",
        store: StateStore | None = None,
        stores_conversations: bool = False,
        drafter: DrafterName | None = None,
        prefill: PrefillProcess | None = None,
        state_layers: Sequence[int] = (),
        steering: Steering | None = None,
    ) -> None:
        """Serve a model, which is put into evaluation mode and must not be trained meanwhile.

        Args:
            model: The model, on its own device.
            tokenizer: Its tokenizer.
            context_window: Tokens that one request may hold; None: the model's, at most 8192.
            n_cached_tokens: Tokens that the KV cache holds, for all requests together; None: two windows.
            max_rows: Maximum number of requests in a batch.
            max_step_tokens: Maximum number of tokens evaluated in a step; longer prompts are read in chunks.
            block_tokens: Tokens per block of the cache.
            seed: Seed of requests that name none; None draws one.
            owns_model: Whether the engine may change the model: pack its weights for speed on a CPU, add
                adapters. The model is then of no other use (see `packing`).
            numbers: "int8": products are computed in W8A8; needs `owns_model`. None: int8 if weights of `rounded`
                are int8 with one scale per row.
            rounded: Weights that are rounded to int8 already, by name; the engine rounds the others.
            kv_type: Numbers of the KV cache: the model's own, "int8", or "k8v4", keys in int8 and values in 4 bits
                (see `kv_numbers`).
            store: Folder of prompts' beginnings that outlive the process; None: nothing is stored.
            stores_conversations: Whether whole conversations go into `store`, not only the fixed parts of their
                prompts. The folder then holds what users wrote, readable by its owner only.
            drafter: Source of draft tokens; None: each step yields one token of a reply (see `speculation`).
            prefill: Process that reads long prompts while replies are written (see `prefill_process`). The engine
                closes it.
            state_layers: Layers whose outputs the watches of requests read, from 0; not the last one.
            steering: Vectors that are added to the outputs of layers.

        Raises:
            UnsupportedModelError: A layer keeps another past than a key and a value per token.
            EngineError: An argument is invalid, or `kv_type` cannot hold heads of this size.
        """
        if numbers is None:
            is_int8 = any(each.format == INT8_ROWS for each in (rounded or {}).values())
            numbers = "int8" if is_int8 else "float"
        ahead = MtpDrafter(model, len(tokenizer.vocabulary)) if drafter == "mtp" else None
        super().__init__(tokenizer.vocabulary, seed, ahead or lookup_drafter(drafter))
        trained = model.config.max_position_embeddings
        self._context_window = context_window or min(trained, DEFAULT_CONTEXT_WINDOW)
        if self._context_window > trained:
            raise EngineError(f"context_window {context_window} is more than the {trained} tokens of the model")
        if len(tokenizer.vocabulary) > model.config.vocab_size:
            raise EngineError(
                f"the tokenizer has {len(tokenizer.vocabulary)} tokens and the model {model.config.vocab_size}; "
                f"the tokenizer is of another model"
            )
        n_cached = CACHED_WINDOWS * self._context_window if n_cached_tokens is None else n_cached_tokens
        if min(n_cached, block_tokens) < 1:
            raise EngineError(
                f"n_cached_tokens is {n_cached} and block_tokens {block_tokens}; both must be at least 1"
            )
        try:
            limits = StepLimits(max_rows, max_step_tokens)
        except ValueError as error:
            raise EngineError(str(error)) from error
        self._batch = StreamBatch(
            model.eval(),
            n_cached,
            limits,
            block_tokens=block_tokens,
            kv_type=kv_type,
            state_layers=state_layers,
            steering=steering,
        )
        self._batch.drafter = ahead
        self._tokenizer = tokenizer
        self._conversations: OrderedDict[str, Stream] = OrderedDict()
        self._fingerprint: str | None = None
        self._suffix = "" if kv_type == "model" else f"-kv-{kv_type}"
        if steering is not None:
            self._suffix += f"-steered-{steering.fingerprint}"
        self._owns_model = owns_model
        if owns_model and can_pack(model):
            suffix = "" if numbers == "float" else f"-{numbers}"
            self._fingerprint = weights_fingerprint(model) + suffix + self._suffix
            pack_linear_layers(model, numbers, rounded)
        elif numbers != "float":
            raise EngineError(
                f"{numbers} requires a model that the engine owns, in bf16 or fp32 on a CPU with oneDNN; "
                f"leave numbers out, or load the model with TorchEngine.load"
            )
        self._prefixes = None
        if store is not None:
            self._prefixes = PrefixStore(store, self._batch, self.fingerprint, keeps_all=stores_conversations)
        self._prefill = prefill
        self._handed_over = None
        if prefill is not None:
            self._handed_over = PrefixStore(prefill.store, self._batch, self.fingerprint, keeps_all=True)
        self._away: dict[int, PendingReply[Stream]] = {}
        """Requests whose prompts the other process reads, by the number of their stream."""

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        dtype: torch.dtype | None = None,
        device: str = "cpu",
        numbers: Numbers | None = None,
        **options: int | KVType | DrafterName | StateStore | Sequence[int] | Steering | None,
    ) -> TorchEngine:
        """Load a checkpoint folder or a GGUF file with its tokenizer.

        Args:
            source: The folder or file.
            dtype: Number type of the weights in memory; None: as in a folder's files, float32 for GGUF.
            device: Device of the model.
            numbers: Numbers of the products; None: as the weights are.
            options: Arguments of `TorchEngine`.

        Raises:
            UserError: The source is missing or broken.
            EngineError: The model is not supported, or an option is invalid.
        """
        path = Path(source)
        rounded: dict[str, RoundedWeight] = {}
        if path.is_dir():
            model, tokenizer = load_checkpoint(path, dtype=dtype, rounded=rounded), load_tokenizer(path)
        else:
            loaded = load_gguf(path, dtype=dtype or torch.float32)
            model, tokenizer = loaded.model, tokenizer_from_fields(loaded.tokenizer, path)
        model.to(device)
        return cls(model, tokenizer, owns_model=True, numbers=numbers, rounded=rounded, **options)  # pyright: ignore[reportArgumentType]

    @property
    def state_layers(self) -> tuple[int, ...]:
        """Layers whose outputs the watches of requests read."""
        return self._batch.state_layers

    @property
    def context_window(self) -> int:
        """Tokens that one request may hold."""
        return self._context_window

    @property
    def chat_template(self) -> str | None:
        """The Jinja chat template of the tokenizer, if any."""
        return self._tokenizer.chat_template

    @property
    def fingerprint(self) -> str:
        """SHA-256 over config and weights, with the steering, and with numbers of products and cache if changed.

        Computed at the first access, or before the weights are packed.
        """
        if self._fingerprint is None:
            self._fingerprint = weights_fingerprint(self._batch.model) + self._suffix
        return self._fingerprint

    @property
    def status(self) -> EngineStatus:
        """Counts of requests and blocks."""
        queue = self._batch.queue
        return EngineStatus(
            queue.n_running,
            queue.n_waiting,
            queue.pool.n_blocks,
            queue.pool.n_free,
            queue.pool.n_cached,
            self._batch.bytes_in_use(),
        )

    def encode_template(self, text: str) -> list[int]:
        """Encode text of the chat template, in which names of control tokens become control tokens."""
        return self._tokenizer.encode_template(text)

    def add_adapter(self, name: str, changes: Mapping[str, LowRank]) -> None:
        """Add a LoRA adapter, which requests choose by name; requests of several adapters share batches.

        Args:
            name: Its name, `GenerateRequest.adapter`.
            changes: Changes by the name of the layer: `posttrain.lora.batch_adapter.engine_changes` of a file.

        Raises:
            EngineError: The name is taken, the adapter does not fit, the model is not the engine's own, or the
                engine is closed.
        """
        with self._turn():
            if not self._owns_model:
                raise EngineError(
                    "an adapter changes the model, which this engine does not own: pass owns_model=True"
                )
            self._fingerprint = self.fingerprint  # of the model without adapters
            self._batch.adapters.add(name, changes)

    def remove_adapter(self, name: str) -> None:
        """Remove an adapter.

        Raises:
            EngineError: There is no such adapter, a request still uses it, or the engine is closed.
        """
        with self._turn():
            n = sum(submission.request.adapter == name for submission in self._pending.values())
            if n:
                raise EngineError(f"adapter {name!r} is used by {n} requests; let them end, or cancel them")
            self._batch.adapters.remove(name)

    def embed(
        self,
        texts: Sequence[Sequence[int]],
        *,
        adapter: str | None = None,
        cancelled: Callable[[], bool] = bool,
    ) -> NDArray[np.float32]:
        """Return the vectors of some texts (see `embedding.EmbeddingEngine`), beside running requests.

        Raises:
            ContextWindowError: A text is longer than the window.
            EngineError: An argument is invalid, it was cancelled, or the engine is closed.
        """
        self._batch.adapters.root(adapter)  # raises if there is no such adapter
        require_texts(texts, len(self.vocabulary), self._context_window)
        return embed(self._batch, texts, adapter, self._turn, cancelled)

    @property
    def embedding_width(self) -> int:
        """Size of the vectors of `embed`."""
        return self._batch.model.config.hidden_size

    def embedding_suffix(self) -> list[int]:
        """Return the tokens that belong after a text to embed: none."""
        return []

    def forget(self, conversation: str) -> None:
        """Forget the cached tokens of a conversation's last request; unknown names are ignored.

        Raises:
            EngineError: called from a callback of a request, or the engine is closed.
        """
        with self._turn():
            stream = self._conversations.pop(conversation, None)
            if stream is not None:
                self._batch.queue.pool.drop(stream.chain)

    def check_integrity(self) -> None:
        """Verify that every block of the cache has its owners; for tests, after each step.

        Raises:
            AssertionError: A block is lost or doubled.
        """
        with self._turn():
            self._batch.queue.check()

    def flush(self) -> None:
        """Wait until what ended requests left to later processes is stored."""
        for prefixes in (self._prefixes, self._handed_over):
            if prefixes is not None:
                prefixes.wait()

    @property
    def _evaluation(self) -> StreamBatch:
        return self._batch

    def _room_for(self, request: GenerateRequest) -> int:
        self._batch.adapters.root(request.adapter)  # raises if there is no such adapter
        require_token_ids(request.prompt_ids, len(self.vocabulary))
        limit = min(self._context_window, self._batch.n_tokens)
        return require_room(
            len(request.prompt_ids),
            limit,
            option="context_window" if limit == self._context_window else "n_cached_tokens",
        )

    def _enter(self, submission: PendingReply[Stream], max_tokens: int) -> Stream:
        request = submission.request
        prompt = list(request.prompt_ids)
        if self._prefixes is not None and request.adapter is None:
            n_restored = self._prefixes.restore(prompt, min(request.fixed_tokens, len(prompt) - 1))
            submission.reply.out.stats.restored_tokens = n_restored
        queue = self._batch.queue
        stream = queue.submit(
            prompt + submission.reply.out.ids,
            len(prompt) + max_tokens,
            priority=request.priority,
            adapter=request.adapter,
            root=self._batch.adapters.root(request.adapter),
        )
        if self._prefill is not None and request.adapter is None and queue.n_running:
            n_cached = len(queue.pool.lookup(stream.chain).blocks) * queue.pool.block_tokens
            if len(prompt) - n_cached >= MIN_AWAY and self._prefill.send(stream.number, prompt):
                stream.is_away = True
                self._away[stream.number] = submission
        return stream

    def _step(self) -> list[PendingReply[Stream]]:
        if self._away:
            self._take_back()
        return super()._step()

    def _take_back(self) -> None:
        """Release requests whose prompts were read, or need not be waited for any longer."""
        assert self._prefill is not None and self._handed_over is not None
        has_others = self._batch.queue.n_running or len(self._away) < self._batch.queue.n_waiting
        for number in self._prefill.arrived(0.0 if has_others else AWAY_POLL_S):
            submission = self._away.pop(number, None)
            if submission is None:
                continue  # it was cancelled
            assert submission.stream is not None
            prompt = submission.request.prompt_ids
            submission.reply.out.stats.restored_tokens += self._handed_over.restore(prompt, len(prompt) - 1)
            submission.stream.is_away = False

    def _account(self, submission: PendingReply[Stream], stream: Stream) -> None:
        stats = submission.reply.out.stats
        if stats.prefilled_tokens == 0:
            stats.reused_tokens = min(stream.n_reused or 0, len(submission.request.prompt_ids))
            stats.prefilled_tokens = len(submission.request.prompt_ids) - stats.reused_tokens
            stats.restored_tokens = min(stats.restored_tokens, stats.reused_tokens)
            stats.prefill_s = submission.reply.elapsed_s
        else:
            stats.forward_calls += 1

    def _leave(self, submission: PendingReply[Stream], stream: Stream) -> None:
        request = submission.request
        if self._prefixes is not None and request.adapter is None:
            self._prefixes.keep(stream, request.fixed_tokens)
        if self._handed_over is not None and request.adapter is None:
            self._handed_over.keep(stream, 0)  # the other process continues from it
        self._away.pop(stream.number, None)
        self._batch.remove(stream)
        self._conversations[request.conversation] = stream
        self._conversations.move_to_end(request.conversation)
        if len(self._conversations) > MAX_CONVERSATIONS:
            self._conversations.popitem(last=False)

    def _free(self) -> None:
        self._batch.free()
        self.flush()
        if self._prefill is not None:
            self._prefill.close()
