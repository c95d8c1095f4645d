CREATE TABLE rooms (id INTEGER PRIMARY KEY, name TEXT, label_colour TEXT);
CREATE TABLE boxes (id INTEGER PRIMARY KEY, content TEXT, room_id INTEGER, kg REAL, fragile INTEGER);
CREATE TABLE furniture (id INTEGER PRIMARY KEY, piece TEXT, room_id INTEGER, width_cm INTEGER, fate TEXT);
INSERT INTO rooms VALUES (1, 'kitchen', 'red'), (2, 'living room', 'green'), (3, 'bedroom', 'blue'), (4, 'cellar', 'white');
INSERT INTO boxes VALUES (1, 'plates and bowls', 1, 14.5, 1), (2, 'novels', 2, 21, 0), (3, 'winter clothes', 3, 9.5, 0), (4, 'glasses', 1, 8, 1), (5, 'cookbooks', 1, 17, 0),
    (6, 'records', 2, 23.5, 1), (7, 'bed linen', 3, 7, 0), (8, 'spice jars', 1, 5.5, 1);
INSERT INTO furniture VALUES (1, 'oak table', 1, 160, 'keep'), (2, 'green sofa', 2, 215, 'keep'), (3, 'bookcase', 2, 90, 'sell'), (4, 'wardrobe', 3, 150, 'give away'), (5, 'desk', 3, 120, 'keep'), (6, 'armchair', 2, 84, 'sell');
