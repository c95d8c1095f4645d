CREATE TABLE menu (id INTEGER PRIMARY KEY, item TEXT, kind TEXT, price REAL);
CREATE TABLE staff (id INTEGER PRIMARY KEY, name TEXT, job TEXT, hourly REAL);
CREATE TABLE shifts (id INTEGER PRIMARY KEY, day TEXT, staff_id INTEGER, start TEXT, hours REAL);
INSERT INTO menu VALUES (1, 'espresso', 'drink', 2.2), (2, 'flat white', 'drink', 3.4), (3, 'hot chocolate', 'drink', 3.6), (4, 'cinnamon bun', 'cake', 2.9), (5, 'carrot cake', 'cake', 4.1),
    (6, 'lentil soup', 'meal', 6.5), (7, 'cheese toastie', 'meal', 5.8), (8, 'mint tea', 'drink', 2.8);
INSERT INTO staff VALUES (1, 'Sunniva', 'manager', 21), (2, 'Pedro', 'barista', 15.5), (3, 'Wilma', 'baker', 17), (4, 'Kit', 'barista', 14.5), (5, 'Abel', 'dishes', 13.2);
INSERT INTO shifts VALUES (1, '2026-05-11', 2, '07:30', 6), (2, '2026-05-11', 3, '05:00', 5), (3, '2026-05-12', 4, '07:30', 6), (4, '2026-05-12', 3, '05:00', 5.5),
    (5, '2026-05-14', 2, '11:00', 7), (6, '2026-05-14', 1, '07:30', 8), (7, '2026-05-15', 4, '12:00', 5);
