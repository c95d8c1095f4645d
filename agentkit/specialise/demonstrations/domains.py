"""Stocks for generated worlds: names of files, facts, and the tables of small databases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

ColumnKind = Literal["id", "name", "key", "number", "date", "word"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its name, its noun in requests, and its values."""

    name: str
    said: str
    kind: ColumnKind
    low: int = 0
    high: int = 100
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """A table, the words for its rows, and the table of its foreign key."""

    name: str
    one: str
    many: str
    columns: tuple[Column, ...]
    names: tuple[str, ...] = ()
    parent: str | None = None

    @property
    def sql(self) -> str:
        """The CREATE statement."""
        kinds = {"id": "INTEGER PRIMARY KEY", "key": "INTEGER NOT NULL", "number": "INTEGER NOT NULL"}
        columns = ", ".join(f"{c.name} {kinds.get(c.kind, 'TEXT NOT NULL')}" for c in self.columns)
        return f"CREATE TABLE {self.name} ({columns})"

    def of_kind(self, *kinds: ColumnKind) -> list[Column]:
        """Return the columns of some kinds."""
        return [column for column in self.columns if column.kind in kinds]


@dataclass(frozen=True, slots=True)
class Domain:
    """A parent table and a child table with a foreign key to it."""

    tables: tuple[Table, Table]
    belongs: str
    """Preposition between child and parent, "of" or "by"."""


PEOPLE = (
    "Elin", "Hugo", "Carla", "Femi", "Greta", "Ada", "Ravi", "Mila", "Jonas", "Priya", "Omar", "Lucy", "Tariq",
    "Nadia", "Kofi", "Ines", "Pavel", "Yara", "Stefan", "Rosa",
)  # fmt: skip
FILE_NAMES = (
    "packing", "garden", "choir", "boat", "readings", "station", "minutes", "journal", "ideas", "house-rules",
    "allotment", "workshop", "festival", "renovation", "greenhouse", "training-plan", "seating", "bike-tour",
    "aquarium", "beehives", "router", "heating", "solar", "darkroom", "reading_list", "move", "allergies",
)  # fmt: skip
FOLDERS = ("archive", "garden", "club", "logs", "letters", "2025", "private", "work", "trips", "measurements")
ITEMS = (
    "water the ferns", "call the plumber", "renew the passport", "return the books", "order seeds",
    "clean the pump",
    "book the hall", "print the programme", "charge the lamps", "pay the deposit", "sharpen the chisels",
    "feed the fish", "update the map", "send the invitations", "check the tyres", "repair the fence",
    "buy two ropes", "measure the attic", "ask Greta about the key", "pick up the parcel",
)  # fmt: skip
FACTS: Mapping[str, tuple[str, ...]] = {
    "gate code": ("4711", "0832", "9954", "2210"),
    "deadline": ("12 May", "3 October", "the last Friday in June", "1 February"),
    "contact person": ("Mila Horn", "Pavel Dvorak", "Ines Prado", "Kofi Mensah"),
    "meeting point": ("the north pier", "platform 4", "the old mill", "the school gate"),
    "budget": ("1,450 euros", "380 euros", "9,200 euros", "75 euros"),
    "departure": ("6:40", "17:15", "9:05", "21:30"),
    "phone number": ("555-0182", "555-0147", "555-0119"),
    "room": ("B12", "the small hall", "204", "the cellar"),
    "serial number": ("KX-20931", "TR-88214", "AB-10007"),
    "supplier": ("Northwind", "Baum & Co", "Solara", "Oakfield"),
    "password hint": ("first pet", "grandmother's street", "blue bicycle"),
    "next inspection": ("14 March", "30 September", "2 December"),
    "rent": ("640 euros a month", "1,120 euros a month", "415 euros a month"),
    "capacity": ("48 people", "120 people", "16 people"),
    "temperature limit": ("38 degrees", "62 degrees", "24 degrees"),
}
_TITLES = (
    "Northern Lights", "The Salt Path", "Blue Harbour", "Seven Winters", "Paper Boats", "The Glass Hill",
    "Long Shadows", "Green Fire", "River of Stone", "A Quiet Room", "Iron Garden", "The Last Ferry",
)  # fmt: skip
_CITIES = (
    "Bergen",
    "Graz",
    "Leeds",
    "Turin",
    "Ghent",
    "Tampere",
    "Porto",
    "Split",
    "Cork",
    "Lyon",
    "Riga",
    "Brno",
)
_ANIMALS = ("Balu", "Kira", "Momo", "Nala", "Pongo", "Rocky", "Tinka", "Ulla", "Zazu", "Frida", "Oskar")
_ID = Column("id", "id", "id")


def _name(said: str = "name", column: str = "name") -> Column:
    return Column(column, said, "name")


def _number(name: str, low: int, high: int, said: str = "") -> Column:
    return Column(name, said or name.replace("_", " "), "number", low, high)


def _word(name: str, *words: str, said: str = "") -> Column:
    return Column(name, said or name.replace("_", " "), "word", words=words)


def _date(name: str, said: str = "") -> Column:
    return Column(name, said or name.replace("_", " "), "date")


def _key(name: str) -> Column:
    return Column(name, name.removesuffix("_id"), "key")


DOMAINS: tuple[Domain, ...] = (
    Domain((
        Table("books", "book", "books", (_ID, _name("title", "title"), _number("year", 1950, 2024),
              _word("genre", "crime", "poetry", "history", "travel"), _number("pages", 90, 900)), _TITLES),
        Table("loans", "loan", "loans", (_ID, _key("book_id"), _word("member", *PEOPLE[:8]), _date("due")),
              parent="books"),
    ), "of"),
    Domain((
        Table("cars", "car", "cars", (_ID, _word("model", "Corsa", "Golf", "Yaris", "Clio"),
              _name("plate", "plate"), _number("mileage", 4000, 240000),
              _word("fuel", "diesel", "petrol", "electric")),
              ("KX-204", "BN-71", "TR-991", "LM-3", "QQ-80", "ZW-12", "HH-7", "GA-55", "PO-19", "VV-6")),
        Table("repairs", "repair", "repairs", (_ID, _key("car_id"), _word("part", "brakes", "clutch", "exhaust",
              "tyres"), _number("cost", 40, 1900), _date("day")), parent="cars"),
    ), "of"),
    Domain((
        Table("rooms", "room", "rooms", (_ID, _name(), _number("beds", 1, 6), _number("price", 40, 310),
              _word("view", "sea", "garden", "street")), ("Amber", "Birch", "Cobalt", "Delta", "Ember", "Garnet",
              "Indigo", "Juniper", "Maple", "Onyx")),
        Table("bookings", "booking", "bookings", (_ID, _key("room_id"), _word("guest", *PEOPLE[4:14]),
              _date("arrival"), _number("nights", 1, 15)), parent="rooms"),
    ), "of"),
    Domain((
        Table("animals", "animal", "animals", (_ID, _name(), _word("species", "lynx", "otter", "owl", "ibex",
              "seal"),              _number("age", 1, 22), _number("weight", 2, 180)), _ANIMALS),
        Table("feedings", "feeding", "feedings", (_ID, _key("animal_id"), _word("food", "fish", "hay", "mice",
              "fruit"), _number("grams", 50, 4000), _date("day")), parent="animals"),
    ), "of"),
    Domain((
        Table("films", "film", "films", (_ID, _name("title", "title"), _number("minutes", 70, 210),
              _word("language", "English", "French", "Korean", "Spanish"), _number("year", 1960, 2025)), _TITLES),
        Table("screenings", "screening", "screenings", (_ID, _key("film_id"), _word("hall", "A", "B", "Studio"),
              _date("day"), _number("visitors", 3, 260)), parent="films"),
    ), "of"),
    Domain((
        Table("sensors", "sensor", "sensors", (_ID, _name("code", "code"), _word("place", "attic", "cellar",
              "roof", "kitchen"), _number("battery", 5, 100)),
              ("S-01", "S-02", "S-03", "S-04", "S-05", "S-06", "S-07", "S-08")),
        Table("measurements", "measurement", "measurements", (_ID, _key("sensor_id"), _number("temperature", -8,
              41), _number("humidity", 15, 96), _date("day")), parent="sensors"),
    ), "of"),
    Domain((
        Table("members", "member", "members", (_ID, _name(), _word("city", *_CITIES), _number("age", 17, 84),
              _date("joined", "joining date")), PEOPLE),
        Table("payments", "payment", "payments", (_ID, _key("member_id"), _number("amount", 5, 240),
              _word("method", "card", "cash", "transfer"), _date("day")), parent="members"),
    ), "of"),
    Domain((
        Table("courses", "course", "courses", (_ID, _name("title", "title"), _word("teacher", *PEOPLE[:6]),
              _number("seats", 6, 60), _word("level", "beginner", "advanced", "expert")), ("Pottery", "Sailing",
              "Welding", "Baking", "Chess", "Yoga", "Photography", "Spanish", "Beekeeping")),
        Table("enrolments", "enrolment", "enrolments", (_ID, _key("course_id"), _word("student", *PEOPLE[6:18]),
              _number("grade", 1, 7)), parent="courses"),
    ), "in"),
    Domain((
        Table("stations", "station", "stations", (_ID, _name(), _word("line", "red", "blue", "green"),
              _number("platforms", 1, 9), _number("opened", 1901, 2020, "opening year")), _CITIES),
        Table("delays", "delay", "delays", (_ID, _key("station_id"), _number("minutes", 2, 90), _date("day"),
              _word("reason", "snow", "signal", "staff", "works")), parent="stations"),
    ), "at"),
    Domain((
        Table("plants", "plant", "plants", (_ID, _name(), _word("bed", "north", "south", "glasshouse"),
              _number("height_cm", 5, 240, "height"), _date("planted", "planting date")), ("basil", "fennel",
              "lavender", "quince", "rhubarb", "sage", "salsify", "medlar", "lovage", "chard")),
        Table("harvests", "harvest", "harvests", (_ID, _key("plant_id"), _number("kilos", 1, 60), _date("day")),
              parent="plants"),
    ), "of"),
    Domain((
        Table("teams", "team", "teams", (_ID, _name(), _word("town", *_CITIES[:7]), _number("founded", 1898, 2015,
              "founding year"), _number("points", 4, 60)), ("Harbour SC", "Mill United", "Red Star", "Kestrel FC",
              "Vale Athletic", "Westend 09", "Union Oak", "Linden Club")),
        Table("matches", "match", "matches", (_ID, _key("team_id"), _word("opponent", "Brook Rangers",
              "Ferry Town", "Hill Wanderers", "Lake City"), _number("goals", 0, 7),
              _number("conceded", 0, 6, "conceded goals"), _date("day")), parent="teams"),
    ), "of"),
    Domain((
        Table("devices", "device", "devices", (_ID, _name("label", "label"), _word("kind", "laptop", "printer",
              "scanner", "tablet"), _word("site", "head office", "depot", "shop"), _number("price", 120, 2400),
              _date("bought", "purchase date")), ("PC-12", "PC-31", "LP-07", "PR-02", "TB-19", "SC-04", "PR-09",
              "LP-22", "TB-03")),
        Table("tickets", "ticket", "tickets", (_ID, _key("device_id"), _word("problem", "battery", "screen",
              "network", "noise"), _word("status", "open", "closed", "waiting"), _number("hours", 1, 30),
              _date("reported", "report date")), parent="devices"),
    ), "of"),
    Domain((
        Table("recipes", "recipe", "recipes", (_ID, _name("title", "title"), _word("course", "starter", "main",
              "dessert"), _number("minutes", 10, 150), _number("servings", 2, 13)), ("Lentil Soup", "Plum Cake",
              "Fish Stew", "Onion Tart", "Potato Salad", "Apple Crumble", "Pea Risotto", "Nut Bread", "Leek Pie",
              "Bean Curry")),
        Table("ratings", "rating", "ratings", (_ID, _key("recipe_id"), _word("taster", *PEOPLE[2:12]),
              _number("stars", 1, 6), _date("day")), parent="recipes"),
    ), "of"),
    Domain((
        Table("bikes", "bike", "bikes", (_ID, _name(), _word("kind", "city", "mountain", "cargo", "tandem"),
              _number("gears", 3, 28), _number("day_rate", 8, 60)), ("Blitz", "Otto", "Pearl", "Rusty", "Swift",
              "Bruno", "Daisy", "Turbo", "Quickstep")),
        Table("rentals", "rental", "rentals", (_ID, _key("bike_id"), _word("rider", *PEOPLE[8:18]),
              _number("days", 1, 12), _date("start", "start date")), parent="bikes"),
    ), "of"),
    Domain((
        Table("donors", "donor", "donors", (_ID, _name(), _word("kind", "firm", "family", "foundation"),
              _word("town", *_CITIES[4:10]), _number("since", 1995, 2024, "first year")), ("Amber Trust",
              "Kellner Bakery", "Stone Foundation", "Harbour Bank", "Lindqvist Family", "Mill Brewery",
              "Rossi Garage", "Oak Pharmacy", "Vega Print", "Bell Optics")),
        Table("donations", "donation", "donations", (_ID, _key("donor_id"), _number("amount", 20, 5000),
              _word("purpose", "roof", "youth", "organ", "concert"), _date("day")), parent="donors"),
    ), "by"),
    Domain((
        Table("vineyards", "vineyard", "vineyards", (_ID, _name(), _word("slope", "south", "west", "east"),
              _number("hectares", 2, 15), _number("altitude", 120, 560)), ("Sonnberg", "Steinfeld", "Alte Burg",
              "Lerchenau", "Rosental", "Kapelle", "Goldhang", "Weidach")),
        Table("bottlings", "bottling", "bottlings", (_ID, _key("vineyard_id"), _word("grape", "Riesling", "Pinot",
              "Merlot", "Silvaner"), _number("vintage", 2015, 2025), _number("bottles", 200, 9000),
              _date("bottled", "bottling date")), parent="vineyards"),
    ), "of"),
    Domain((
        Table("clients", "client", "clients", (_ID, _name(), _word("branch", "hotel", "school", "bakery",
              "theatre"), _word("contact", *PEOPLE[3:11]), _number("hourly_rate", 35, 120)), ("Nordlicht",
              "Brightwell", "Casa Verde", "Fjord Studio", "Lumen Works", "Papyrus", "Quarry House", "Tidewater",
              "Velvet Fox")),
        Table("invoices", "invoice", "invoices", (_ID, _key("client_id"), _number("amount", 90, 6400),
              _word("status", "paid", "open", "overdue"), _date("issued", "issue date")), parent="clients"),
    ), "of"),
    Domain((
        Table("trainees", "trainee", "trainees", (_ID, _name(), _word("trade", "carpenter", "baker", "electrician",
              "gardener"), _number("year", 1, 4), _number("score", 40, 100)), PEOPLE),
        Table("absences", "absence", "absences", (_ID, _key("trainee_id"), _word("cause", "flu", "holiday", "exam",
              "move"), _number("days", 1, 11), _date("first_day")), parent="trainees"),
    ), "of"),
)  # fmt: skip
