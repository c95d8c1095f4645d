CREATE TABLE runs (name TEXT PRIMARY KEY, colour TEXT NOT NULL, lift TEXT NOT NULL, open INTEGER NOT NULL);
CREATE TABLE patrollers (id INTEGER PRIMARY KEY, name TEXT NOT NULL, radio INTEGER NOT NULL, medic INTEGER NOT NULL);
CREATE TABLE incidents (id INTEGER PRIMARY KEY, day TEXT NOT NULL, run TEXT NOT NULL REFERENCES runs(name),
    kind TEXT NOT NULL, patroller_id INTEGER REFERENCES patrollers(id), minutes INTEGER);
INSERT INTO runs VALUES ('Marmot', 'blue', 'Gondola', 1), ('Larch', 'red', 'Gondola', 1), ('North Gully', 'black', 'Peak', 0),
    ('Chapel', 'blue', 'Valley', 1), ('Ridgeway', 'red', 'Peak', 1);
INSERT INTO patrollers VALUES (1, 'Hanna Zoller', 4, 1), (2, 'Luc Perrin', 7, 0), (3, 'Ben Oduya', 9, 1), (4, 'Silvia Conti', 11, 0);
INSERT INTO incidents VALUES (1, '2026-01-10', 'Larch', 'knee', 1, 14), (2, '2026-01-10', 'Marmot', 'collision', 2, 9),
    (3, '2026-01-11', 'Larch', 'wrist', 3, 11), (4, '2026-01-11', 'Ridgeway', 'lost child', 2, 35), (5, '2026-01-12', 'Chapel', 'knee', NULL, NULL),
    (6, '2026-01-12', 'Larch', 'collision', 1, 8);
