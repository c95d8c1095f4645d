"""Device kinds: ours are plausible, own ones come from TOML."""

from pathlib import Path

import pytest

from modelstack.decide.devices import DEVICES, find_device, read_devices
from modelstack.errors import UserError

OWN = """
[devices.lab]
peak_flops = {bf16 = 1.5e14}
memory_bytes = 48e9
bandwidth = 9e11
watts = 300
usd_per_hour = 0.5
"""


def test_every_device_computes_faster_the_fewer_bits() -> None:
    for device in DEVICES.values():
        peaks = [device.peak_flops[kind] for kind in ("fp32", "tf32", "bf16", "fp8") if kind in device.peak_flops]
        assert peaks == sorted(peaks) and peaks[0] > 0
        assert device.usd_per_hour > 0 and device.source


def test_the_measured_core_peaks_are_kept() -> None:
    cpu = find_device("cpu-2-threads")
    assert (cpu.peak("fp32"), cpu.peak("bf16")) == (92e9, 210e9)


def test_own_devices_come_from_toml_and_go_first(tmp_path: Path) -> None:
    file = tmp_path / "devices.toml"
    file.write_text(OWN + OWN.replace("lab", "h100"), encoding="utf-8")
    own = read_devices(file)
    assert find_device("lab", own).peak("bf16") == 1.5e14
    assert find_device("h100", own).memory_bytes == 48e9
    assert find_device("h100").memory_bytes == 80e9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("devices = [", "is not TOML"),
        ("[machines.lab]\nwatts = 3", "must hold tables"),
        ("[devices.lab]\nwatts = 3", r"\[devices.lab\]: peak_flops: Field required"),
        ("[devices.lab]\npeak = 3", r"\[devices.lab\]"),
        ("[devices]\nlab = 3", r"\[devices.lab\]: must be a table"),
    ],
)
def test_a_bad_file_says_where(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "devices.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_devices(file)


def test_an_unknown_device_and_precision_name_what_there_is() -> None:
    with pytest.raises(UserError, match="'h10' is not known; nearest: 'h100'"):
        find_device("h10")
    with pytest.raises(UserError, match="no peak in precision 'fp8'; it has fp32, tf32, bf16"):
        DEVICES["a100"].peak("fp8")
