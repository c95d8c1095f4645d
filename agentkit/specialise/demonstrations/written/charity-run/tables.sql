CREATE TABLE teams (id INTEGER PRIMARY KEY, name TEXT NOT NULL, city TEXT NOT NULL);
CREATE TABLE runners (bib INTEGER PRIMARY KEY, name TEXT NOT NULL, team_id INTEGER REFERENCES teams(id), km INTEGER NOT NULL, fee_paid INTEGER NOT NULL);
CREATE TABLE finishes (bib INTEGER PRIMARY KEY REFERENCES runners(bib), seconds INTEGER NOT NULL);
CREATE TABLE pledges (id INTEGER PRIMARY KEY, bib INTEGER NOT NULL REFERENCES runners(bib), donor TEXT NOT NULL, per_km REAL NOT NULL, fixed REAL NOT NULL);
INSERT INTO teams VALUES (1, 'Hill Hares', 'Ostrava'), (2, 'Night Shift', 'Leeds'), (3, 'Slow Motion', 'Leeds');
INSERT INTO runners VALUES (11, 'Ada Novak', 1, 10, 1), (12, 'Bo Larsen', 2, 5, 1), (13, 'Cleo Marsh', 2, 10, 0), (14, 'Dev Patel', 3, 5, 1),
    (15, 'Edda Krause', 1, 5, 1), (16, 'Finn Ahlberg', NULL, 10, 0);
INSERT INTO finishes VALUES (11, 2890), (13, 3105), (15, 1502), (14, 1817);
INSERT INTO pledges VALUES (1, 11, 'Corner Bakery', 3, 0), (2, 11, 'Aunt Vera', 0, 20), (3, 14, 'Metro Bank', 10, 0), (4, 13, 'Corner Bakery', 2.5, 10),
    (5, 12, 'Metro Bank', 4, 5);
