CREATE TABLE dishes (id INTEGER PRIMARY KEY, name TEXT NOT NULL, vegetarian INTEGER NOT NULL, cost REAL NOT NULL);
CREATE TABLE menu (day TEXT NOT NULL, line TEXT NOT NULL, dish_id INTEGER NOT NULL REFERENCES dishes(id));
CREATE TABLE pupils (id INTEGER PRIMARY KEY, name TEXT NOT NULL, class TEXT NOT NULL, diet TEXT NOT NULL);
CREATE TABLE meals (day TEXT NOT NULL, pupil_id INTEGER NOT NULL REFERENCES pupils(id), dish_id INTEGER NOT NULL REFERENCES dishes(id));
INSERT INTO dishes VALUES (1, 'lentil soup', 1, 1.1), (2, 'fish fingers', 0, 1.9), (3, 'pasta bake', 1, 1.4), (4, 'chicken curry', 0, 2.3), (5, 'pancakes', 1, 0.9);
INSERT INTO menu VALUES ('2026-05-04', 'A', 2), ('2026-05-04', 'B', 3), ('2026-05-05', 'A', 4), ('2026-05-05', 'B', 1), ('2026-05-06', 'A', 5);
INSERT INTO pupils VALUES (1, 'Amir', '5a', 'none'), (2, 'Lena', '5a', 'vegetarian'), (3, 'Tobias', '5b', 'none'), (4, 'Zofia', '6a', 'vegetarian'),
    (5, 'Kenji', '6a', 'no fish');
INSERT INTO meals VALUES ('2026-05-04', 1, 2), ('2026-05-04', 2, 3), ('2026-05-04', 4, 2), ('2026-05-05', 1, 4), ('2026-05-05', 2, 1),
    ('2026-05-05', 3, 4), ('2026-05-06', 3, 5), ('2026-05-06', 4, 5);
