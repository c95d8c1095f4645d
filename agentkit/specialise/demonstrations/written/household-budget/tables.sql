CREATE TABLE categories (name TEXT PRIMARY KEY, monthly_limit REAL NOT NULL);
CREATE TABLE entries (id INTEGER PRIMARY KEY, day TEXT NOT NULL, category TEXT NOT NULL REFERENCES categories(name), what TEXT NOT NULL, amount REAL NOT NULL);
CREATE TABLE goals (name TEXT PRIMARY KEY, target REAL NOT NULL, saved REAL NOT NULL);
INSERT INTO categories VALUES ('food', 320), ('home', 900), ('travel', 120), ('fun', 80);
INSERT INTO entries VALUES (1, '2026-05-01', 'home', 'rent', 780), (2, '2026-05-03', 'food', 'supermarket', 84.2), (3, '2026-05-04', 'travel', 'train ticket', 38.5),
    (4, '2026-05-09', 'fun', 'cinema', 26), (5, '2026-05-09', 'fun', 'cinema', 26), (6, '2026-05-16', 'food', 'supermarket', 97.35),
    (7, '2026-05-20', 'fun', 'concert', 62), (8, '2026-05-22', 'food', 'petrol', 54.1), (9, '2026-04-28', 'travel', 'petrol', 49.9);
INSERT INTO goals VALUES ('bicycle', 900, 615), ('holiday', 1500, 420), ('oven', 480, 480);
