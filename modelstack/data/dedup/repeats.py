"""Items of a shard that repeat an item of the same shard or an earlier one, for lines and windows.

A folder with one file per shard. A record is a position (uint32) and the name (uint64) of the first item with the
same key, in order of position.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from modelstack.data.dedup.key_files import open_comparable
from modelstack.data.dedup.merging import MAX_RECORDS
from modelstack.data.dedup.pairs import pairs_among
from modelstack.errors import UserError
from modelstack.files import replacing_folder

_RECORD = np.dtype([("position", "<u4"), ("first", "<u8")])


def write_repeats(
    key_files: Sequence[Path], out: Path, *, earlier: Sequence[Path] = (), max_records: int = MAX_RECORDS
) -> int:
    """Write the repeats of each shard to a folder; return their number.

    Args:
        key_files: One file per shard, with one bucket.
        out: The folder, written atomically.
        earlier: Key files of earlier dumps; a repeat of their items has the first name `EARLIER`.
        max_records: Maximum records in memory at once.

    Raises:
        UserError: A file is not a key file, or the files are not comparable.
    """
    files = open_comparable([*key_files, *earlier])
    n = 0
    with replacing_folder(out) as folder:
        for shard in range(len(key_files)):
            _file(folder, shard).touch()
        for pairs in pairs_among(files[: len(key_files)], 0, files[len(key_files) :], max_records):
            n += len(pairs)
            shards = pairs[:, 1] >> np.uint64(32)
            order = np.argsort(shards, kind="stable")
            borders = np.flatnonzero(np.diff(shards[order])) + 1
            for part in np.split(pairs[order], borders):
                records = np.empty(len(part), _RECORD)
                records["position"] = part[:, 1] & np.uint64(0xFFFFFFFF)
                records["first"] = part[:, 0]
                with _file(folder, int(part[0, 1]) >> 32).open("ab") as file:
                    file.write(records.tobytes())
        for shard in range(len(key_files)):
            records = np.fromfile(_file(folder, shard), _RECORD)
            records[np.argsort(records["position"], kind="stable")].tofile(_file(folder, shard))
    return n


def read_repeats(folder: Path, shard: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the ascending positions of repeats in a shard, and the names of the items that they repeat.

    Raises:
        UserError: The folder has no such shard.
    """
    path = _file(folder, shard)
    if not path.exists():
        raise UserError(f"{folder} has no shard {shard}; it was written for fewer")
    records = np.fromfile(path, _RECORD)
    return records["position"].astype(np.int64), np.ascontiguousarray(records["first"])


def _file(folder: Path, shard: int) -> Path:
    return folder / f"{shard:05d}.repeats"
