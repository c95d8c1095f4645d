CREATE TABLE hives (name TEXT PRIMARY KEY, apiary TEXT NOT NULL, queen_year INTEGER NOT NULL, frames INTEGER NOT NULL, active INTEGER NOT NULL);
CREATE TABLE counts (id INTEGER PRIMARY KEY, hive TEXT NOT NULL REFERENCES hives(name), day TEXT NOT NULL, mites INTEGER NOT NULL);
CREATE TABLE harvest (id INTEGER PRIMARY KEY, hive TEXT NOT NULL REFERENCES hives(name), day TEXT NOT NULL, honey TEXT NOT NULL, kg REAL NOT NULL);
INSERT INTO hives VALUES ('Amber', 'orchard', 2024, 10, 1), ('Birch', 'orchard', 2022, 8, 1), ('Clay', 'ridge', 2025, 12, 1),
    ('Dune', 'ridge', 2023, 7, 1), ('Ember', 'mill', 2024, 0, 0);
INSERT INTO counts VALUES (1, 'Amber', '2026-06-01', 3), (2, 'Birch', '2026-06-01', 11), (3, 'Clay', '2026-06-02', 4),
    (4, 'Dune', '2026-06-02', 9), (5, 'Birch', '2026-06-15', 14), (6, 'Dune', '2026-06-16', 6);
INSERT INTO harvest VALUES (1, 'Amber', '2026-05-28', 'spring blossom', 12.4), (2, 'Birch', '2026-05-28', 'spring blossom', 7.9),
    (3, 'Clay', '2026-05-30', 'rape', 15.2), (4, 'Dune', '2026-05-30', 'rape', 6.3), (5, 'Clay', '2026-07-12', 'lime', 9.6);
