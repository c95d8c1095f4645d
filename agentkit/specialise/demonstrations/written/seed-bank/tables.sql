CREATE TABLE accessions (code TEXT PRIMARY KEY, species TEXT NOT NULL, origin TEXT NOT NULL, collected TEXT NOT NULL, seeds INTEGER NOT NULL,
    shelf TEXT NOT NULL, viability INTEGER);
CREATE TABLE shelves (shelf TEXT PRIMARY KEY, temp_c INTEGER NOT NULL, room TEXT NOT NULL);
CREATE TABLE tests (id INTEGER PRIMARY KEY, code TEXT NOT NULL REFERENCES accessions (code), day TEXT NOT NULL, germinated INTEGER NOT NULL,
    sown INTEGER NOT NULL);
INSERT INTO accessions VALUES ('SB-001', 'Papaver rhoeas', 'Kent', '2019-07-14', 4200, 'A', 92),
    ('SB-002', 'Agrostemma githago', 'Devon', '2020-08-02', 1500, 'A', 82), ('SB-003', 'Centaurea cyanus', 'Kent', '2021-07-20', 3100, 'B', 88),
    ('SB-004', 'Primula veris', 'Wales', '2018-06-11', 640, 'B', 36), ('SB-005', 'Papaver rhoeas', 'Norfolk', '2022-07-09', 2750, 'A', 94),
    ('SB-006', 'Orchis mascula', 'Wales', '2023-05-30', 9000, 'C', NULL);
INSERT INTO shelves VALUES ('A', -20, 'main vault'), ('B', -20, 'main vault'), ('C', 4, 'cold room');
INSERT INTO tests VALUES (1, 'SB-001', '2024-02-10', 46, 50), (2, 'SB-002', '2024-02-10', 41, 50), (3, 'SB-004', '2024-03-05', 24, 50),
    (4, 'SB-005', '2025-01-15', 47, 50), (5, 'SB-004', '2025-03-05', 9, 25), (6, 'SB-003', '2025-01-15', 22, 25);
