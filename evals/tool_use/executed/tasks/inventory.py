"""Area "inventory": products and their quantities per warehouse."""

from __future__ import annotations

from evals.tool_use.executed.task import (
    End,
    NumberAnswer,
    RowChange,
    Solution,
    Start,
    Task,
    WordsAnswer,
    call,
)

START = Start(
    sql="""\
CREATE TABLE products (sku TEXT PRIMARY KEY, name TEXT NOT NULL, price REAL NOT NULL, active INTEGER NOT NULL);
CREATE TABLE stock (
    sku TEXT NOT NULL REFERENCES products(sku),
    warehouse TEXT NOT NULL,
    quantity INTEGER NOT NULL,
    PRIMARY KEY (sku, warehouse)
);
INSERT INTO products VALUES
    ('P-10', 'Desk lamp', 24.00, 1),
    ('P-11', 'Floor lamp', 39.00, 1),
    ('P-20', 'Office chair', 129.00, 1),
    ('P-21', 'Footrest', 35.50, 0),
    ('P-30', 'Whiteboard', 89.00, 1),
    ('P-31', 'Marker set', 7.20, 1);
INSERT INTO stock VALUES
    ('P-10', 'North', 12), ('P-10', 'South', 0),
    ('P-11', 'North', 3),
    ('P-20', 'North', 5), ('P-20', 'South', 9),
    ('P-21', 'South', 2),
    ('P-30', 'South', 1),
    ('P-31', 'North', 140), ('P-31', 'South', 60);
"""
)

TASKS = (
    Task(
        id="inventory-count-chairs",
        prompt=(
            "How many office chairs (sku P-20) do we have, all warehouses together? Table stock, columns sku, "
            "warehouse, quantity."
        ),
        servers=("sqlite",),
        start=START,
        reference=Solution(
            (call("query", sql="SELECT sum(quantity) FROM stock WHERE sku = ?", parameters=["P-20"]),),
            "We have 14 office chairs.",
        ),
        wrong=Solution(
            (call("query", sql="SELECT max(quantity) FROM stock WHERE sku = 'P-20'"),), "We have 9 office chairs."
        ),
        answer=NumberAnswer(14, forbidden=(13, 15, 12)),
    ),
    Task(
        id="inventory-marker-price",
        prompt="The marker set, sku P-31, costs 7.90 from now on. Change that in products (columns sku, price).",
        servers=("sqlite",),
        start=START,
        reference=Solution(
            (call("execute", sql="UPDATE products SET price = 7.90 WHERE sku = 'P-31'"),), "It costs 7.90 now."
        ),
        wrong=Solution(
            (call("execute", sql="UPDATE products SET price = 7.90 WHERE sku LIKE 'P-3%'"),), "It costs 7.90 now."
        ),
        end=End(
            rows=(
                RowChange(
                    "products",
                    removed=(("P-31", "Marker set", 7.2, 1),),
                    added=(("P-31", "Marker set", 7.9, 1),),
                ),
            )
        ),
    ),
    Task(
        id="inventory-drop-footrest",
        prompt=(
            "The last footrests (sku P-21) in the warehouse South were thrown away. Delete their row from the "
            "table stock, columns sku and warehouse."
        ),
        servers=("sqlite",),
        start=START,
        reference=Solution(
            (call("execute", sql="DELETE FROM stock WHERE sku = 'P-21' AND warehouse = 'South'"),),
            "The row is deleted.",
        ),
        wrong=Solution(
            (call("execute", sql="DELETE FROM stock WHERE sku = 'P-21' OR warehouse = 'South'"),),
            "The row is deleted.",
        ),
        end=End(rows=(RowChange("stock", removed=(("P-21", "South", 2),)),)),
    ),
    Task(
        id="inventory-average-price",
        prompt=(
            "What is the average price of our active products? Table products with sku, name, price and active (1 "
            "or 0)."
        ),
        servers=("sqlite",),
        start=START,
        reference=Solution(
            (call("query", sql="SELECT avg(price) FROM products WHERE active = 1"),), "It is 57.64."
        ),
        wrong=Solution((call("query", sql="SELECT avg(price) FROM products"),), "It is 53.95."),
        answer=NumberAnswer(57.64, forbidden=(53.95,)),
    ),
    Task(
        id="inventory-running-low",
        prompt="Which of our active products have fewer than 5 pieces left, all warehouses together?",
        servers=("sqlite",),
        start=START,
        reference=Solution(
            (
                call("list_tables"),
                call(
                    "query",
                    sql=(
                        "SELECT name, sum(quantity) FROM products JOIN stock USING (sku) WHERE active = 1 "
                        "GROUP BY sku HAVING sum(quantity) < 5"
                    ),
                ),
            ),
            "The floor lamp and the whiteboard are running low.",
        ),
        wrong=Solution(
            (
                call("list_tables"),
                call(
                    "query",
                    sql="SELECT name FROM products JOIN stock USING (sku) GROUP BY sku HAVING sum(quantity) < 5",
                ),
            ),
            "The floor lamp, the footrest and the whiteboard are running low.",
        ),
        answer=WordsAnswer(
            (
                ("floor lamp", "floor lamps", "P-11"),
                ("whiteboard", "whiteboards", "P-30"),
            ),
            (
                "footrest",
                "footrests",
                "P-21",
                "desk lamp",
                "P-10",
                "office chair",
                "P-20",
                "marker set",
                "P-31",
            ),
        ),
    ),
    Task(
        id="inventory-new-stock-row",
        prompt=(
            "25 floor lamps, P-11, arrived in the warehouse South, where we had none so far. Enter that as a new "
            "row in the table stock."
        ),
        servers=("sqlite",),
        start=START,
        reference=Solution(
            (
                call("describe_table", table="stock"),
                call(
                    "execute",
                    sql="INSERT INTO stock (sku, warehouse, quantity) VALUES (?, ?, ?)",
                    parameters=["P-11", "South", 25],
                ),
            ),
            "South has 25 floor lamps.",
        ),
        wrong=Solution(
            (call("execute", sql="UPDATE stock SET quantity = quantity + 25 WHERE sku = 'P-11'"),),
            "South has 25 floor lamps.",
        ),
        end=End(rows=(RowChange("stock", added=(("P-11", "South", 25),)),)),
    ),
    Task(
        id="inventory-move-chairs",
        prompt="We carried 4 office chairs from the warehouse South to North. Update the numbers in the database.",
        servers=("sqlite",),
        start=START,
        reference=Solution(
            (
                call("list_tables"),
                call(
                    "execute",
                    sql=(
                        "UPDATE stock SET quantity = quantity - 4 WHERE warehouse = 'South' "
                        "AND sku = (SELECT sku FROM products WHERE name = 'Office chair')"
                    ),
                ),
                call(
                    "execute",
                    sql=(
                        "UPDATE stock SET quantity = quantity + 4 WHERE warehouse = 'North' "
                        "AND sku = (SELECT sku FROM products WHERE name = 'Office chair')"
                    ),
                ),
            ),
            "North has 9 and South has 5 office chairs now.",
        ),
        wrong=Solution(
            (
                call("list_tables"),
                call(
                    "execute",
                    sql="UPDATE stock SET quantity = quantity - 4 WHERE sku = 'P-20' AND warehouse = 'South'",
                ),
            ),
            "North has 9 and South has 5 office chairs now.",
        ),
        end=End(
            rows=(
                RowChange(
                    "stock",
                    removed=(("P-20", "North", 5), ("P-20", "South", 9)),
                    added=(("P-20", "North", 9), ("P-20", "South", 5)),
                ),
            )
        ),
    ),
)
