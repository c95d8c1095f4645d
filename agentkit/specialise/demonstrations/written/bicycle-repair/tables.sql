CREATE TABLE jobs (id INTEGER PRIMARY KEY, customer TEXT NOT NULL, bike TEXT NOT NULL, work TEXT NOT NULL,
    minutes INTEGER NOT NULL, status TEXT NOT NULL, day TEXT NOT NULL);
CREATE TABLE parts (sku TEXT PRIMARY KEY, name TEXT NOT NULL, price REAL NOT NULL, stock INTEGER NOT NULL);
CREATE TABLE job_parts (job_id INTEGER NOT NULL REFERENCES jobs(id), sku TEXT NOT NULL REFERENCES parts(sku), pieces INTEGER NOT NULL);
INSERT INTO jobs VALUES (1, 'Okafor', 'city bike', 'new chain and tyres', 70, 'finished', '2026-03-10'),
    (2, 'Lind', 'gravel bike', 'bleed brakes', 45, 'open', '2026-03-11'),
    (3, 'Moreau', 'tandem', 'true both wheels', 95, 'open', '2026-03-11'),
    (4, 'Adeyemi', 'child''s bike', 'fit brake pads', 25, 'finished', '2026-03-12'),
    (5, 'Kowalski', 'road bike', 'replace cables', 60, 'open', '2026-03-13'),
    (6, 'Lind', 'cargo bike', 'new tubes', 40, 'collected', '2026-03-06');
INSERT INTO parts VALUES ('CH-11', 'chain 11-speed', 29.0, 6), ('BP-02', 'brake pads', 9.5, 3),
    ('TU-28', 'tube 28 inch', 6.0, 11), ('TY-40', 'tyre 40 mm', 34.0, 4), ('CB-10', 'brake cable', 4.2, 0);
INSERT INTO job_parts VALUES (1, 'CH-11', 1), (1, 'TY-40', 2), (4, 'BP-02', 2), (5, 'CB-10', 4), (6, 'TU-28', 3);
