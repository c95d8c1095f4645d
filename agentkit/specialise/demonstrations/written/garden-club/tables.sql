CREATE TABLE members (id INTEGER PRIMARY KEY, name TEXT, joined INTEGER, paid_2026 INTEGER);
CREATE TABLE plots (id INTEGER PRIMARY KEY, square_m INTEGER, member_id INTEGER);
CREATE TABLE loans (id INTEGER PRIMARY KEY, tool TEXT, member_id INTEGER, lent TEXT, returned TEXT);
INSERT INTO members VALUES (1, 'Ockert Prins', 2009, 1), (2, 'Hanne Storm', 2014, 1), (3, 'Liv Aasen', 2021, 0), (4, 'Bruno Reyes', 2023, 1),
    (5, 'Mabel Tuck', 2016, 0), (6, 'Yusuf Kaya', 2025, 1);
INSERT INTO plots VALUES (1, 120, 2), (2, 95, 1), (3, 140, 5), (4, 80, NULL), (5, 95, 4), (6, 110, 6);
INSERT INTO loans VALUES (1, 'hedge trimmer', 4, '2026-03-03', '2026-03-08'), (2, 'scarifier', 5, '2026-03-10', NULL),
    (3, 'wheelbarrow', 6, '2026-03-12', '2026-03-13'), (4, 'hedge trimmer', 2, '2026-03-15', NULL), (5, 'soil sieve', 4, '2026-03-17', '2026-03-20');
