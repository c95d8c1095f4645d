CREATE TABLE breads (code TEXT PRIMARY KEY, name TEXT NOT NULL, price REAL NOT NULL, on_sale INTEGER NOT NULL);
CREATE TABLE deliveries (id INTEGER PRIMARY KEY, cafe TEXT NOT NULL, code TEXT NOT NULL, loaves INTEGER NOT NULL, day TEXT NOT NULL);
INSERT INTO breads VALUES ('RY', 'rye loaf', 4.2, 1), ('SD', 'sourdough', 5.5, 1), ('BR', 'brioche', 6.8, 0),
    ('FO', 'focaccia', 3.9, 1);
INSERT INTO deliveries VALUES (1, 'Corner Cup', 'RY', 12, '2026-03-02'), (2, 'Corner Cup', 'SD', 8, '2026-03-02'),
    (3, 'Pier Nine', 'FO', 20, '2026-03-03'), (4, 'Pier Nine', 'RY', 6, '2026-03-04'),
    (5, 'Old Mill', 'SD', 15, '2026-03-04');
