CREATE TABLE targets (name TEXT PRIMARY KEY, kind TEXT NOT NULL, magnitude REAL NOT NULL, priority INTEGER NOT NULL);
CREATE TABLE exposures (id INTEGER PRIMARY KEY, target TEXT NOT NULL REFERENCES targets(name), night TEXT NOT NULL,
    filter TEXT NOT NULL, seconds INTEGER NOT NULL, good INTEGER NOT NULL);
CREATE TABLE nights (night TEXT PRIMARY KEY, observer TEXT NOT NULL, seeing REAL, clouds INTEGER NOT NULL);
INSERT INTO targets VALUES ('M51', 'galaxy', 8.4, 2), ('M57', 'nebula', 8.8, 1), ('NGC 6826', 'nebula', 8.9, 3), ('M13', 'cluster', 5.8, 2),
    ('T CrB', 'variable star', 9.9, 1);
INSERT INTO nights VALUES ('2026-04-11', 'Yusra', 1.8, 10), ('2026-04-12', 'Pavel', 2.9, 60), ('2026-04-14', 'Yusra', 1.4, 0), ('2026-04-15', 'Noor', NULL, 100);
INSERT INTO exposures VALUES (1, 'M51', '2026-04-11', 'R', 300, 1), (2, 'M51', '2026-04-11', 'V', 300, 1), (3, 'M57', '2026-04-12', 'H', 600, 0),
    (4, 'T CrB', '2026-04-12', 'V', 60, 1), (5, 'T CrB', '2026-04-14', 'V', 60, 1), (6, 'M57', '2026-04-14', 'H', 600, 1), (7, 'M13', '2026-04-14', 'R', 120, 1);
