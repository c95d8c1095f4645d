"""Rollouts by several samplers in parallel, as actors of a Ray cluster with the trainer's latest weights.

The first request copies the trainer's model to the actors. Later requests send only the trained tensors, and
only after a change. Each prompt has its own seed, so its replies do not depend on the actor that writes them; a
sampler that batches prompts may round differently (`continuing`). Ray restarts a killed actor and
repeats its part.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from modelstack.architecture.decoder import CausalLM
from modelstack.errors import UserError
from modelstack.posttrain.base import Base
from modelstack.ray_cluster import OBJECT_STORE_BYTES, RETRIES, ray_cluster, results
from modelstack.reasoning.sampling.llama.served_policy import weights_digest
from modelstack.reasoning.sampling.sampled import Asked, Sampled, Sampler
from modelstack.train.process import set_up_process

COPIES = 3
"""Sets of weights that fit into a local object store: the base, the latest weights and the previous ones."""


class SamplerPool:
    """`Sampler` that distributes prompts over Ray actors; release them with `close` or a `with` block."""

    def __init__(
        self, base: Base, make: Callable[[Base], Sampler], n_samplers: int, *, threads: int = 1, gpus: float = 0
    ) -> None:
        """Store the settings; actors start with the first request.

        Args:
            base: Base whose model is in training.
            make: Makes an actor's sampler from its copy of the base; called in the actor.
            n_samplers: Number of actors.
            threads: CPUs and torch threads per actor.
            gpus: GPUs per actor. Its copy is on the first GPU; 0: in CPU memory.

        Raises:
            UserError: `n_samplers` is below 1.
        """
        if n_samplers < 1:
            raise UserError(f"n_samplers is {n_samplers}; it must be 1 or more")
        self._base, self._make, self._n_samplers = base, make, n_samplers
        self._threads, self._gpus = threads, gpus
        self._cluster = ExitStack()
        self._ray: Any = None
        self._actors: list[Any] = []
        self._digest: bytes | None = None
        self._copy: Any = None
        """Ray's reference to the base, which a restarted actor reads again."""
        self._weights: Any = None

    def sample(self, asked: Sequence[Asked], n_replies: int) -> list[list[Sampled]]:
        """Return the replies to each prompt, in order.

        Raises:
            UserError: An actor's sampler raised it, Ray is missing, or an actor was killed repeatedly.
            Exception: Any other error of an actor's sampler.
        """
        if not self._actors:
            self._start()
        self._follow()
        shared = [
            self._copy,
            self._weights,
        ]  # Ray does not resolve references in a list, so an actor fetches only what changed
        parts = [part for part in _parts(asked, self._n_samplers) if part]
        replies = [
            actor.sample.remote(shared, self._digest, part, n_replies)
            for actor, part in zip(self._actors, parts, strict=False)
        ]
        return list(itertools.chain.from_iterable(results(self._ray, replies)))

    def close(self) -> None:
        """End the actors. Idempotent; a later `sample` starts new ones."""
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors, self._digest, self._copy, self._weights = [], None, None, None
        self._cluster.close()

    def __enter__(self) -> SamplerPool:
        """Return self; leaving the block closes the pool."""
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Close the pool."""
        self.close()

    def _start(self) -> None:
        model = self._base.model
        n_bytes = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
        ray = self._ray = self._cluster.enter_context(
            ray_cluster(
                self._n_samplers * self._threads, object_store_bytes=max(OBJECT_STORE_BYTES, COPIES * n_bytes)
            )
        )
        on_cpu = model if next(model.parameters()).device.type == "cpu" else copy.deepcopy(model).cpu()
        self._copy = ray.put(replace(self._base, model=on_cpu))
        actor = ray.remote(num_cpus=self._threads, num_gpus=self._gpus, max_restarts=-1, max_task_retries=RETRIES)(
            _PooledSampler
        )
        self._actors = [actor.remote(self._make, self._threads) for _ in range(self._n_samplers)]

    def _follow(self) -> None:
        """Store the changed weights once for all actors."""
        digest = weights_digest(self._base.model)
        if digest != self._digest:
            self._weights = self._ray.put(_moved_weights(self._base.model))
            self._digest = digest


class _PooledSampler:
    """Actor with a copy of the base and the sampler made from it, both created at the first request."""

    def __init__(self, make: Callable[[Base], Sampler], threads: int) -> None:
        set_up_process(threads)  # same settings as the trainer, so that products have the same bits
        self._make = make
        self._base: Base | None = None
        self._digest: bytes | None = None

    def sample(
        self, copy_and_weights: list[Any], digest: bytes, asked: list[Asked], n: int
    ) -> list[list[Sampled]]:
        """Return replies sampled with the weights of a digest."""
        if self._base is None:
            base: Base = _fetched(copy_and_weights[0])
            base.model.to("cuda" if torch.cuda.is_available() else "cpu")
            self._base, self._sampler = base, self._make(base)
        if digest != self._digest:
            self._base.model.load_state_dict(_fetched(copy_and_weights[1]), strict=False)
            self._digest = digest
        return self._sampler.sample(asked, n)


def _fetched(reference: Any) -> Any:
    import ray

    return ray.get(reference)


def _moved_weights(model: CausalLM) -> dict[str, Tensor]:
    """Return the tensors that training changes, including buffers, in CPU memory."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {name: each.detach().cpu() for name, each in model.state_dict().items() if name not in frozen}


def _parts(asked: Sequence[Asked], n: int) -> list[list[Asked]]:
    """Return the prompts split into n parts whose lengths differ by at most 1."""
    bounds = [len(asked) * k // n for k in range(n + 1)]
    return [list(asked[start:end]) for start, end in itertools.pairwise(bounds)]
