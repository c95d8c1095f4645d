CREATE TABLE persons (id INTEGER PRIMARY KEY, name TEXT, born INTEGER, died INTEGER, birthplace TEXT, mother_id INTEGER, father_id INTEGER);
CREATE TABLE marriages (id INTEGER PRIMARY KEY, wife_id INTEGER, husband_id INTEGER, year INTEGER, place TEXT);
INSERT INTO persons VALUES (1, 'Brita Lindahl', 1845, 1911, 'Norrby', NULL, NULL), (2, 'Anders Lindahl', 1841, 1890, 'Torp', NULL, NULL), (3, 'Signe Lindale', 1873, 1949, 'Norrby', 1, 2),
    (4, 'Johan Lindahl', 1870, 1933, 'Norrby', 1, 2), (5, 'Karl Lindahl', 1876, 1958, 'Norrby', 1, 2), (6, 'William Moss', 1868, 1940, 'Hull', NULL, NULL), (7, 'Emil Moss', 1904, 1991, 'Hull', 3, 6),
    (8, 'Axel Moss', 1907, 1944, 'Hull', 3, 6), (9, 'Hedwig Moss', 1912, 2003, 'Leeds', 3, 6), (10, 'Clara Finch', 1909, 1988, 'York', NULL, NULL);
INSERT INTO marriages VALUES (1, 1, 2, 1868, 'Norrby'), (2, 3, 6, 1903, 'Hull'), (3, 10, 7, 1932, 'York');
