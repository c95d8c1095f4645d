"""Time, energy and money of training and serving a model on a kind of device; mixtures against dense models.

Time is FLOPs over peak times utilisation. A mixture of experts computes with its active parameters and is stored
with all of them; its loss lies between those of dense models of the one and of the other size (the fits of
`scaling_laws` saw no mixtures), so both are told and neither is promised.

Letters: N parameters, D tokens.
"""

from __future__ import annotations

from pydantic import BaseModel, Field, computed_field

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.counts.flops import training_flops_per_token
from modelstack.architecture.counts.memory import cache_bytes, decode_intensity, weight_bytes
from modelstack.architecture.counts.parameters import EMBEDDING, HEAD, count_parameters
from modelstack.decide.devices import Device
from modelstack.decide.inference_aware import Rates
from modelstack.decide.scaling_laws import ScalingLaw
from modelstack.errors import UserError

SECONDS_PER_HOUR = 3600
JOULES_PER_KWH = 3.6e6


class Utilisation(BaseModel, frozen=True, extra="forbid"):
    """Share of a device's peak that each kind of work reaches.

    Defaults: training as Llama 3 reports in bf16 (38 to 43 %) and torchtitan measures (33 to 39 %); a prompt is
    as dense as training; writing one token after the other waits for memory, and 1 % is what Sardana and Frankle
    take. `decode_ceiling` says what a device allows.
    """

    training: float = Field(default=0.4, gt=0, le=1)
    prompt: float = Field(default=0.4, gt=0, le=1)
    output: float = Field(default=0.01, gt=0, le=1)


class Bill(BaseModel, frozen=True):
    """What some FLOPs cost on devices of one kind."""

    device: str
    n_devices: int
    flops: float
    hours: float
    """On the clock, all devices working together."""
    watts: float
    usd_per_hour: float

    @computed_field
    @property
    def device_hours(self) -> float:
        """Return hours summed over devices."""
        return self.hours * self.n_devices

    @computed_field
    @property
    def energy_kwh(self) -> float:
        """Return the devices' own energy at full board power."""
        return self.device_hours * self.watts * SECONDS_PER_HOUR / JOULES_PER_KWH

    @computed_field
    @property
    def usd(self) -> float:
        """Return the money."""
        return self.device_hours * self.usd_per_hour


class Dense(BaseModel, frozen=True):
    """A dense model that a mixture is held against."""

    n_parameters: int
    training_flops_per_token: float
    """6 N."""
    weight_bytes_bf16: int
    loss: float


class MixtureComparison(BaseModel, frozen=True):
    """A mixture of experts between the dense models of its active and of all its parameters."""

    n_active: int
    n_total: int
    training_flops_per_token: float
    """6 N active."""
    weight_bytes_bf16: int
    as_active: Dense
    """As costly to compute: what the mixture should beat."""
    as_total: Dense
    """As large in memory: what the mixture cannot be expected to beat."""


def bill(flops: float, device: Device, precision: str, utilisation: float, n_devices: int = 1) -> Bill:
    """Return time, energy and money of `flops`.

    Raises:
        UserError: The device has no peak in this precision, or a number cannot be.
    """
    if n_devices < 1:
        raise UserError(f"n_devices {n_devices} must be at least 1")
    if not 0 < utilisation <= 1:
        raise UserError(f"utilisation {utilisation:g} must lie in (0, 1]")
    return Bill(
        device=device.name,
        n_devices=n_devices,
        flops=flops,
        hours=flops / (device.peak(precision) * utilisation * n_devices) / SECONDS_PER_HOUR,
        watts=device.watts,
        usd_per_hour=device.usd_per_hour,
    )


def hour_rates(
    trainer: Device, server: Device, precision: str, used: Utilisation, n_trainers: int = 1, n_servers: int = 1
) -> Rates:
    """Return what a FLOP of each kind takes in hours on the clock.

    Raises:
        UserError: A device has no peak in this precision.
    """
    return Rates(
        bill(1, trainer, precision, used.training, n_trainers).hours,
        bill(1, server, precision, used.prompt, n_servers).hours,
        bill(1, server, precision, used.output, n_servers).hours,
        "hours",
    )


def money_rates(trainer: Device, server: Device, precision: str, used: Utilisation) -> Rates:
    """Return what a FLOP of each kind costs in dollars.

    Raises:
        UserError: A device has no price, or no peak in this precision.
    """
    for device in (trainer, server):
        if not device.usd_per_hour:
            raise UserError(f"device {device.name!r} has no price: give usd_per_hour, or plan in hours or FLOPs")
    return Rates(
        bill(1, trainer, precision, used.training).usd,
        bill(1, server, precision, used.prompt).usd,
        bill(1, server, precision, used.output).usd,
        "USD",
    )


def decode_ceiling(
    config: ModelConfig, device: Device, context: int, batch: int, precision: str = "bf16"
) -> float:
    """Return the utilisation that a device's memory allows when `batch` sequences are decoded behind `context`.

    Raises:
        UserError: The device has no peak in this precision.
    """
    reached = decode_intensity(config, context, batch) * device.bandwidth
    return min(1.0, reached / device.peak(precision))


def non_embedding_parameters(config: ModelConfig) -> int:
    """Return the parameters outside the embedding and the head."""
    count = count_parameters(config)
    return count.total - count.embedding - count.parts[HEAD].total


def law_parameters(config: ModelConfig) -> int:
    """Return the N that costs and laws are asked with: all parameters, or those active in a mixture.

    Hoffmann's fits count embeddings, so a table that is only looked up is in.
    """
    return count_parameters(config).active_with_embedding


def exact_training_flops(config: ModelConfig, n_tokens: float, context: int) -> float:
    """Return the FLOPs of training with attention at this context, to hold against 6 N D."""
    return training_flops_per_token(config, context) * n_tokens


def cache_by_context(config: ModelConfig, context: int) -> dict[int, int]:
    """Return the bytes of one sequence's cache in bf16 at powers of two up to a context, and at it."""
    lengths = [length for length in (2**power for power in range(9, 21)) if length < context]
    return {length: cache_bytes(config, length) for length in [*lengths[-4:], context]}


def embedding_share(config: ModelConfig) -> float:
    """Return the share of all parameters in the embedding and the head."""
    count = count_parameters(config)
    return (count.parts[EMBEDDING].total + count.parts[HEAD].total) / count.total


def compare_mixture(config: ModelConfig, n_tokens: float, law: ScalingLaw) -> MixtureComparison:
    """Hold a mixture of experts against dense models of its active and of all its parameters.

    Raises:
        UserError: The model has no experts.
    """
    if not config.has_experts:
        raise UserError(f"{config.model_type!r} has no experts to compare")
    count = count_parameters(config)
    return MixtureComparison(
        n_active=count.active_with_embedding,
        n_total=count.total,
        training_flops_per_token=6 * count.active_with_embedding,
        weight_bytes_bf16=weight_bytes(config),
        as_active=_dense(count.active_with_embedding, n_tokens, law),
        as_total=_dense(count.total, n_tokens, law),
    )


def _dense(n_parameters: int, n_tokens: float, law: ScalingLaw) -> Dense:
    return Dense(
        n_parameters=n_parameters,
        training_flops_per_token=6 * n_parameters,
        weight_bytes_bf16=2 * n_parameters,
        loss=law.loss(n_parameters, n_tokens),
    )
