CREATE TABLE walls (name TEXT PRIMARY KEY, kind TEXT NOT NULL, height_m INTEGER NOT NULL);
CREATE TABLE routes (id INTEGER PRIMARY KEY, wall TEXT NOT NULL REFERENCES walls (name), colour TEXT NOT NULL, grade TEXT NOT NULL,
    setter TEXT NOT NULL, set_on TEXT NOT NULL, removed TEXT);
CREATE TABLE ropes (code TEXT PRIMARY KEY, length_m INTEGER NOT NULL, bought TEXT NOT NULL, state TEXT NOT NULL);
CREATE TABLE checks (id INTEGER PRIMARY KEY, wall TEXT NOT NULL REFERENCES walls (name), day TEXT NOT NULL, result TEXT NOT NULL);
INSERT INTO walls VALUES ('North', 'lead', 14), ('Tower', 'lead', 18), ('Cave', 'boulder', 4), ('Slab', 'top rope', 9);
INSERT INTO routes VALUES (1, 'North', 'red', '6a', 'Jonas', '2026-01-12', NULL), (2, 'North', 'blue', '6c+', 'Mei', '2026-01-12', NULL),
    (3, 'Tower', 'green', '5c', 'Jonas', '2025-10-03', NULL), (4, 'Tower', 'black', '7b', 'Mei', '2025-11-20', NULL),
    (5, 'Cave', 'yellow', '6b', 'Rafa', '2026-02-02', NULL), (6, 'Cave', 'pink', '7a', 'Rafa', '2025-12-08', '2026-02-02'),
    (7, 'Slab', 'white', '4a', 'Jonas', '2025-09-15', NULL), (8, 'Tower', 'red', '6a+', 'Rafa', '2026-02-09', NULL);
INSERT INTO ropes VALUES ('R1', 40, '2023-04-01', 'in use'), ('R2', 40, '2024-02-10', 'in use'), ('R3', 60, '2022-09-15', 'in use'),
    ('R4', 60, '2025-06-20', 'in use'), ('R5', 30, '2021-05-05', 'retired');
INSERT INTO checks VALUES (1, 'North', '2026-01-15', 'ok'), (2, 'Tower', '2026-01-15', 'loose hold'), (3, 'Tower', '2026-01-22', 'ok'),
    (4, 'Slab', '2025-12-18', 'ok');
