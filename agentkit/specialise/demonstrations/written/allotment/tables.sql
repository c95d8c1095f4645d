CREATE TABLE plots (no INTEGER PRIMARY KEY, holder TEXT, size_m2 INTEGER NOT NULL, rent REAL NOT NULL, water TEXT NOT NULL);
CREATE TABLE waiting (id INTEGER PRIMARY KEY, name TEXT NOT NULL, since TEXT NOT NULL, wants_m2 INTEGER NOT NULL);
CREATE TABLE crops (plot_no INTEGER NOT NULL REFERENCES plots (no), crop TEXT NOT NULL, sown TEXT NOT NULL, harvest_kg REAL NOT NULL);
INSERT INTO plots VALUES (1, 'Greta Hahn', 120, 48, 'yes'), (2, 'Omar Said', 200, 80, 'yes'), (3, NULL, 150, 60, 'no'),
    (4, 'Lin Zhou', 120, 48, 'no'), (5, 'Piet Vos', 250, 100, 'yes'), (6, NULL, 100, 40, 'yes');
INSERT INTO waiting VALUES (1, 'Rosa Conti', '2024-03-02', 150), (2, 'Jack Doyle', '2024-06-17', 100), (3, 'Mina Park', '2025-01-09', 200),
    (4, 'Abel Ruiz', '2025-04-30', 100);
INSERT INTO crops VALUES (1, 'potato', '2026-03-28', 62.5), (1, 'leek', '2026-04-10', 14), (2, 'potato', '2026-04-02', 88),
    (2, 'pumpkin', '2026-05-15', 41), (4, 'bean', '2026-05-20', 9.5), (5, 'potato', '2026-03-30', 120), (5, 'cabbage', '2026-04-22', 33),
    (5, 'bean', '2026-05-12', 18.5);
