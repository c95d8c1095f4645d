"""Time, energy and money for training and serving on a device type; mixtures of experts against dense models.

Time is FLOPs divided by peak times utilisation. A mixture of experts computes with its active parameters and
stores all of them. Its loss lies between those of dense models with its active and with all its parameters. The
fits of `scaling_laws` contain no mixtures, so both losses are reported and the mixture's own is not predicted.

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

    Defaults: training as reported by Llama 3 in bf16 (38 to 43 %) and measured by torchtitan (33 to 39 %); prompt
    processing is as dense as training; decoding is limited by memory bandwidth, and 1 % is the value of Sardana
    and Frankle. `decode_ceiling` computes the limit of a device.
    """

    training: float = Field(default=0.4, gt=0, le=1)
    prompt: float = Field(default=0.4, gt=0, le=1)
    output: float = Field(default=0.01, gt=0, le=1)


class Bill(BaseModel, frozen=True):
    """Cost of a number of FLOPs on devices of one type."""

    device: str
    n_devices: int
    flops: float
    hours: float
    """Wall-clock hours, with all devices in parallel."""
    watts: float
    usd_per_hour: float

    @computed_field
    @property
    def device_hours(self) -> float:
        """Hours summed over devices."""
        return self.hours * self.n_devices

    @computed_field
    @property
    def energy_kwh(self) -> float:
        """Energy of the devices at full board power, in kWh."""
        return self.device_hours * self.watts * SECONDS_PER_HOUR / JOULES_PER_KWH

    @computed_field
    @property
    def usd(self) -> float:
        """Cost in US dollars."""
        return self.device_hours * self.usd_per_hour


class Dense(BaseModel, frozen=True):
    """A dense model for comparison with a mixture."""

    n_parameters: int
    training_flops_per_token: float
    """Training FLOPs per token, 6 N."""
    weight_bytes_bf16: int
    loss: float


class MixtureComparison(BaseModel, frozen=True):
    """A mixture of experts between the dense models of its active and of all its parameters."""

    n_active: int
    n_total: int
    training_flops_per_token: float
    """Training FLOPs per token: 6 N with the active parameters."""
    weight_bytes_bf16: int
    as_active: Dense
    """Dense model with the same compute per token, which the mixture should beat."""
    as_total: Dense
    """Dense model with the same memory, which the mixture is not expected to beat."""


def bill(flops: float, device: Device, precision: str, utilisation: float, n_devices: int = 1) -> Bill:
    """Return time, energy and money for `flops`.

    Raises:
        UserError: The device has no peak in this precision, or a number is out of range.
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
    """Return the wall-clock hours per FLOP for training, prompts and outputs.

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
    """Return the US dollars per FLOP for training, prompts and outputs.

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
    """Return the highest utilisation that memory bandwidth allows when `batch` sequences are decoded.

    Args:
        config: The model.
        device: The serving device.
        context: Tokens before the decoded token, per sequence.
        batch: Number of sequences decoded together.
        precision: Precision of the peak.

    Raises:
        UserError: The device has no peak in this precision.
    """
    reached = decode_intensity(config, context, batch) * device.bandwidth
    return min(1.0, reached / device.peak(precision))


def non_embedding_parameters(config: ModelConfig) -> int:
    """Return the number of parameters outside the embedding and the head."""
    count = count_parameters(config)
    return count.total - count.embedding - count.parts[HEAD].total


def law_parameters(config: ModelConfig) -> int:
    """Return N for costs and scaling laws: all parameters, or the active ones of a mixture.

    Hoffmann's fits count embeddings, so the embedding table is included.
    """
    return count_parameters(config).active_with_embedding


def exact_training_flops(config: ModelConfig, n_tokens: float, context: int) -> float:
    """Return the training FLOPs including attention at this context, for comparison with 6 N D."""
    return training_flops_per_token(config, context) * n_tokens


def cache_by_context(config: ModelConfig, context: int) -> dict[int, int]:
    """Return the bf16 cache bytes of one sequence by length: powers of two up to `context`, and `context`."""
    lengths = [length for length in (2**power for power in range(9, 21)) if length < context]
    return {length: cache_bytes(config, length) for length in [*lengths[-4:], context]}


def embedding_share(config: ModelConfig) -> float:
    """Return the share of all parameters in the embedding and the head."""
    count = count_parameters(config)
    return (count.parts[EMBEDDING].total + count.parts[HEAD].total) / count.total


def compare_mixture(config: ModelConfig, n_tokens: float, law: ScalingLaw) -> MixtureComparison:
    """Compare a mixture of experts with dense models of its active and of all its parameters.

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
