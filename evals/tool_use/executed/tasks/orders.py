"""Area "orders": a shop's database of customers and orders; two customers have the same first name."""

from __future__ import annotations

from evals.tool_use.executed.task import (
    End,
    NumberAnswer,
    RowChange,
    Solution,
    Start,
    Task,
    call,
)

START = Start(
    sql="""\
CREATE TABLE customers (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, city TEXT NOT NULL, email TEXT NOT NULL
);
CREATE TABLE orders (
    id INTEGER PRIMARY KEY,
    customer_id INTEGER NOT NULL REFERENCES customers(id),
    placed TEXT NOT NULL,
    status TEXT NOT NULL,
    total REAL NOT NULL
);
INSERT INTO customers VALUES
    (1, 'Ana Ruiz', 'Madrid', 'ana@example.org'),
    (2, 'Ben Cole', 'Leeds', 'ben@example.org'),
    (3, 'Chloe Petit', 'Lyon', 'chloe@example.org'),
    (4, 'Ana Rossi', 'Milan', 'rossi@example.org');
INSERT INTO orders VALUES
    (101, 1, '2026-02-03', 'shipped', 49.90),
    (102, 2, '2026-02-05', 'open', 120.00),
    (103, 1, '2026-02-11', 'open', 15.50),
    (104, 3, '2026-02-14', 'cancelled', 80.00),
    (105, 4, '2026-02-20', 'shipped', 230.00),
    (106, 2, '2026-03-01', 'open', 64.25),
    (107, 3, '2026-03-02', 'open', 33.00);
"""
)

TASKS = (
    Task(
        id="orders-open-sum",
        prompt=(
            "What do the open orders add up to? The table orders has id, customer_id, placed, status and total."
        ),
        servers=("sqlite",),
        start=START,
        reference=Solution(
            (call("query", sql="SELECT sum(total) FROM orders WHERE status = 'open'"),),
            "The open orders add up to 232.75.",
        ),
        wrong=Solution((call("query", sql="SELECT sum(total) FROM orders"),), "They add up to 592.65."),
        answer=NumberAnswer(232.75, forbidden=(592.65, 279.9)),
    ),
    Task(
        id="orders-ship-one",
        prompt="Order 103 left today: set its status to shipped in the table orders (columns id, status).",
        servers=("sqlite",),
        start=START,
        reference=Solution(
            (
                call(
                    "execute",
                    sql="UPDATE orders SET status = ? WHERE id = ?",
                    parameters=["shipped", 103],
                ),
            ),
            "Order 103 is shipped.",
        ),
        wrong=Solution(
            (call("execute", sql="UPDATE orders SET status = 'shipped' WHERE status = 'open'"),),
            "Order 103 is shipped.",
        ),
        end=End(
            rows=(
                RowChange(
                    "orders",
                    removed=((103, 1, "2026-02-11", "open", 15.5),),
                    added=((103, 1, "2026-02-11", "shipped", 15.5),),
                ),
            )
        ),
    ),
    Task(
        id="orders-largest",
        prompt="What is the number (id) of the order with the largest total in the table orders?",
        servers=("sqlite",),
        start=START,
        reference=Solution(
            (call("query", sql="SELECT id, total FROM orders ORDER BY total DESC LIMIT 1"),), "It is order 105."
        ),
        wrong=Solution((call("query", sql="SELECT max(id) FROM orders"),), "It is order 107."),
        answer=NumberAnswer(105, forbidden=(101, 102, 103, 104, 106, 107)),
    ),
    Task(
        id="orders-spent-by-ana-ruiz",
        prompt="How much has Ana Ruiz ordered for in total, all her orders together?",
        servers=("sqlite",),
        start=START,
        reference=Solution(
            (
                call("list_tables"),
                call(
                    "query",
                    sql=(
                        "SELECT sum(total) FROM orders JOIN customers ON customers.id = customer_id WHERE name = ?"
                    ),
                    parameters=["Ana Ruiz"],
                ),
            ),
            "She has ordered for 65.40.",
        ),
        wrong=Solution(
            (
                call("list_tables"),
                call(
                    "query",
                    sql=(
                        "SELECT sum(total) FROM orders JOIN customers ON customers.id = customer_id "
                        "WHERE name LIKE 'Ana%'"
                    ),
                ),
            ),
            "She has ordered for 295.40.",
        ),
        answer=NumberAnswer(65.4, forbidden=(295.4, 230)),
    ),
    Task(
        id="orders-new-address",
        prompt="Ben Cole has a new e-mail address: b.cole@example.com. Please change it in the database.",
        servers=("sqlite",),
        start=START,
        reference=Solution(
            (
                call("list_tables"),
                call(
                    "execute",
                    sql="UPDATE customers SET email = ? WHERE name = ?",
                    parameters=["b.cole@example.com", "Ben Cole"],
                ),
            ),
            "His address is b.cole@example.com now.",
        ),
        wrong=Solution(
            (
                call("list_tables"),
                call("execute", sql="UPDATE customers SET email = 'b.cole@example.com' WHERE id = 3"),
            ),
            "His address is b.cole@example.com now.",
        ),
        end=End(
            rows=(
                RowChange(
                    "customers",
                    removed=((2, "Ben Cole", "Leeds", "ben@example.org"),),
                    added=((2, "Ben Cole", "Leeds", "b.cole@example.com"),),
                ),
            )
        ),
    ),
    Task(
        id="orders-add-for-chloe",
        prompt=(
            "Chloe Petit just ordered again. Enter it in the database: placed 2026-03-05, open, total 18.75, with "
            "the next free order number."
        ),
        servers=("sqlite",),
        start=START,
        reference=Solution(
            (
                call("list_tables"),
                call(
                    "query", sql="SELECT id, (SELECT max(id) FROM orders) FROM customers WHERE name LIKE 'Chloe%'"
                ),
                call(
                    "execute",
                    sql="INSERT INTO orders VALUES (?, ?, ?, ?, ?)",
                    parameters=[108, 3, "2026-03-05", "open", 18.75],
                ),
            ),
            "It is order 108.",
        ),
        wrong=Solution(
            (
                call("list_tables"),
                call(
                    "execute",
                    sql="INSERT INTO orders VALUES (?, ?, ?, ?, ?)",
                    parameters=[108, 4, "2026-03-05", "open", 18.75],
                ),
            ),
            "It is order 108.",
        ),
        end=End(rows=(RowChange("orders", added=((108, 3, "2026-03-05", "open", 18.75),)),)),
    ),
    Task(
        id="orders-cancel-ben",
        prompt=(
            "Ben Cole wants to cancel whatever of his is still open. Set those orders to cancelled and tell me "
            "their total."
        ),
        servers=("sqlite",),
        start=START,
        reference=Solution(
            (
                call("list_tables"),
                call("query", sql="SELECT id FROM customers WHERE name = 'Ben Cole'"),
                call("query", sql="SELECT sum(total) FROM orders WHERE customer_id = 2 AND status = 'open'"),
                call(
                    "execute",
                    sql="UPDATE orders SET status = 'cancelled' WHERE customer_id = 2 AND status = 'open'",
                ),
            ),
            "I cancelled orders for 184.25.",
        ),
        wrong=Solution(
            (
                call("list_tables"),
                call("query", sql="SELECT sum(total) FROM orders WHERE customer_id = 2 AND status = 'open'"),
                call("execute", sql="UPDATE orders SET status = 'cancelled' WHERE status = 'open'"),
            ),
            "I cancelled orders for 184.25.",
        ),
        answer=NumberAnswer(184.25, forbidden=(232.75,)),
        end=End(
            rows=(
                RowChange(
                    "orders",
                    removed=((102, 2, "2026-02-05", "open", 120.0), (106, 2, "2026-03-01", "open", 64.25)),
                    added=(
                        (102, 2, "2026-02-05", "cancelled", 120.0),
                        (106, 2, "2026-03-01", "cancelled", 64.25),
                    ),
                ),
            )
        ),
    ),
)
