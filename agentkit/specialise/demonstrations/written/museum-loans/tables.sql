CREATE TABLE objects (inv TEXT PRIMARY KEY, title TEXT NOT NULL, maker TEXT, value INTEGER NOT NULL, room TEXT NOT NULL);
CREATE TABLE borrowers (name TEXT PRIMARY KEY, city TEXT NOT NULL, country TEXT NOT NULL);
CREATE TABLE loans (id INTEGER PRIMARY KEY, inv TEXT NOT NULL REFERENCES objects (inv), borrower TEXT NOT NULL REFERENCES borrowers (name),
    out_day TEXT NOT NULL, back_day TEXT NOT NULL, state TEXT NOT NULL);
INSERT INTO objects VALUES ('M-014', 'Amber comb', NULL, 1800, '3'), ('M-102', 'Sextant', 'Troughton', 5200, '5'),
    ('M-118', 'View of the harbour', 'E. Lund', 14000, '1'), ('M-203', 'Whaling log', NULL, 3900, 'depot'),
    ('M-240', 'Ship in a bottle', 'J. Kerr', 350, '5'), ('M-311', 'Portrait of a pilot', 'E. Lund', 9600, '1');
INSERT INTO borrowers VALUES ('City Museum Bergen', 'Bergen', 'Norway'), ('Naval Hall', 'Gdynia', 'Poland'), ('Kunsthaus Emden', 'Emden', 'Germany');
INSERT INTO loans VALUES (1, 'M-102', 'Naval Hall', '2025-11-03', '2026-02-28', 'out'),
    (2, 'M-118', 'City Museum Bergen', '2026-01-15', '2026-05-30', 'out'), (3, 'M-014', 'Kunsthaus Emden', '2025-06-01', '2025-09-30', 'back'),
    (4, 'M-311', 'City Museum Bergen', '2026-01-15', '2026-05-30', 'out'), (5, 'M-240', 'Naval Hall', '2026-06-10', '2026-08-31', 'planned'),
    (6, 'M-118', 'Kunsthaus Emden', '2024-03-01', '2024-06-30', 'back');
