"""Device types: peak by precision, memory, bandwidth, power and price, with sources.

Peaks are for dense matrices (makers print twice as much "with sparsity"). Peaks, memory, bandwidth and board
power: NVIDIA's data sheets of the A100, H100, H200, HGX B200 and the Ada architecture paper. Prices: RunPod's list
as of March 2026 (deploybase.ai/articles/runpod-gpu-pricing), for orientation only; they change monthly, so pass
your own.

Additional devices are a TOML file with a table `[devices.NAME]` for each, with the fields of `Device`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from modelstack.errors import UserError, reason_of
from modelstack.files import read_toml


class Device(BaseModel, frozen=True, extra="forbid"):
    """A device type."""

    name: str
    peak_flops: Mapping[str, float]
    """FLOP/s by precision: fp32, tf32, bf16, fp8; an absent precision cannot be planned."""
    memory_bytes: float = Field(gt=0)
    bandwidth: float = Field(gt=0)
    """Memory bandwidth in bytes per second."""
    watts: float = Field(ge=0)
    """Power of the device alone, in watts, without host, network and cooling."""
    usd_per_hour: float = Field(ge=0)
    source: str = "given by the user"

    def peak(self, precision: str) -> float:
        """Return the peak in a precision, in FLOP/s.

        Raises:
            UserError: The device has no peak in this precision.
        """
        if precision not in self.peak_flops:
            raise UserError(
                f"device {self.name!r} has no peak in precision {precision!r}; it has {', '.join(self.peak_flops)}"
            )
        return self.peak_flops[precision]


_SHEET = "maker's data sheet, dense; price: RunPod's list of March 2026"

DEVICES: dict[str, Device] = {
    device.name: device
    for device in (
        Device(
            name="h100",
            peak_flops={"fp32": 67e12, "tf32": 495e12, "bf16": 989e12, "fp8": 1979e12},
            memory_bytes=80e9,
            bandwidth=3.35e12,
            watts=700,
            usd_per_hour=2.69,
            source=f"H100 SXM5: {_SHEET}",
        ),
        Device(
            name="h200",
            peak_flops={"fp32": 67e12, "tf32": 495e12, "bf16": 989e12, "fp8": 1979e12},
            memory_bytes=141e9,
            bandwidth=4.8e12,
            watts=700,
            usd_per_hour=3.59,
            source=f"H200 SXM: {_SHEET}",
        ),
        Device(
            name="b200",
            # HGX B200 uses 180 GB per GPU of the 192 GB on the package.
            peak_flops={"fp32": 75e12, "tf32": 1125e12, "bf16": 2250e12, "fp8": 4500e12},
            memory_bytes=180e9,
            bandwidth=8e12,
            watts=1000,
            usd_per_hour=5.98,
            source=f"HGX B200: {_SHEET}",
        ),
        Device(
            name="a100",
            peak_flops={"fp32": 19.5e12, "tf32": 156e12, "bf16": 312e12},
            memory_bytes=80e9,
            bandwidth=2.039e12,
            watts=400,
            usd_per_hour=1.39,
            source=f"A100 SXM 80 GB: {_SHEET}",
        ),
        Device(
            name="rtx4090",
            # Tensor cores accumulating in fp32; accumulation in fp16 is twice as fast.
            peak_flops={"fp32": 82.6e12, "tf32": 82.6e12, "bf16": 165.2e12, "fp8": 330.3e12},
            memory_bytes=24e9,
            bandwidth=1.008e12,
            watts=450,
            usd_per_hour=0.34,
            source=f"GeForce RTX 4090: {_SHEET}",
        ),
        Device(
            name="cpu-2-threads",
            # Peaks measured with 2048^3 matrix products on 2 threads of an idle server CPU with AVX512-BF16.
            # Memory, bandwidth, watts and price are round assumptions for two virtual cores; measure your own.
            peak_flops={"fp32": 92e9, "bf16": 210e9},
            memory_bytes=8e9,
            bandwidth=20e9,
            watts=20,
            usd_per_hour=0.08,
            source="two threads of a server CPU: peaks measured, the rest assumed (November 2026)",
        ),
    )
}


def read_devices(file: Path) -> dict[str, Device]:
    """Return the devices of a TOML file by name.

    Raises:
        UserError: The file is not TOML, or a device lacks a field.
    """
    content = read_toml(file, "devices file")
    tables = content.get("devices")
    if not isinstance(tables, dict) or set(content) != {"devices"}:
        raise UserError(f"devices file {file} must hold tables [devices.NAME] and nothing else")
    devices = {}
    for name, values in tables.items():
        try:
            devices[name] = Device.model_validate({"name": name, **values})
        except (ValidationError, TypeError) as error:
            raise UserError(f"devices file {file}, [devices.{name}]: {_first_error(error)}") from error
    return devices


def find_device(name: str, own: Mapping[str, Device] | None = None) -> Device:
    """Return a device by name; `own` takes precedence over the built-in devices.

    Raises:
        UserError: The name is unknown.
    """
    devices = {**DEVICES, **(own or {})}
    if name not in devices:
        nearest = difflib.get_close_matches(name, devices, n=1, cutoff=0)[0]
        raise UserError(
            f"device {name!r} is not known; nearest: {nearest!r}. Known: {', '.join(devices)}; "
            f"add others with --devices-file"
        )
    return devices[name]


def _first_error(error: ValidationError | TypeError) -> str:
    if isinstance(error, TypeError):
        return "must be a table of fields"
    fault = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, fault['loc']))}: {reason_of(fault)} (given: {fault['input']!r})"
