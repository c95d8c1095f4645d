"""Data for the demo's tools: a bakery's notes and orders, the same on every machine."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from importlib.resources import files
from pathlib import Path

PRODUCTS = ("rye bread", "wheat bread", "roll", "croissant", "butter cake")
PRICES_CENT = (420, 360, 55, 140, 230)
CUSTOMERS = ("Cafe Mira", "Hotel Linde", "School kitchen", "Corner shop", "Market stall", "Office canteen")
N_ORDERS = 360
N_DAYS = 28

_SCHEMA = """
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE orders (
    id INTEGER PRIMARY KEY,
    customer_id INTEGER NOT NULL REFERENCES customers (id),
    day TEXT NOT NULL,
    product TEXT NOT NULL,
    quantity INTEGER NOT NULL,
    price_cent INTEGER NOT NULL
);
"""


def write_notes(folder: Path) -> None:
    """Copy the notes into `folder`."""
    for source in files("agentkit.cli").joinpath("demo_files").iterdir():
        if source.name.endswith((".md", ".csv")):
            (folder / source.name).write_bytes(source.read_bytes())


def write_database(path: Path) -> None:
    """Create the database of orders. Multipliers coprime to each count spread the rows evenly."""
    with closing(sqlite3.connect(path)) as database, database:
        database.executescript(_SCHEMA)
        database.executemany("INSERT INTO customers VALUES (?, ?)", list(enumerate(CUSTOMERS, start=1)))
        database.executemany("INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?)", [_order(n) for n in range(N_ORDERS)])


def _order(n: int) -> tuple[int, int, str, str, int, int]:
    product = n * 7 % len(PRODUCTS)
    day = 1 + n * N_DAYS // N_ORDERS
    quantity = 1 + n * 11 % 12
    customer = 1 + n * 5 % len(CUSTOMERS)
    return n + 1, customer, f"2026-02-{day:02}", PRODUCTS[product], quantity, PRICES_CENT[product] * quantity
