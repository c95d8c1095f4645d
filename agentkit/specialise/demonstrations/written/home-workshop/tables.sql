CREATE TABLE tools (id INTEGER PRIMARY KEY, name TEXT, place TEXT, bought INTEGER, price REAL);
CREATE TABLE lent (id INTEGER PRIMARY KEY, tool_id INTEGER, person TEXT, day TEXT);
CREATE TABLE screws (id INTEGER PRIMARY KEY, size TEXT, head TEXT, pieces INTEGER, drawer TEXT);
INSERT INTO tools VALUES (1, 'jigsaw', 'shelf 2', 2018, 89), (2, 'router', 'cupboard', 2021, 164), (3, 'cordless drill', 'bench', 2022, 129), (4, 'belt sander', 'shelf 2', 2015, 110),
    (5, 'mitre saw', 'corner', 2023, 245), (6, 'block plane', 'wall', 2009, 58), (7, 'heat gun', 'cupboard', 2020, 34);
INSERT INTO lent VALUES (1, 7, 'Agnes', '2026-02-11'), (2, 1, 'Kofi', '2026-03-01');
INSERT INTO screws VALUES (1, '3x16', 'flat', 140, 'A1'), (2, '3.5x30', 'flat', 62, 'A2'), (3, '4x40', 'flat', 18, 'A3'), (4, '4x40', 'round', 75, 'B1'), (5, '5x60', 'hex', 31, 'B2'), (6, '6x80', 'hex', 9, 'B3');
