CREATE TABLE papers (id INTEGER PRIMARY KEY, name TEXT NOT NULL, gsm INTEGER NOT NULL, sheets INTEGER NOT NULL, price_per_100 REAL NOT NULL);
CREATE TABLE machines (name TEXT PRIMARY KEY, sheets_per_hour INTEGER NOT NULL, last_service TEXT NOT NULL);
CREATE TABLE jobs (id INTEGER PRIMARY KEY, customer TEXT NOT NULL, title TEXT NOT NULL, copies INTEGER NOT NULL,
    paper_id INTEGER NOT NULL REFERENCES papers (id), due TEXT NOT NULL, state TEXT NOT NULL);
INSERT INTO papers VALUES (1, 'matt white', 90, 12000, 1.2), (2, 'matt white', 170, 3500, 2.6), (3, 'gloss', 135, 800, 2.1),
    (4, 'recycled', 80, 20500, 0.9), (5, 'card', 300, 420, 6.4);
INSERT INTO machines VALUES ('Heidi', 9000, '2026-01-20'), ('Old Bess', 4000, '2025-08-02'), ('Minolta', 3600, '2025-11-15');
INSERT INTO jobs VALUES (1, 'Choir of St Anne', 'song sheets', 300, 4, '2026-02-10', 'printed'),
    (2, 'Bistro Lune', 'menus', 150, 2, '2026-02-11', 'proof'), (3, 'City Run', 'bib numbers', 1200, 5, '2026-02-12', 'waiting'),
    (4, 'Dr Feld', 'note pads', 500, 1, '2026-02-12', 'waiting'), (5, 'Bistro Lune', 'flyers', 2000, 3, '2026-02-14', 'waiting'),
    (6, 'Harbour School', 'year book', 260, 2, '2026-02-20', 'proof'), (7, 'Dr Feld', 'appointment cards', 1000, 5, '2026-02-09', 'printed');
