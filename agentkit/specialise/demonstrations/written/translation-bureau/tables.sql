CREATE TABLE translators (id INTEGER PRIMARY KEY, name TEXT NOT NULL, pair TEXT NOT NULL, rate REAL NOT NULL);
CREATE TABLE jobs (id INTEGER PRIMARY KEY, client TEXT NOT NULL, title TEXT NOT NULL, pair TEXT NOT NULL, words INTEGER NOT NULL,
    translator_id INTEGER REFERENCES translators(id), due TEXT NOT NULL, state TEXT NOT NULL);
CREATE TABLE terms (en TEXT NOT NULL, lang TEXT NOT NULL, word TEXT NOT NULL);
INSERT INTO translators VALUES (1, 'Elif Kaya', 'en-de', 0.12), (2, 'Marc Dupuis', 'en-fr', 0.11), (3, 'Anne Roux', 'en-fr', 0.09),
    (4, 'Jan Sommer', 'en-de', 0.1);
INSERT INTO jobs VALUES (1, 'Harbour Museum', 'audio guide', 'en-de', 5200, 1, '2026-04-20', 'open'),
    (2, 'Harbour Museum', 'audio guide', 'en-fr', 5200, NULL, '2026-04-24', 'open'),
    (3, 'Bistro Nord', 'menu', 'en-fr', 640, NULL, '2026-04-10', 'open'), (4, 'Bistro Nord', 'menu', 'en-de', 640, 4, '2026-04-10', 'open'),
    (5, 'Kite Company', 'manual', 'en-de', 8100, 1, '2026-05-15', 'open'), (6, 'Kite Company', 'leaflet', 'en-fr', 300, 2, '2026-03-30', 'delivered');
INSERT INTO terms VALUES ('pier', 'de', 'Seebrücke'), ('bow', 'de', 'Bug'), ('anchor', 'de', 'Anker'), ('bow', 'fr', 'proue');
