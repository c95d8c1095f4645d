CREATE TABLE boats (id INTEGER PRIMARY KEY, name TEXT NOT NULL, kind TEXT NOT NULL, seats INTEGER NOT NULL, hourly REAL NOT NULL, state TEXT NOT NULL);
CREATE TABLE hires (id INTEGER PRIMARY KEY, boat_id INTEGER NOT NULL REFERENCES boats(id), customer TEXT NOT NULL, day TEXT NOT NULL,
    hours REAL NOT NULL, paid REAL NOT NULL DEFAULT 0);
INSERT INTO boats VALUES (1, 'Heron', 'rowing', 4, 12, 'ready'), (2, 'Otter', 'canoe', 2, 10, 'ready'), (3, 'Teal', 'pedal', 4, 16, 'ready'),
    (4, 'Dipper', 'canoe', 3, 11, 'repair'), (5, 'Swift', 'sail', 3, 28, 'ready'), (6, 'Coot', 'rowing', 6, 15, 'ready');
INSERT INTO hires VALUES (1, 1, 'Bergmann', '2026-07-03', 2, 24), (2, 5, 'Lindqvist', '2026-07-03', 3, 0), (3, 2, 'Sato', '2026-07-04', 1.5, 15),
    (4, 3, 'Mbeki', '2026-07-04', 1, 16), (5, 5, 'Costa', '2026-07-05', 4, 50), (6, 1, 'Lindqvist', '2026-07-05', 2, 0), (7, 6, 'Ferrara', '2026-07-05', 2.5, 37.5);
