CREATE TABLE crew (id INTEGER PRIMARY KEY, name TEXT NOT NULL, grade TEXT NOT NULL, station TEXT NOT NULL);
CREATE TABLE shifts (id INTEGER PRIMARY KEY, crew_id INTEGER NOT NULL REFERENCES crew (id), day TEXT NOT NULL, kind TEXT NOT NULL,
    vehicle TEXT NOT NULL);
CREATE TABLE vehicles (call_sign TEXT PRIMARY KEY, station TEXT NOT NULL, state TEXT NOT NULL, mileage INTEGER NOT NULL);
CREATE TABLE absences (crew_id INTEGER NOT NULL REFERENCES crew (id), first_day TEXT NOT NULL, last_day TEXT NOT NULL);
INSERT INTO crew VALUES (1, 'Amara Diallo', 'paramedic', 'North'), (2, 'Ben Sorley', 'technician', 'North'),
    (3, 'Chloe Marsh', 'paramedic', 'South'), (4, 'Dev Patel', 'technician', 'South'), (5, 'Ewa Lis', 'paramedic', 'North'),
    (6, 'Finn Roche', 'trainee', 'South');
INSERT INTO shifts VALUES (1, 1, '2026-09-07', 'early', 'NA1'), (2, 2, '2026-09-07', 'early', 'NA1'), (3, 3, '2026-09-07', 'night', 'SA1'),
    (4, 4, '2026-09-07', 'night', 'SA1'), (5, 5, '2026-09-08', 'late', 'NA2'), (6, 2, '2026-09-08', 'late', 'NA2'),
    (7, 1, '2026-09-09', 'night', 'NA1'), (8, 6, '2026-09-09', 'early', 'SA2'), (9, 3, '2026-09-09', 'early', 'SA2'),
    (10, 4, '2026-09-10', 'late', 'SA1');
INSERT INTO vehicles VALUES ('NA1', 'North', 'ready', 84200), ('NA2', 'North', 'ready', 121750), ('SA1', 'South', 'workshop', 99310),
    ('SA2', 'South', 'ready', 45080);
INSERT INTO absences VALUES (2, '2026-09-08', '2026-09-12'), (6, '2026-09-20', '2026-09-27');
