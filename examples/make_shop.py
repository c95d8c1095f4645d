"""Write `shop.db`, the small database that the examples ask: customers, products and orders of a garden shop."""

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

CUSTOMERS = [
    ("Ada Moreau", "Lyon"),
    ("Bruno Keller", "Basel"),
    ("Chidi Okafor", "Lyon"),
    ("Dana Novak", "Prague"),
    ("Emil Larsen", "Bergen"),
    ("Farah Aziz", "Basel"),
]
PRODUCTS = [  # name, price in cents, pieces in stock
    ("spade", 2490, 14),
    ("rake", 1890, 9),
    ("watering can", 1250, 22),
    ("gloves", 790, 40),
    ("seed box", 1590, 0),
    ("lantern", 3200, 5),
    ("bird house", 2750, 3),
    ("compost bin", 5900, 2),
]
N_ORDERS = 60

SCHEMA = """
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL, city TEXT NOT NULL);
CREATE TABLE products (id INTEGER PRIMARY KEY, name TEXT NOT NULL, price_cents INT NOT NULL, stock INT NOT NULL);
CREATE TABLE orders (
    id INTEGER PRIMARY KEY,
    customer_id INTEGER NOT NULL REFERENCES customers (id),
    product_id INTEGER NOT NULL REFERENCES products (id),
    quantity INTEGER NOT NULL,
    day TEXT NOT NULL,
    status TEXT NOT NULL
);
"""


def order(n: int) -> tuple[int, int, int, str, str]:
    """Return the row of order `n`; the last customer has none, the latest orders are on their way or open."""
    customer, product, quantity = 1 + n * 3 % (len(CUSTOMERS) - 1), 1 + n * 5 % len(PRODUCTS), 1 + n % 3
    day = f"2026-{9 + n // 20:02}-{1 + n % 20 * 3 // 2:02}"
    return customer, product, quantity, day, "open" if n >= 54 else "sent" if n >= 48 else "delivered"


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("shop.db")
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as database, database:
        database.executescript(SCHEMA)
        database.executemany("INSERT INTO customers (name, city) VALUES (?, ?)", CUSTOMERS)
        database.executemany("INSERT INTO products (name, price_cents, stock) VALUES (?, ?, ?)", PRODUCTS)
        orders = "INSERT INTO orders (customer_id, product_id, quantity, day, status) VALUES (?, ?, ?, ?, ?)"
        database.executemany(orders, map(order, range(N_ORDERS)))
