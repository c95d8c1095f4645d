CREATE TABLE props (id INTEGER PRIMARY KEY, name TEXT NOT NULL, place TEXT NOT NULL, condition TEXT NOT NULL, cost REAL NOT NULL);
CREATE TABLE scenes (id INTEGER PRIMARY KEY, play TEXT NOT NULL, act INTEGER NOT NULL, title TEXT NOT NULL);
CREATE TABLE needs (scene_id INTEGER NOT NULL REFERENCES scenes(id), prop_id INTEGER NOT NULL REFERENCES props(id), person TEXT NOT NULL);
INSERT INTO props VALUES (1, 'skull', 'K2', 'good', 40), (2, 'rapier', 'R1', 'good', 120), (3, 'goblet', 'K1', 'worn', 8.5),
    (4, 'lantern', 'K3', 'broken', 22), (5, 'letter', 'K1', 'good', 1), (6, 'lute', 'R2', 'worn', 95), (7, 'dog lead', 'K3', 'good', 4);
INSERT INTO scenes VALUES (1, 'Hamlet', 1, 'The watch'), (2, 'Hamlet', 5, 'The graveyard'), (3, 'Hamlet', 5, 'The duel'),
    (4, 'Twelfth Night', 1, 'Orsino''s court'), (5, 'Twelfth Night', 2, 'The garden');
INSERT INTO needs VALUES (1, 4, 'Barnardo'), (2, 1, 'gravedigger'), (3, 2, 'Laertes'), (3, 3, 'Gertrude'), (4, 6, 'musician'),
    (5, 5, 'Malvolio'), (5, 4, 'Maria');
