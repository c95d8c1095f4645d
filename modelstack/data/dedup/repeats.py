"""What a shard repeats of itself or of shards before it: for lines and windows, where only the first stays.

A folder with one file a shard: records of a position (uint32) and the name (uint64) of the first that has the same
key, in the order of positions.
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
    """Write what each shard repeats to a folder; return how many things do.

    Args:
        key_files: One a shard, of one bucket.
        out: The folder; appears whole or not at all.
        earlier: Key files of dumps before; a repeat of them has the first `EARLIER`.
        max_records: In memory at once.

    Raises:
        UserError: A file is no key file, or they do not belong together.
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
    """Return positions of a shard that repeat something, ascending, and the names of what they repeat.

    Raises:
        UserError: The folder holds no such shard.
    """
    path = _file(folder, shard)
    if not path.exists():
        raise UserError(f"{folder} has no shard {shard}; it was written for fewer")
    records = np.fromfile(path, _RECORD)
    return records["position"].astype(np.int64), np.ascontiguousarray(records["first"])


def _file(folder: Path, shard: int) -> Path:
    return folder / f"{shard:05d}.repeats"
