CREATE TABLE dogs (id INTEGER PRIMARY KEY, name TEXT NOT NULL, breed TEXT NOT NULL, owner TEXT NOT NULL,
    weight_kg REAL NOT NULL, pen TEXT);
CREATE TABLE stays (id INTEGER PRIMARY KEY, dog_id INTEGER NOT NULL REFERENCES dogs (id), arrives TEXT NOT NULL,
    leaves TEXT NOT NULL, rate REAL NOT NULL);
CREATE TABLE feeds (dog_id INTEGER NOT NULL REFERENCES dogs (id), food TEXT NOT NULL, grams INTEGER NOT NULL,
    per_day INTEGER NOT NULL);
INSERT INTO dogs VALUES (1, 'Biscuit', 'beagle', 'R. Okafor', 11.5, 'A1'), (2, 'Nelly', 'greyhound', 'J. Sand', 27, 'A2'),
    (3, 'Rufus', 'boxer', 'M. Petrov', 30.5, 'B1'), (4, 'Pip', 'terrier', 'J. Sand', 6.2, 'A3'),
    (5, 'Olive', 'labrador', 'K. Wren', 29, NULL), (6, 'Bruno', 'boxer', 'H. Tal', 33, 'B2'),
    (7, 'Misty', 'collie', 'R. Okafor', 19.4, NULL);
INSERT INTO stays VALUES (1, 1, '2026-07-01', '2026-07-08', 24), (2, 2, '2026-07-03', '2026-07-10', 28),
    (3, 4, '2026-07-03', '2026-07-10', 20), (4, 3, '2026-07-05', '2026-07-07', 28), (5, 6, '2026-07-06', '2026-07-20', 30),
    (6, 5, '2026-07-12', '2026-07-15', 28), (7, 7, '2026-07-18', '2026-07-25', 24);
INSERT INTO feeds VALUES (1, 'dry chicken', 120, 2), (2, 'dry lamb', 200, 2), (3, 'dry chicken', 220, 2),
    (4, 'wet beef', 90, 3), (5, 'dry lamb', 210, 2), (6, 'dry chicken', 240, 2);
