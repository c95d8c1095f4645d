CREATE TABLE plots (id INTEGER PRIMARY KEY, name TEXT NOT NULL, grape TEXT NOT NULL, hectares REAL NOT NULL, planted INTEGER NOT NULL);
CREATE TABLE harvests (id INTEGER PRIMARY KEY, plot_id INTEGER NOT NULL REFERENCES plots (id), year INTEGER NOT NULL,
    kg INTEGER NOT NULL, sugar INTEGER NOT NULL);
CREATE TABLE tanks (code TEXT PRIMARY KEY, litres INTEGER NOT NULL, wine TEXT, filled INTEGER NOT NULL);
INSERT INTO plots VALUES (1, 'Kirchberg', 'riesling', 2.4, 1998), (2, 'Old Wall', 'pinot noir', 1.1, 2006),
    (3, 'Lower Field', 'silvaner', 3.0, 1987), (4, 'Fox Hill', 'riesling', 1.6, 2015), (5, 'Mill Row', 'pinot noir', 0.9, 2011);
INSERT INTO harvests VALUES (1, 1, 2024, 14400, 84), (2, 2, 2024, 5500, 92), (3, 3, 2024, 24000, 76), (4, 4, 2024, 8000, 81),
    (5, 5, 2024, 4950, 90), (6, 1, 2025, 13200, 88), (7, 2, 2025, 4620, 95), (8, 3, 2025, 22500, 79), (9, 4, 2025, 9600, 86);
INSERT INTO tanks VALUES ('T1', 5000, 'riesling', 4200), ('T2', 5000, 'silvaner', 5000), ('T3', 3000, 'pinot noir', 1250),
    ('T4', 3000, NULL, 0), ('T5', 8000, 'silvaner', 6400);
