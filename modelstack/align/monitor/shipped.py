"""Monitors in the package, by the profile whose model and adapter they were fitted on."""

from __future__ import annotations

from pathlib import Path

from modelstack.align.monitor.probe import Probe
from modelstack.errors import UserError

MONITOR_FILES = Path(__file__).parent / "weights"


def shipped_monitors() -> tuple[str, ...]:
    """Return the profiles that have a monitor in the package."""
    return tuple(sorted(file.stem for file in MONITOR_FILES.glob("*.safetensors")))


def named_probe(name: str) -> Probe:
    """Return a monitor by the name of a profile, or by the path of its file.

    Raises:
        UserError: There is none, or its file is broken.
    """
    return Probe.load(name) if name.endswith(".safetensors") else shipped_monitor(name)


def shipped_monitor(profile: str) -> Probe:
    """Return the monitor of a profile of the embedded model.

    Raises:
        UserError: There is none for it, or its file is broken.
    """
    if profile not in (known := shipped_monitors()):
        raise UserError(
            f"there is no monitor for {profile!r} in the package; there are {', '.join(known) or 'none'}"
        )
    return Probe.load(MONITOR_FILES / f"{profile}.safetensors")
