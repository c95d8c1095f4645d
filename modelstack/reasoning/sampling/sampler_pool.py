"""Rollouts by several samplers at once, as actors of a Ray cluster, each with the trainer's newest weights.

The first request copies the trainer's model to the actors. Later requests send only the tensors that training
moves, when they have moved. A prompt brings its own seed, so its replies do not depend on the actor that writes
them; a sampler that writes prompts together may round differently (`equal_length_sampler`). Ray restarts a killed
actor and repeats its part.
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
"""Sets of weights that a local object store has room for: the base, the newest weights, those before."""


class SamplerPool:
    """A `Sampler` over Ray actors; give the machines back with `close` or a `with` block."""

    def __init__(
        self, base: Base, make: Callable[[Base], Sampler], n_samplers: int, *, threads: int = 1, gpus: float = 0
    ) -> None:
        """Start nothing yet.

        Args:
            base: Base whose model is in training.
            make: Makes an actor's sampler from its copy of the base. It runs in the actor.
            n_samplers: Number of actors.
            threads: CPUs and torch threads of an actor.
            gpus: GPUs of an actor, whose copy then lies on the first; 0: its copy lies in the CPU's memory.

        Raises:
            UserError: There is less than one sampler.
        """
        if n_samplers < 1:
            raise UserError(f"a pool of {n_samplers} samplers cannot sample; give 1 or more")
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
            UserError: As the actors' samplers; Ray is missing; an actor was killed repeatedly.
            Exception: Any other error of the actors' samplers.
        """
        if not self._actors:
            self._start()
        self._follow()
        shared = [self._copy, self._weights]  # Ray resolves no references in a list: an actor fetches what is new
        parts = [part for part in _parts(asked, self._n_samplers) if part]
        replies = [
            actor.sample.remote(shared, self._digest, part, n_replies)
            for actor, part in zip(self._actors, parts, strict=False)
        ]
        return list(itertools.chain.from_iterable(results(self._ray, replies)))

    def close(self) -> None:
        """End the actors. May be called twice; a later `sample` starts them anew."""
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors, self._digest, self._copy, self._weights = [], None, None, None
        self._cluster.close()

    def __enter__(self) -> SamplerPool:
        """Return self; leaving the block closes it."""
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Close."""
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
        """Store the moved weights for the actors, once for all."""
        digest = weights_digest(self._base.model)
        if digest != self._digest:
            self._weights = self._ray.put(_moved_weights(self._base.model))
            self._digest = digest


class _PooledSampler:
    """An actor: a copy of the base and the sampler made from it, both from the first request on."""

    def __init__(self, make: Callable[[Base], Sampler], threads: int) -> None:
        set_up_process(threads)  # as the trainer, so that products have the same bits
        self._make = make
        self._base: Base | None = None
        self._digest: bytes | None = None

    def sample(
        self, copy_and_weights: list[Any], digest: bytes, asked: list[Asked], n: int
    ) -> list[list[Sampled]]:
        """Return replies with the weights of a digest."""
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
    """Return the tensors that training moves, buffers among them, in the CPU's memory."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {name: each.detach().cpu() for name, each in model.state_dict().items() if name not in frozen}


def _parts(asked: Sequence[Asked], n: int) -> list[list[Asked]]:
    """Return prompts cut into n parts whose lengths differ by at most one."""
    bounds = [len(asked) * k // n for k in range(n + 1)]
    return [list(asked[start:end]) for start, end in itertools.pairwise(bounds)]
