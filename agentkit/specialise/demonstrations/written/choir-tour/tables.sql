CREATE TABLE singers (id INTEGER PRIMARY KEY, name TEXT, voice TEXT, bus_seat INTEGER, diet TEXT);
CREATE TABLE rooms (id INTEGER PRIMARY KEY, town TEXT, number TEXT, singer_id INTEGER);
CREATE TABLE payments (id INTEGER PRIMARY KEY, singer_id INTEGER, day TEXT, amount REAL);
INSERT INTO singers VALUES (1, 'Agata', 'soprano', 4, 'vegetarian'), (2, 'Beth', 'alto', 5, NULL), (3, 'Chidi', 'bass', 11, NULL), (4, 'Dorian', 'tenor', 12, 'no fish'),
    (5, 'Elske', 'soprano', 1, NULL), (6, 'Fintan', 'bass', 8, 'vegan'), (7, 'Grazia', 'alto', 2, NULL);
INSERT INTO rooms VALUES (1, 'Brack', '12', 1), (2, 'Brack', '12', 5), (3, 'Brack', '14', 2), (4, 'Brack', '14', 7), (5, 'Brack', '21', 3), (6, 'Brack', '21', 4);
INSERT INTO payments VALUES (1, 1, '2026-05-02', 150), (2, 2, '2026-05-04', 90), (3, 3, '2026-05-04', 150), (4, 5, '2026-05-09', 100), (5, 2, '2026-06-01', 60), (6, 7, '2026-06-03', 150);
