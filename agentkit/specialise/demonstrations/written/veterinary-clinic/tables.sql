CREATE TABLE patients (id INTEGER PRIMARY KEY, name TEXT NOT NULL, species TEXT NOT NULL, owner TEXT NOT NULL,
    weight_kg REAL NOT NULL, vaccinated_until TEXT);
CREATE TABLE visits (id INTEGER PRIMARY KEY, patient_id INTEGER NOT NULL REFERENCES patients(id), day TEXT NOT NULL,
    reason TEXT NOT NULL, fee REAL NOT NULL, paid INTEGER NOT NULL);
CREATE TABLE medicines (code TEXT PRIMARY KEY, name TEXT NOT NULL, stock INTEGER NOT NULL, expires TEXT NOT NULL);
INSERT INTO patients VALUES (1, 'Bruno', 'dog', 'Tamura', 31.4, '2026-03-15'), (2, 'Misty', 'cat', 'Reid', 4.1, '2026-09-01'),
    (3, 'Pepper', 'dog', 'Olsen', 8.9, '2026-03-28'), (4, 'Clover', 'rabbit', 'Reid', 2.2, NULL),
    (5, 'Shadow', 'cat', 'Nowak', 5.6, '2025-12-30'), (6, 'Rex', 'dog', 'Haddad', 27.0, '2026-11-11');
INSERT INTO visits VALUES (1, 1, '2026-01-08', 'limp', 64.0, 1), (2, 3, '2026-01-19', 'check-up', 38.0, 0),
    (3, 2, '2026-01-22', 'teeth', 145.0, 0), (4, 3, '2026-02-03', 'ear', 52.5, 0), (5, 1, '2026-02-09', 'x-ray', 118.0, 0),
    (6, 5, '2026-02-11', 'check-up', 38.0, 1);
INSERT INTO medicines VALUES ('AMX', 'amoxicillin 50 mg', 40, '2026-01-31'), ('MLX', 'meloxicam drops', 12, '2027-05-31'),
    ('FEN', 'fenbendazole paste', 3, '2025-11-30'), ('EAR', 'ear cleaner', 9, '2026-08-31');
