CREATE TABLE players (id INTEGER PRIMARY KEY, name TEXT, shirt INTEGER, born TEXT, position TEXT);
CREATE TABLE goals (id INTEGER PRIMARY KEY, player_id INTEGER, match_day TEXT, goals INTEGER);
CREATE TABLE lifts (id INTEGER PRIMARY KEY, driver TEXT, seats INTEGER, match_day TEXT);
INSERT INTO players VALUES (1, 'Tilda', 7, '2016-03-09', 'wing'), (2, 'Oskar', 1, '2015-11-20', 'goal'), (3, 'Hana', 10, '2016-08-01', 'midfield'), (4, 'Femi', 4, '2016-01-15', 'defence'),
    (5, 'Jakub', 9, '2015-12-30', 'striker'), (6, 'Ines', 5, '2016-05-27', 'defence'), (7, 'Ruben', 11, '2016-10-12', 'wing');
INSERT INTO goals VALUES (1, 5, '2026-04-11', 2), (2, 3, '2026-04-11', 1), (3, 1, '2026-04-18', 1), (4, 3, '2026-04-18', 3), (5, 5, '2026-04-25', 1);
INSERT INTO lifts VALUES (1, 'Mrs Bello', 3, '2026-04-18'), (2, 'Mr Marek', 4, '2026-04-18'), (3, 'Coach Amara', 6, '2026-05-09');
