CREATE TABLE books (id INTEGER PRIMARY KEY, title TEXT NOT NULL, author TEXT NOT NULL, shelf TEXT NOT NULL, copies INTEGER NOT NULL);
CREATE TABLE readers (card INTEGER PRIMARY KEY, name TEXT NOT NULL, village TEXT NOT NULL, since INTEGER NOT NULL);
CREATE TABLE loans (id INTEGER PRIMARY KEY, book_id INTEGER NOT NULL REFERENCES books(id),
    card INTEGER NOT NULL REFERENCES readers(card), due TEXT NOT NULL, returned TEXT);
INSERT INTO books VALUES (1, 'The Salt Road', 'Ines Varela', 'A', 2), (2, 'Tides and Charts', 'H. Morrow', 'C', 1),
    (3, 'Puffin Year', 'Kari Dahl', 'B', 3), (4, 'Knots for Children', 'H. Morrow', 'B', 2),
    (5, 'Winter Harbour', 'Ines Varela', 'A', 1), (6, 'The Storm Glass', 'H. Morrow', 'A', 2);
INSERT INTO readers VALUES (101, 'Ailsa Grant', 'Northpier', 2009), (102, 'Tom Leask', 'Skerry', 2012),
    (103, 'Mina Roy', 'Northpier', 2021), (104, 'Piet Vos', 'Skerry', 2018), (105, 'Una Flett', 'Old Mill', 2011);
INSERT INTO loans VALUES (1, 1, 101, '2026-02-10', NULL), (2, 3, 103, '2026-02-24', NULL), (3, 6, 104, '2026-02-12', NULL),
    (4, 5, 101, '2026-01-20', '2026-01-19'), (5, 3, 104, '2026-02-27', NULL), (6, 4, 103, '2026-01-15', '2026-01-15');
