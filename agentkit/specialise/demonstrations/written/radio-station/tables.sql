CREATE TABLE shows (id INTEGER PRIMARY KEY, title TEXT NOT NULL, host TEXT NOT NULL, weekday TEXT NOT NULL, start TEXT NOT NULL,
    minutes INTEGER NOT NULL);
CREATE TABLE tracks (id INTEGER PRIMARY KEY, title TEXT NOT NULL, artist TEXT NOT NULL, seconds INTEGER NOT NULL, genre TEXT NOT NULL,
    added TEXT NOT NULL);
CREATE TABLE plays (id INTEGER PRIMARY KEY, track_id INTEGER NOT NULL REFERENCES tracks (id), show_id INTEGER NOT NULL REFERENCES shows (id),
    day TEXT NOT NULL);
INSERT INTO shows VALUES (1, 'Morning Tide', 'Kasia', 'Mon', '06:00', 180), (2, 'Vinyl Hour', 'Otto', 'Tue', '20:00', 60),
    (3, 'Harbour Jazz', 'Lena', 'Thu', '21:00', 120), (4, 'Sunday Folk', 'Otto', 'Sun', '10:00', 90), (5, 'Late Static', 'Raj', 'Fri', '23:00', 120);
INSERT INTO tracks VALUES (1, 'Blue Lantern', 'The Quays', 214, 'jazz', '2025-03-02'), (2, 'Copper Rain', 'Mira Holt', 187, 'folk', '2025-05-11'),
    (3, 'Signal Lost', 'Nullgrid', 322, 'electronic', '2025-09-20'), (4, 'Low Water', 'The Quays', 265, 'jazz', '2024-11-08'),
    (5, 'Orchard Gate', 'Bell & Thorn', 198, 'folk', '2026-01-15'), (6, 'Eight Doors', 'Nullgrid', 401, 'electronic', '2026-02-01');
INSERT INTO plays VALUES (1, 1, 3, '2026-03-05'), (2, 4, 3, '2026-03-05'), (3, 2, 4, '2026-03-08'), (4, 3, 5, '2026-03-06'),
    (5, 1, 1, '2026-03-09'), (6, 2, 1, '2026-03-09'), (7, 1, 3, '2026-03-12'), (8, 5, 4, '2026-03-15');
