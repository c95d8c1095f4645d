CREATE TABLE teachers (id INTEGER PRIMARY KEY, name TEXT NOT NULL, instrument TEXT NOT NULL, room TEXT NOT NULL);
CREATE TABLE pupils (id INTEGER PRIMARY KEY, name TEXT NOT NULL, teacher_id INTEGER NOT NULL REFERENCES teachers (id),
    minutes INTEGER NOT NULL, fee REAL NOT NULL, status TEXT NOT NULL);
CREATE TABLE lessons (id INTEGER PRIMARY KEY, pupil_id INTEGER NOT NULL REFERENCES pupils (id), day TEXT NOT NULL,
    start TEXT NOT NULL, state TEXT NOT NULL);
INSERT INTO teachers VALUES (1, 'Helga Moor', 'piano', 'R1'), (2, 'Tomas Irving', 'violin', 'R2'),
    (3, 'Yusuf Demir', 'guitar', 'R3'), (4, 'Clara Boyd', 'flute', 'R2');
INSERT INTO pupils VALUES (1, 'Ida Brandt', 1, 30, 58, 'active'), (2, 'Leo Finch', 1, 45, 84, 'active'),
    (3, 'Maya Okoro', 2, 30, 58, 'active'), (4, 'Pavel Novak', 3, 30, 55, 'paused'), (5, 'Sara Lind', 2, 60, 110, 'active'),
    (6, 'Tim Adler', 3, 45, 79, 'active'), (7, 'Nora Quist', 1, 30, 58, 'paused'), (8, 'Ben Hale', 3, 30, 55, 'active');
INSERT INTO lessons VALUES (1, 1, '2026-05-04', '15:00', 'held'), (2, 2, '2026-05-04', '15:30', 'missed'),
    (3, 3, '2026-05-05', '14:00', 'held'), (4, 5, '2026-05-05', '14:30', 'held'), (5, 6, '2026-05-06', '16:00', 'planned'),
    (6, 8, '2026-05-06', '16:45', 'planned'), (7, 1, '2026-05-11', '15:00', 'planned'),
    (8, 2, '2026-05-11', '15:30', 'planned'), (9, 3, '2026-05-12', '14:00', 'planned');
