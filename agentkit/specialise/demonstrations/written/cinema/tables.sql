CREATE TABLE films (id INTEGER PRIMARY KEY, title TEXT NOT NULL, minutes INTEGER NOT NULL, rating TEXT NOT NULL, language TEXT NOT NULL);
CREATE TABLE screens (name TEXT PRIMARY KEY, seats INTEGER NOT NULL);
CREATE TABLE shows (id INTEGER PRIMARY KEY, film_id INTEGER NOT NULL REFERENCES films (id), screen TEXT NOT NULL REFERENCES screens (name),
    day TEXT NOT NULL, start TEXT NOT NULL, price INTEGER NOT NULL);
CREATE TABLE sales (show_id INTEGER PRIMARY KEY REFERENCES shows (id), tickets INTEGER NOT NULL);
INSERT INTO films VALUES (1, 'The Salt Road', 118, '12', 'en'), (2, 'Paper Boats', 94, 'U', 'fr'), (3, 'Night Ferry', 131, '16', 'en'),
    (4, 'Little Comet', 81, 'U', 'en'), (5, 'Harvest of Glass', 142, '16', 'de');
INSERT INTO screens VALUES ('Red', 180), ('Blue', 96), ('Attic', 42);
INSERT INTO shows VALUES (1, 1, 'Red', '2026-03-13', '19:30', 11), (2, 3, 'Blue', '2026-03-13', '20:15', 11),
    (3, 4, 'Red', '2026-03-14', '14:00', 8), (4, 2, 'Attic', '2026-03-14', '17:00', 9), (5, 1, 'Red', '2026-03-14', '19:30', 12),
    (6, 5, 'Blue', '2026-03-14', '20:00', 12), (7, 4, 'Blue', '2026-03-15', '11:00', 8), (8, 3, 'Attic', '2026-03-15', '20:15', 11);
INSERT INTO sales VALUES (1, 122), (2, 60), (3, 147), (4, 42), (5, 155), (6, 31), (7, 58);
