CREATE TABLE flatmates (id INTEGER PRIMARY KEY, name TEXT, room TEXT, moved_in TEXT, birthday TEXT);
CREATE TABLE chores (id INTEGER PRIMARY KEY, chore TEXT, every_days INTEGER, flatmate_id INTEGER);
CREATE TABLE kitty (id INTEGER PRIMARY KEY, day TEXT, flatmate_id INTEGER, note TEXT, amount REAL);
INSERT INTO flatmates VALUES (1, 'Anouk', 'balcony room', '2024-09-01', '05-17'), (2, 'Deniz', 'small room', '2025-02-15', '11-30'),
    (3, 'Fergus', 'corner room', '2024-09-01', '01-08'), (4, 'Lotte', 'loft', '2025-10-01', '07-22');
INSERT INTO chores VALUES (1, 'bathroom', 7, 3), (2, 'kitchen floor', 7, 1), (3, 'bins', 7, 2), (4, 'windows', 60, 4), (5, 'stairs', 14, 2),
    (6, 'fridge', 30, NULL);
INSERT INTO kitty VALUES (1, '2026-03-02', 1, 'toilet paper', 6.4), (2, '2026-03-05', 3, 'coffee', 11.9), (3, '2026-03-09', 2, 'light bulbs', 8.75),
    (4, '2026-03-14', 1, 'spices', 13.2), (5, '2026-03-20', 4, 'cleaning spray', 4.5), (6, '2026-03-28', 3, 'olive oil', 9.95);
