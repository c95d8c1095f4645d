"""Area "storeroom": counts and deliveries in files, expected quantities in the database."""

from __future__ import annotations

from evals.tool_use.executed.task import (
    End,
    RowChange,
    Solution,
    Start,
    Task,
    WordsAnswer,
    call,
)

START = Start(
    files={
        "count.txt": "Count of 30 June\nA1 400\nA2 365\nB1 42\nB2 17\nC1 9\n",
        "deliveries/0612.csv": "code,quantity\nB1,20\nC1,12\n",
        "deliveries/0619.csv": "code,quantity\nA1,100\n",
        "notes/prices.md": "# From July\n- Hinge: 2.65\n- Wood glue: unchanged\n",
    },
    sql="""\
CREATE TABLE items (code TEXT PRIMARY KEY, name TEXT NOT NULL, quantity INTEGER NOT NULL, price REAL NOT NULL);
INSERT INTO items VALUES
    ('A1', 'Bolt M6', 400, 0.10),
    ('A2', 'Nut M6', 380, 0.06),
    ('B1', 'Hinge', 42, 2.40),
    ('B2', 'Door handle', 17, 11.90),
    ('C1', 'Wood glue', 9, 5.25);
""",
)

TASKS = (
    Task(
        id="storeroom-new-price",
        prompt=(
            "Take over the prices from notes/prices.md into the table items, which has the columns code, name, "
            "quantity and price."
        ),
        servers=("filesystem", "sqlite"),
        start=START,
        reference=Solution(
            (
                call("read_text_file", path="notes/prices.md"),
                call("execute", sql="UPDATE items SET price = ? WHERE name = ?", parameters=[2.65, "Hinge"]),
            ),
            "The hinge costs 2.65 now; nothing else changes.",
        ),
        wrong=Solution(
            (
                call("read_text_file", path="notes/prices.md"),
                call("execute", sql="UPDATE items SET price = 2.65 WHERE name IN ('Hinge', 'Wood glue')"),
            ),
            "The prices are taken over.",
        ),
        end=End(
            rows=(RowChange("items", removed=(("B1", "Hinge", 42, 2.4),), added=(("B1", "Hinge", 42, 2.65),)),)
        ),
    ),
    Task(
        id="storeroom-compare-count",
        prompt=(
            "Compare the count in count.txt with the table items (code, name, quantity, price). For which item do "
            "the two disagree, and by how many pieces?"
        ),
        servers=("filesystem", "sqlite"),
        start=START,
        reference=Solution(
            (call("read_text_file", path="count.txt"), call("query", sql="SELECT code, quantity FROM items")),
            "They disagree for A2, by 15 pieces.",
        ),
        wrong=Solution(
            (call("read_text_file", path="count.txt"), call("query", sql="SELECT code, quantity FROM items")),
            "They disagree for A2, by 365 pieces.",
        ),
        answer=WordsAnswer(
            (("A2", "nut M6", "nuts M6"), ("15", "fifteen")),
            ("A1", "B1", "B2", "C1", "bolt", "hinge", "wood glue", "door handle"),
        ),
    ),
    Task(
        id="storeroom-delivery",
        prompt=(
            "The delivery in deliveries/0612.csv is here: add its quantities to the table items (code, quantity), "
            "then delete that file."
        ),
        servers=("filesystem", "sqlite"),
        start=START,
        reference=Solution(
            (
                call("read_text_file", path="deliveries/0612.csv"),
                call("execute", sql="UPDATE items SET quantity = quantity + 20 WHERE code = 'B1'"),
                call("execute", sql="UPDATE items SET quantity = quantity + 12 WHERE code = 'C1'"),
                call("delete", path="deliveries/0612.csv"),
            ),
            "The delivery is entered and the file deleted.",
        ),
        wrong=Solution(
            (
                call("read_text_file", path="deliveries/0612.csv"),
                call("execute", sql="UPDATE items SET quantity = 20 WHERE code = 'B1'"),
                call("execute", sql="UPDATE items SET quantity = 12 WHERE code = 'C1'"),
                call("delete", path="deliveries/0612.csv"),
            ),
            "The delivery is entered and the file deleted.",
        ),
        end=End(
            files={"deliveries/0612.csv": None},
            rows=(
                RowChange(
                    "items",
                    removed=(("B1", "Hinge", 42, 2.4), ("C1", "Wood glue", 9, 5.25)),
                    added=(("B1", "Hinge", 62, 2.4), ("C1", "Wood glue", 21, 5.25)),
                ),
            ),
        ),
    ),
)
