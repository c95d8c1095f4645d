"""The embedded engine: llama.cpp in this process, several conversations and requests in one KV cache.

Reading order: `batched_engine` (turns, and the loop), `library` (the C functions), `model` (weights and context),
`vocabulary`, `sequences` (owners of cache entries), `sequence_queue` (one evaluation), `sampling`, `threads`. This
module connects them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modelstack.inference.batched_engine import BatchedEngine
from modelstack.inference.embedding import require_texts
from modelstack.inference.engine import (
    ContextWindowError,
    EngineError,
    GenerateRequest,
    require_room,
    require_token_ids,
)
from modelstack.inference.llama.embedding import LlamaEmbedder
from modelstack.inference.llama.fingerprint import ModelFingerprint
from modelstack.inference.llama.measuring import choose_threads, cuts_change_nothing
from modelstack.inference.llama.model import KVType, LlamaContext, LlamaWeights
from modelstack.inference.llama.sequence_queue import SequenceQueue, SequenceStream
from modelstack.inference.llama.vocabulary import load_vocabulary
from modelstack.inference.pending_reply import PendingReply
from modelstack.inference.prompt_states import MIN_FIXED_TOKENS, PromptStates
from modelstack.inference.remembered import RememberedFacts
from modelstack.inference.scoring import TokenScores, given_batches, log_probability
from modelstack.inference.sequences import PrefixCache
from modelstack.inference.speculation.speculation import DrafterName, lookup_drafter
from modelstack.inference.state_store import StateStore
from modelstack.inference.steering import Steering

DEFAULT_CONTEXT_WINDOW = 8192
"""Longest window by default: KV cells are allocated at load, so larger windows must be requested."""
COPIES = 2
"""Tokens of closed sequences that are kept in main memory, per KV cell. Copies do not share a common beginning, as
cells do."""


class LlamaCppEngine(BatchedEngine[SequenceStream]):
    """A GGUF model run by llama.cpp; a `BatchingEngine`."""

    def __init__(
        self,
        path: str | Path,
        *,
        lora_path: str | Path | None = None,
        lora_scale: float = 1.0,
        context_window: int | None = None,
        n_cells: int | None = None,
        max_conversations: int = 8,
        n_threads: int | None = None,
        n_threads_prefill: int | None = None,
        n_batch: int = 512,
        kv_type: KVType = "f16",
        flash_attention: bool | None = None,
        seed: int | None = None,
        states: StateStore | None = None,
        drafter: DrafterName | None = None,
        state_layers: Sequence[int] = (),
        steering: Steering | None = None,
    ) -> None:
        """Load a model, and measure thread counts that are not given.

        Args:
            path: GGUF file.
            lora_path: GGUF LoRA adapter for that model.
            lora_scale: Strength of the adapter.
            context_window: Tokens that one conversation may hold; None: the model's, at most 8192.
            n_cells: KV entries shared by all conversations; None: `context_window`.
            max_conversations: Conversations whose cache is kept at the same time, and requests that run together;
                others wait.
            n_threads: Threads for one token; None measures. A caller can store `threads` and pass it next time.
            n_threads_prefill: Threads for prompt batches; None measures.
            n_batch: Prompt tokens evaluated between two checks for cancellation, or two tokens of other requests.
            kv_type: Number format of the cache.
            flash_attention: None: the faster setting for decoding, off on a CPU, llama.cpp's choice on a GPU.
            seed: Seed of the random stream for requests without their own seed; None draws one.
            states: Keeps the states of prompts' fixed parts and measurements of this machine for later processes;
                None keeps nothing.
            drafter: Source of draft tokens; None: each step yields one token of a reply (see `speculation`).
            state_layers: Layers whose outputs the watches of requests read, from 0; not the last one.
            steering: Vectors that are added to the outputs of layers.

        Raises:
            EngineError: llama-cpp-python or a file is missing or damaged, or an argument is invalid.
        """
        _require_positive(max_conversations=max_conversations, n_batch=n_batch, n_threads=n_threads)
        _require_positive(context_window=context_window, n_cells=n_cells, n_threads_prefill=n_threads_prefill)
        self._files = [Path(path)] + ([Path(lora_path)] if lora_path is not None else [])
        facts = RememberedFacts(states.folder) if states is not None else None
        self._model_fingerprint = ModelFingerprint(self._files, lora_scale, facts, steering)
        self._weights = LlamaWeights(Path(path), self._files[1] if lora_path is not None else None, lora_scale)
        try:
            vocabulary, self._encoder = load_vocabulary(self._weights)
            super().__init__(vocabulary, seed, lookup_drafter(drafter))
            trained = self._weights.trained_context
            self._context_window = context_window or min(trained, DEFAULT_CONTEXT_WINDOW)
            if self._context_window > trained:
                raise EngineError(
                    f"context_window {context_window} is more than the {trained} tokens the model was trained for"
                )
            self._context = LlamaContext(
                self._weights,
                n_cells=n_cells or self._context_window,
                n_sequences=max_conversations + 1,  # the spare one is for copying states and for measurements
                n_batch=max(n_batch, max_conversations),  # at least a token of each
                kv_type=kv_type,
                flash_attention=flash_attention,
                state_layers=state_layers,
                steering=steering,
            )
        except EngineError:
            self._weights.free()
            raise
        self._state_layers = tuple(state_layers)
        self._n_cells = n_cells or self._context_window
        self._kv_type = kv_type
        self._chat_template = self._weights.chat_template()
        # On a GPU states were not shown to be equal bit for bit, and copies are slower.
        states_in_memory = None if self._context.on_gpu else self._context
        self._cache = PrefixCache(self._context, max_conversations, states_in_memory, COPIES * self._n_cells)
        self._queue = SequenceQueue(self._context, self._cache, self._n_cells, n_batch)
        self._spare_sequence = max_conversations
        self._is_invariant: bool | None = None
        self.threads = choose_threads(
            self._context, self._n_cells, self._files, facts, n_threads, n_threads_prefill
        )
        """Thread counts in use, measured or given."""
        self._context.set_threads(self.threads.decode, self.threads.prefill)
        self._states = self._queue.states = self._prompt_states(states)
        self._embedder = LlamaEmbedder(
            self._weights,
            self._context_window,
            kv_type,
            flash_attention,
            lambda: (self.threads.decode, self.threads.prefill),
        )

    @property
    def context_window(self) -> int:
        """Tokens that one conversation may hold."""
        return self._context_window

    @property
    def state_layers(self) -> tuple[int, ...]:
        """Layers whose outputs the watches of requests read."""
        return self._state_layers

    @property
    def chat_template(self) -> str | None:
        """The Jinja chat template that the GGUF carries, if any."""
        return self._chat_template

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the content of model and adapter, and the adapter's scale; computed at the first access."""
        value = self._model_fingerprint.value()
        assert value is not None  # None only if hashing is not allowed
        return value

    @property
    def batch_invariant(self) -> bool:
        """Whether a reply is the same, bit for bit, under any batch sizes and with or without jump-ahead.

        Measured at the first access, since it depends on kernels and number formats: True with Q4_1, False with
        K-quants. Requests that run at the same time still change the order in which attention sums up, unless
        they have a seed. Without invariance a request with a seed reuses no cached entries and takes no drafts.

        Raises:
            EngineError: called from a callback of `generate`, or the engine is closed.
        """
        with self._turn():
            return self._measured_invariance()

    @property
    def cached_tokens(self) -> dict[str, int]:
        """Number of cached tokens of each conversation."""
        return self._cache.conversations()

    def encode_template(self, text: str) -> list[int]:
        """Encode text of the chat template, in which names of control tokens become control tokens.

        Adds no BOS.
        """
        return self._encoder.encode_template(text)

    def score_tokens(
        self,
        ids: Sequence[int],
        n_context: int,
        *,
        conversation: str = "score",
        cancelled: Callable[[], bool] | None = None,
    ) -> TokenScores:
        """Score each of `ids[n_context:]` after all tokens before it (see `scoring.ScoringEngine`).

        Raises:
            ContextWindowError: there are more tokens than the window holds.
            EngineError: an argument is invalid, the backend failed, or the scoring was cancelled.
        """
        limit = self._check_ids(ids)
        if not 1 <= n_context < len(ids):
            raise EngineError(
                f"n_context is {n_context} of {len(ids)} tokens; it must be at least 1 and leave a token to score"
            )
        if len(ids) - 1 > limit:
            raise ContextWindowError(
                f"{len(ids) - 1} tokens must be evaluated, but a conversation may hold {limit}"
            )
        logprobs, greedy = list[float](), list[bool]()
        # The context's last token is evaluated even if it is cached: the first logits come from it.
        with closing(self._given(ids[:-1], n_context - 1, conversation, cancelled)) as batches:
            for start, end in batches:
                for position in range(start, end):
                    logits_V = self._context.logits(position - start)
                    logprob, is_greedy = log_probability(logits_V, ids[position + 1])
                    logprobs.append(logprob)
                    greedy.append(is_greedy)
        return TokenScores(tuple(logprobs), tuple(greedy))

    def read_states(
        self,
        ids: Sequence[int],
        n_context: int,
        *,
        conversation: str = "read",
        cancelled: Callable[[], bool] | None = None,
    ) -> NDArray[np.float32]:
        """Return the outputs [T, L, D] of `state_layers` for the given tokens `ids[n_context:]`.

        Tokens before them that the conversation's cache holds are not evaluated again.

        Raises:
            ContextWindowError: there are more tokens than the window holds.
            EngineError: an argument is invalid, the backend failed, or the reading was cancelled.
        """
        limit = self._check_ids(ids)
        if not self._state_layers:
            raise EngineError("no states can be read: load the engine with state_layers")
        if not 0 <= n_context < len(ids):
            raise EngineError(f"n_context is {n_context} of {len(ids)} tokens; it must leave a token to read")
        if len(ids) > limit:
            raise ContextWindowError(f"{len(ids)} tokens must be evaluated, but a conversation may hold {limit}")
        found: list[NDArray[np.float32]] = []
        with closing(self._given(ids, n_context, conversation, cancelled)) as batches:
            for _ in batches:
                states_TLD = self._context.layer_states()
                assert states_TLD is not None  # there are state_layers
                found.append(states_TLD)
        return np.concatenate(found)

    def _given(
        self, ids: Sequence[int], first: int, conversation: str, cancelled: Callable[[], bool] | None
    ) -> Generator[tuple[int, int]]:
        """Evaluate given tokens; yield start and end of each batch from `first` on, whose outputs can be read."""

        def stop() -> bool:
            return self._closing or (cancelled is not None and cancelled())

        with self._turn(stop) as has_turn:
            if not has_turn:
                raise EngineError("the evaluation of given tokens was cancelled")
            while self._queue.is_reserved or (slot := self._cache.open(conversation, ids[: first + 1])) is None:
                self._step()  # until a running request ends and leaves its sequence
            try:
                for start, end, is_read in given_batches(len(slot.tokens), first, len(ids), self._context.n_batch):
                    if stop():
                        raise EngineError("the evaluation of given tokens was cancelled")
                    self._queue.evaluate_alone(slot, ids[start:end], end - start if is_read else 0)
                    if is_read:
                        yield start, end
            finally:
                self._cache.release(slot)

    def embed(
        self,
        texts: Sequence[Sequence[int]],
        *,
        adapter: str | None = None,
        cancelled: Callable[[], bool] = bool,
    ) -> NDArray[np.float32]:
        """Return the vectors of some texts (see `embedding.EmbeddingEngine`), beside running requests.

        The first call allocates a second context; its cells grow with the longest text, up to the window.

        Raises:
            ContextWindowError: a text is longer than the window.
            NoEmbeddingsError: the file's kind of embedding is not supported.
            EngineError: an argument is invalid, it was cancelled, or the backend failed.
        """
        self._require_no_choice(adapter)
        require_texts(texts, len(self._vocabulary), self._context_window)
        return self._embedder.embed(texts, self._turn, cancelled)

    @property
    def embedding_width(self) -> int:
        """Size of the vectors of `embed`."""
        return self._weights.width

    def embedding_suffix(self) -> list[int]:
        """Return the tokens that belong after a text to embed."""
        return self._embedder.suffix

    @property
    def n_embedding_cells(self) -> int:
        """KV cells of the context for embeddings; 0 before the first ones."""
        return self._embedder.n_cells

    def forget(self, conversation: str) -> None:
        """Free the cache of a conversation; unknown names are ignored.

        Raises:
            EngineError: called from a callback of `generate`, or the engine is closed.
        """
        with self._turn():
            self._cache.forget(conversation)

    def check_integrity(self) -> None:
        """Compare the records of the KV cache with llama.cpp's; for tests, after each step.

        Raises:
            EngineError: they differ.
        """
        with self._turn():
            self._cache.check()

    @property
    def _evaluation(self) -> SequenceQueue:
        return self._queue

    def _room_for(self, request: GenerateRequest) -> int:
        self._require_no_choice(request.adapter)
        limit = self._check_ids(request.prompt_ids)
        option = "context_window" if limit == self._context_window else "n_cells"
        return require_room(len(request.prompt_ids), limit, option=option)

    def _require_no_choice(self, adapter: str | None) -> None:
        if adapter is not None:
            raise EngineError(f"this engine has no adapter {adapter!r} to choose; load it with the adapter's file")

    def _check_ids(self, ids: Sequence[int]) -> int:
        """Check that the ids are a prompt; return the number of tokens that a conversation may hold."""
        require_token_ids(ids, len(self._vocabulary))
        return min(self._context_window, self._n_cells)

    def _enter(self, submission: PendingReply[SequenceStream], max_tokens: int) -> SequenceStream:
        request = submission.request
        n_fixed = min(request.fixed_tokens, len(request.prompt_ids) - 1)
        is_seeded = request.sampling.seed is not None
        return self._queue.submit(
            request.prompt_ids,
            submission.reply.out.ids,
            submission.reply.out.stats,
            conversation=request.conversation,
            n_fixed=n_fixed if n_fixed >= MIN_FIXED_TOKENS else 0,
            priority=request.priority,
            runs_alone=is_seeded,
            reuse="any" if not is_seeded else "exact" if self._measured_invariance() else "none",
        )

    def _may_draft(self, request: GenerateRequest) -> bool:
        return request.sampling.seed is None or self._measured_invariance()

    def _leave(self, submission: PendingReply[SequenceStream], stream: SequenceStream) -> None:
        self._queue.remove(stream)

    def _free(self) -> None:
        self._embedder.free()
        self._context.free()
        self._weights.free()
        if self._states is not None:
            self._states.wait()

    def _prompt_states(self, store: StateStore | None) -> PromptStates | None:
        """Connect the store with this engine.

        None on a GPU, where states were not shown to be equal bit for bit.
        """
        if store is None or self._context.on_gpu:
            return None
        settings = {
            "kv_type": self._kv_type,
            "flash_attention": self._context.flash_attention,
            "n_cells": self._n_cells,
            "n_batch": self._context.n_batch,
            # Flash attention splits sums by thread.
            "threads": self.threads.prefill if self._context.flash_attention else None,
        }
        return PromptStates(
            store,
            self._context,
            self._cache,
            spare_sequence=self._spare_sequence,
            settings=settings,
            fingerprint=self._model_fingerprint,
            batch_invariant=self._measured_invariance,
        )

    def _measured_invariance(self) -> bool:
        if self._is_invariant is None:
            self._is_invariant = self._context.may_be_invariant and cuts_change_nothing(
                self._context, self._spare_sequence, len(self._vocabulary)
            )
        return self._is_invariant


def _require_positive(**values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value < 1:
            raise EngineError(f"{name} must be at least 1, not {value}")
