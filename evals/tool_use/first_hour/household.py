"""Initial state of all 60 requests: Jonas's folder and the database of his sister's candle shop.

A new user's folder: a to-do list, notes, recipes, letters, tables, logs, a long manual, photos. It shares nothing
with the demo's bakery or the worlds of `mcp-tasks`.
"""

from __future__ import annotations

from evals.tool_use.executed.task import Start

FAILED_BACKUPS = {9: "disk full", 17: "network down", 26: "disk full"}
"""Days of June on which the backup failed, with the reason; all others succeeded."""


def _backup_log() -> str:
    lines: list[str] = []
    for day in range(1, 31):
        stamp = f"2026-06-{day:02}"
        lines.append(f"{stamp} 02:00 start")
        reason = FAILED_BACKUPS.get(day)
        lines.append(f"{stamp} 02:14 " + (f"failed: {reason}" if reason else f"done, {3100 + 7 * day} files"))
    return "\n".join([*lines, ""])


TODO = """\
Things to do
- pay the phone bill
- buy a birthday card for Lena
- fix the bathroom tap
- book train tickets to Hamburg
- water the tomatoes
- return the drill to Omar
"""
HOLIDAY = """\
# Holiday in Portugal
Flight: TP 571 from Hamburg, Saturday 12 September 2026, 06:55.
Hotel: Casa do Rio, Porto, seven nights.
Budget: 1400 euros for both of us.
Pack: sunscreen, hiking shoes, phone charger, passports.
"""
GARDEN = """\
# Garden
18 April: sowed carrots and radishes
2 May: planted 9 tomato plants
20 May: first slugs on the lettuce
11 June: picked 2 kg of strawberries
"""
BOOKS = """\
# Books
- The Left Hand of Darkness: lent to Priya
- Piranesi: read
- A Psalm for the Wild-Built: on the shelf
- Klara and the Sun: lent to Omar
- The Dispossessed: on the shelf
"""
EXPENSES = """\
day,item,euros
2026-06-01,rent,640
2026-06-03,groceries,58
2026-06-09,bus ticket,49
2026-06-14,groceries,71
2026-06-22,cinema,24
2026-06-28,electricity,83
"""
MANUAL = """\
Dishwasher SilentClean 300

1 Before the first use
Fill the salt container with water, then with one kilogram of salt.
Set the hardness of the water; the waterworks will tell you the value.
Run one short programme without dishes.

2 Loading
Plates stand in the lower basket and face the middle.
Cups and glasses go into the upper basket, upside down.
Long knives lie flat in the upper basket.
Do not wash wood, cast iron or crystal.

3 Programmes
P1 Rinse: 12 minutes, cold
P2 Quick: 35 minutes, 45 degrees
P3 Eco: 195 minutes, 50 degrees
P4 Intensive: 140 minutes, 70 degrees
P5 Glass: 80 minutes, 40 degrees

4 Care
Clean the filter under running water every two weeks.
Wipe the seal of the door with a damp cloth.
Clean the spray arms with a toothpick every three months.
Run P4 with a cleaner twice a year.

5 Faults
E1: the water tap is closed
E2: the water does not drain; clean the filter
E3: the heating does not work; call the service
E4: the water is too hot
E5: the door is not closed
E6: the salt container is empty
E7: the lower spray arm is blocked
E8: the sensor of the water level is dirty

6 Service
Telephone 040 555 0182, Monday to Friday, 8 to 17 o'clock.
Keep the receipt; the guarantee lasts 36 months.
Spare parts can be ordered for ten years.
The serial number is on the inside of the door.
"""
BANANA_BREAD = """\
# Banana bread
3 ripe bananas
200 g flour
120 g sugar
80 g butter
2 eggs
Bake for 55 minutes at 175 degrees Celsius.
"""
CHILLI = """\
# Chilli for 4
500 g minced beef
2 tins of kidney beans
1 tin of tomatoes
2 onions, 3 cloves of garlic
1 teaspoon of cumin
Simmer for 40 minutes, season with salt and lime juice.
Serve with rice.
"""
WAFFLES = """\
# Waffles
250 g flour
4 eggs
125 g butter
400 ml buttermilk
"""
LANDLORD = """\
Dear Mrs Okafor,
the heating in the kitchen has been cold since 3 June.
Could you please send a technician to look at it?
Kind regards
Jonas
"""
BANK = """\
Dear Sir or Madam,
please close my savings account ending in 4417.
Kind regards
Jonas
"""
WIFI = """\
Network: Seagull
Password: maple-lantern-58
The router is behind the bookshelf.
"""
TEMPERATURES = """\
day,celsius
Monday,21
Tuesday,24
Wednesday,29
Thursday,26
Friday,19
Saturday,17
Sunday,22
"""

SHOP = """\
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL, city TEXT NOT NULL, since TEXT NOT NULL);
CREATE TABLE products (id INTEGER PRIMARY KEY, name TEXT NOT NULL, price REAL NOT NULL, stock INTEGER NOT NULL);
CREATE TABLE orders (
    id INTEGER PRIMARY KEY,
    customer_id INTEGER NOT NULL REFERENCES customers(id),
    product_id INTEGER NOT NULL REFERENCES products(id),
    quantity INTEGER NOT NULL,
    day TEXT NOT NULL
);
INSERT INTO customers VALUES
    (1, 'Emil Brandt', 'Hamburg', '2024-03-11'),
    (2, 'Sofia Marin', 'Lisbon', '2024-07-02'),
    (3, 'Yuki Tanaka', 'Osaka', '2025-01-20'),
    (4, 'Grace Mensah', 'Accra', '2025-02-14'),
    (5, 'Pavel Novak', 'Prague', '2025-05-30'),
    (6, 'Lucia Ferri', 'Hamburg', '2025-09-09'),
    (7, 'Tom Hendry', 'Glasgow', '2026-01-17');
INSERT INTO products VALUES
    (1, 'beeswax candle', 12.5, 40),
    (2, 'lavender candle', 9.0, 0),
    (3, 'tea light box', 4.75, 120),
    (4, 'candle holder', 18.0, 15),
    (5, 'wax melt', 3.2, 64),
    (6, 'gift set', 35.0, 8);
INSERT INTO orders VALUES
    (1, 1, 1, 2, '2026-05-03'),
    (2, 2, 3, 4, '2026-05-04'),
    (3, 3, 6, 1, '2026-05-09'),
    (4, 1, 4, 1, '2026-05-12'),
    (5, 4, 5, 10, '2026-05-15'),
    (6, 5, 2, 3, '2026-05-20'),
    (7, 1, 3, 2, '2026-05-21'),
    (8, 6, 1, 6, '2026-05-28'),
    (9, 3, 5, 5, '2026-06-02'),
    (10, 2, 4, 2, '2026-06-05'),
    (11, 5, 1, 1, '2026-06-08'),
    (12, 1, 6, 2, '2026-06-11'),
    (13, 4, 3, 6, '2026-06-17');
"""

START = Start(
    files={
        "todo.txt": TODO,
        "notes/holiday.md": HOLIDAY,
        "notes/garden.md": GARDEN,
        "notes/books.md": BOOKS,
        "notes/wifi.txt": WIFI,
        "notes/dishwasher-manual.txt": MANUAL,
        "recipes/banana-bread.md": BANANA_BREAD,
        "recipes/chilli.md": CHILLI,
        "recipes/waffles.md": WAFFLES,
        "letters/landlord.txt": LANDLORD,
        "letters/bank.txt": BANK,
        "tables/expenses.csv": EXPENSES,
        "tables/temperatures.csv": TEMPERATURES,
        "logs/backup.log": _backup_log(),
        "photos/beach.jpg": "(picture)\n",
        "photos/cat.jpg": "(picture)\n",
        "photos/porto-bridge.jpg": "(picture)\n",
        "photos/sunset.jpg": "(picture)\n",
    },
    modified={
        "letters/landlord.txt": "2026-06-30T18:05:00+00:00",
        "letters/bank.txt": "2026-02-02T10:40:00+00:00",
        "notes/garden.md": "2026-06-11T19:30:00+00:00",
        "todo.txt": "2026-07-01T07:15:00+00:00",
    },
    sql=SHOP,
)
