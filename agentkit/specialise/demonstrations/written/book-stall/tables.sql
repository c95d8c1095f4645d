CREATE TABLE books (id INTEGER PRIMARY KEY, title TEXT, author_id INTEGER, year INTEGER, price REAL, sold INTEGER);
CREATE TABLE authors (id INTEGER PRIMARY KEY, name TEXT, country TEXT);
CREATE TABLE reservations (id INTEGER PRIMARY KEY, book_id INTEGER, customer TEXT, until TEXT);
INSERT INTO authors VALUES (1, 'Ebba Lindqvist', 'Sweden'), (2, 'Rhys Morgan', 'Wales'), (3, 'Carla Duarte', 'Portugal'), (4, 'Owen Hale', 'Ireland'), (5, 'Mina Sato', 'Japan');
INSERT INTO books VALUES (1, 'Twelve Grey Geese', 1, 1974, 6, 0), (2, 'Harbour Cats', 3, 1988, 3.5, 1), (3, 'Winter at Orrin', 2, 1961, 14, 0),
    (4, 'The Lantern Thief', 4, 1999, 4, 0), (5, 'Knots for Beginners', 2, 1982, 5, 1), (6, 'The Clockmaker''s Aunt', 4, 1953, 22, 0), (7, 'Sea Shanties', 2, 1970, 8, 0);
INSERT INTO reservations VALUES (1, 3, 'Ravi', '2026-05-02'), (2, 6, 'Mrs Pell', '2026-04-30'), (3, 7, 'Theo', '2026-05-09');
