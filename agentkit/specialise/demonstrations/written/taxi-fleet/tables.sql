CREATE TABLE cars (code TEXT PRIMARY KEY, model TEXT NOT NULL, seats INTEGER NOT NULL, km INTEGER NOT NULL, service_at INTEGER NOT NULL);
CREATE TABLE drivers (id INTEGER PRIMARY KEY, name TEXT NOT NULL, licence_until TEXT NOT NULL, shift TEXT NOT NULL);
CREATE TABLE trips (id INTEGER PRIMARY KEY, car TEXT NOT NULL REFERENCES cars (code), driver_id INTEGER NOT NULL REFERENCES drivers (id),
    day TEXT NOT NULL, km REAL NOT NULL, fare REAL NOT NULL);
INSERT INTO cars VALUES ('T11', 'Skoda Superb', 4, 182400, 190000), ('T12', 'VW Caddy', 6, 96750, 100000),
    ('T14', 'Toyota Prius', 4, 239850, 240000), ('T17', 'Mercedes V', 8, 51200, 60000);
INSERT INTO drivers VALUES (1, 'Selim Aksoy', '2027-03-31', 'day'), (2, 'Dora Klein', '2026-06-15', 'night'),
    (3, 'Igor Maric', '2028-01-20', 'day'), (4, 'Wanda Pohl', '2026-05-01', 'night');
INSERT INTO trips VALUES (1, 'T11', 1, '2026-04-20', 12.5, 31), (2, 'T12', 3, '2026-04-20', 41, 92), (3, 'T11', 2, '2026-04-20', 7.2, 21.5),
    (4, 'T14', 1, '2026-04-21', 3.8, 13), (5, 'T17', 4, '2026-04-21', 88, 190), (6, 'T12', 3, '2026-04-21', 5.5, 17.5),
    (7, 'T14', 2, '2026-04-22', 22, 52);
