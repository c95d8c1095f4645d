"""The peer of the measurement of retrieval, in its own environment: sqlite-vec, which compares with all vectors.

Reads vectors as .npy files and prints one JSON line with milliseconds. sqlite-vec is an extension of SQLite, which
many builds of Python cannot load; `apsw` brings a SQLite that can.
"""

# pyright: reportMissingImports=false
# The peer is installed in a separate environment.
from __future__ import annotations

import json
import sys
import time
from pathlib import Path

TOP = 10


def main() -> None:
    """Fill a table with the vectors of a folder, search for each query, and print times and ids."""
    import apsw
    import numpy as np
    import sqlite_vec

    folder = Path(sys.argv[1])
    vectors, queries = np.load(folder / "vectors.npy"), np.load(folder / "queries.npy")
    connection = apsw.Connection(str(folder / "sqlite-vec.db"))
    connection.enable_load_extension(True)
    connection.load_extension(sqlite_vec.loadable_path())
    connection.execute(f"CREATE VIRTUAL TABLE items USING vec0(vector float[{vectors.shape[1]}])")
    rows = ((number, vector.astype(np.float32).tobytes()) for number, vector in enumerate(vectors))
    with connection:
        connection.executemany("INSERT INTO items(rowid, vector) VALUES (?, ?)", rows)
    sql = f"SELECT rowid FROM items WHERE vector MATCH ? AND k = {TOP} ORDER BY distance"
    times, found = list[float](), list[list[int]]()
    for query in queries:
        started = time.perf_counter()
        found.append([row[0] for row in connection.execute(sql, (query.astype(np.float32).tobytes(),))])
        times.append((time.perf_counter() - started) * 1e3)
    print(json.dumps({"ms": times, "found": found}))


if __name__ == "__main__":
    main()
