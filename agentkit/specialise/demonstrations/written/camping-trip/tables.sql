CREATE TABLE tents (id INTEGER PRIMARY KEY, name TEXT, colour TEXT, sleeps INTEGER);
CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT, age INTEGER, tent_id INTEGER, allergy TEXT);
CREATE TABLE costs (id INTEGER PRIMARY KEY, day TEXT, what TEXT, amount REAL, person_id INTEGER);
INSERT INTO tents VALUES (1, 'Badger', 'green', 4), (2, 'Lark', 'orange', 2), (3, 'Dune', 'sand', 3), (4, 'Spare', 'blue', 2);
INSERT INTO people VALUES (1, 'Nils', 41, 1, NULL), (2, 'Rosa', 39, 1, 'walnuts'), (3, 'Pim', 8, 1, NULL), (4, 'Ewa', 35, 2, NULL),
    (5, 'Jonas', 36, 2, 'milk'), (6, 'Greta', 67, 3, 'bee stings');
INSERT INTO costs VALUES (1, '2026-06-02', 'campsite deposit', 80, 2), (2, '2026-06-14', 'gas cartridges', 23.5, 1),
    (3, '2026-06-20', 'canoe booking', 66, 4), (4, '2026-06-21', 'new pegs', 12.4, 1), (5, '2026-07-01', 'trail map', 9.9, 6);
